"""`banger` as a command, for the tests of this folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SECONDS = 30


class Banger:
    """`banger` as a command, against the fake daemon."""

    def __init__(self, runtime: Path) -> None:
        keep = {key: value for key, value in os.environ.items() if not key.startswith(("BANGER_", "XDG_"))}
        self.environ = keep | {"XDG_RUNTIME_DIR": str(runtime), "XDG_STATE_HOME": str(runtime / "state"), "HOME": str(runtime), "TERM": "xterm"}
        self.command = [sys.executable, "-m", "banger"]

    def __call__(self, *words: str, stdin: bytes = b"", cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([*self.command, *words], env=self.environ, input=stdin, capture_output=True, timeout=SECONDS, check=False, cwd=cwd)

    def begin(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*self.command, *words], env=self.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def calls(self) -> list[str]:
        """What the fake daemon was asked to do so far."""
        return self("vm", "show", "calls").stdout.decode().rpartition("note")[2].split()
