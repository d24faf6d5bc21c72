"""Opening files of somebody who may not be trusted: step by step from the root, following no link, and then by descriptor only.

So a name that is changed between looking and using changes nothing: what was looked at is what is used. The path handed on is the descriptor's own
in /proc; it is good as long as the descriptor is open. Owns the descriptors until its block ends.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from banger.host.loop import PINNED
from banger.model.errors import BadRequest, NotFound
from banger.model.rules import Owner, shown


@contextmanager
def pinned(path: Path, owner: Owner) -> Iterator[Path]:
    """A regular file of the owner's, by a path that cannot come to mean another; BadRequest when it is something else, NotFound when it is missing."""
    descriptor = _walk(path)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BadRequest(f"{shown(str(path))} is no regular file")
        if status.st_uid != owner.uid:
            raise BadRequest(f"{shown(str(path))} is not the user's")
        yield PINNED / str(descriptor)
    finally:
        os.close(descriptor)


def _walk(path: Path) -> int:
    """A descriptor (O_PATH) of what is there; every folder on the way and the file itself are opened without following a link."""
    here = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    *folders, name = path.parts[1:]
    for part, kind in [*((folder, os.O_DIRECTORY) for folder in folders), (name, 0)]:
        try:
            there = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC | kind, dir_fd=here)
        except FileNotFoundError:
            raise NotFound(f"{shown(str(path))} is missing") from None
        except OSError as error:
            raise BadRequest(f"{shown(str(path))} cannot be reached without following a link: {error.strerror}") from error
        finally:
            os.close(here)
        here = there
    return here
