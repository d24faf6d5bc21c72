"""The build id orders code by age: `0.1.0+<newest file's time in ns>`. The client and the daemon compute it alike; light: CLI hot path."""

from __future__ import annotations

import os

import banger

SUFFIXES = (".py", ".json")


def _newest(folder: str) -> int:
    """The newest modification time (ns) of a source, catalog or agent file below `folder`."""
    newest = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name == "__pycache__":
                continue
            if entry.is_dir(follow_symlinks=False):
                newest = max(newest, _newest(entry.path))
            elif entry.name.endswith(SUFFIXES) or folder.endswith("/agent"):
                newest = max(newest, entry.stat().st_mtime_ns)
    return newest


def build_id() -> str:
    """The id of the code that runs here."""
    return f"{banger.__version__}+{_newest(os.path.dirname(os.path.abspath(banger.__file__)))}"


def build_key(build: str) -> tuple[int, ...]:
    """What build ids are compared by: the version's numbers, then the time. ValueError if it is no build id."""
    version, _, stamp = build.partition("+")
    return (*(int(number) for number in version.split(".")), int(stamp))
