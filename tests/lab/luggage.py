"""What changes with each edit, taken into the lab machine as one tar over the agent's channel: the checkout's code, compiled, and its tests.

Python compiles a file when its compiled form is not of the same second and size; the tar keeps both, so nothing is compiled in the slow machine.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.world import ROOT

#: Beside the code itself.
TAKEN = ("tests", "bench", "pyproject.toml")


def packed(source: Path) -> bytes:
    """A tar of a checkout whose code (the package's folder) is below `source`."""
    subprocess.run([sys.executable, "-m", "compileall", "-q", source, ROOT / "tests", ROOT / "bench"], check=True, timeout=120)
    found = io.BytesIO()
    with tarfile.open(fileobj=found, mode="w:gz", compresslevel=1) as archive:
        archive.add(source / "banger", "src/banger", filter=_plain)
        for name in TAKEN:
            archive.add(ROOT / name, name, filter=_plain)
    return found.getvalue()


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Whole seconds, as a compiled file has them; nobody's own."""
    entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = int(entry.mtime), 0, 0, "root", "root"
    foreign = "__pycache__" in entry.name and entry.name.endswith(".pyc") and "-pytest" in entry.name
    return None if foreign else entry
