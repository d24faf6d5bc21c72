"""Every change that this process is about to make to a file system, told before it is made: which call, and of which paths.

    with told(lambda change: ...):
        ...

It stands on the interpreter's own audit events (PEP 578), so nothing has to be wrapped and nothing is missed that Python does; what other processes
do is not seen, nor are writes to files that are open. The hook cannot be taken out again: without a listener it does nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from banger.host import files

#: Where in an event's arguments its paths are, and for each the folder that it is relative to (-1: none is said).
CHANGES: dict[str, tuple[tuple[int, int], ...]] = {
    "os.mkdir": ((0, 2),),
    "os.rename": ((0, 2), (1, 3)),
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
    "os.truncate": ((0, -1),),
    "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),),
    "os.utime": ((0, 3),),
    "os.setxattr": ((0, -1),),
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
#: Nobody's business: devices, the kernel's own files, and what the interpreter keeps of modules.
ELSEWHERE = ("/dev/null", "/dev/pts/", "/dev/tty", "/proc/", "/sys/")


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A call and the absolute paths that it changes."""

    call: str
    paths: tuple[str, ...]


_listeners: list[Callable[[Change], None]] = []
_hooked: list[bool] = []


@contextmanager
def told(listener: Callable[[Change], None]) -> Iterator[None]:
    """While this is entered, `listener` is told; what it raises is raised where the change would have been made."""
    if not _hooked:
        sys.addaudithook(_hear)
        _hooked.append(True)
    exchange = files._exchange

    def exchanged(one: Path, other: Path) -> None:
        listener(Change(call="exchange", paths=(str(one), str(other))))  # by ctypes, which is no event
        exchange(one, other)

    files._exchange = exchanged
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
        files._exchange = exchange


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    if not _listeners or (event != "open" and event not in CHANGES):
        return
    change = _change(event, arguments)
    if change is not None:
        for listener in tuple(_listeners):
            listener(change)


def _change(event: str, arguments: tuple[object, ...]) -> Change | None:
    if event == "open":
        flags = arguments[2]
        if not isinstance(flags, int) or not flags & WRITING:
            return None
        paths = [_whole(arguments[0], -1)]
    else:
        paths = [_whole(arguments[at], arguments[folder] if folder != -1 else -1) for at, folder in CHANGES[event]]
    known = tuple(path for path in paths if path and not path.startswith(ELSEWHERE) and "__pycache__" not in path)
    return Change(call=event, paths=known) if known else None


def _whole(path: object, folder: object) -> str:
    """The path from the root on; empty for an open file that has none."""
    if isinstance(path, int):
        return _behind(path)
    if not isinstance(path, (str, bytes, os.PathLike)):
        return ""
    text = os.fsdecode(path)
    start = _behind(folder) if isinstance(folder, int) and folder >= 0 and not text.startswith("/") else ""
    return os.path.normpath(os.path.join(start or os.getcwd(), text))


def _behind(descriptor: int) -> str:
    try:
        found = os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return ""
    return found if found.startswith("/") and not found.endswith(" (deleted)") and "/#" not in found else ""
