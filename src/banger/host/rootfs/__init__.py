"""Root file systems out of an image's layers, by a process of their own (host/rootfs/write.py): neither the daemon's loop nor its memory takes part.

No privilege is needed, nothing is mounted, and nothing of a layer ever becomes a file of the host's: names, owners, devices and links exist only
inside the one file that is written. That file is the caller's; a half-made one is removed here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from banger.host.proc import Proc
from banger.model.config import Settings
from banger.model.errors import BangerError, Corrupt, every_error
from banger.model.event import report
from banger.model.sizes import parse_size

#: Inflating and writing 64 GiB on a slow disk.
TIMEOUT = 4 * 3600.0
WORKER = "banger.host.rootfs.write"


class Layer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One layer, lowest first. `path` is the blob as it was fetched: a tar, plain or packed by gzip or zstd, which its first bytes tell.

    `diff_id` is the digest of the tar itself (`rootfs.diff_ids` of the image's config); it is verified before there is a root file system.
    `memory` is the file that remembers the layer's entries for the next image with it (host/rootfs/memory.py); empty: none does.
    In a `plain` one names mean what they are: a file may be called as a whiteout is, and takes nothing away.
    """

    path: str
    diff_id: str
    memory: str = ""
    plain: bool = False


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an image may be at most: all its layers unpacked (bytes), its entries, how deep and long (bytes) a path, an entry's attributes (bytes)."""

    size: int = 64 << 30
    entries: int = 1_000_000
    depth: int = 128
    path: int = 4096
    xattrs: int = 4000


def limits_of(settings: Settings) -> Limits:
    """As the user has set them."""
    return Limits(
        size=parse_size(settings.image_limit),
        entries=settings.image_entries_limit,
        depth=settings.image_depth_limit,
        path=settings.image_path_limit,
        xattrs=settings.image_xattrs_limit,
    )


class Written(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was written: the file system's size, what its files hold (bytes), how many names it has; and which of the paths asked for are there."""

    size: int
    content: int
    entries: int
    found: tuple[str, ...] = ()


class Job(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the process is given, as JSON on its stdin."""

    path: str
    layers: tuple[Layer, ...]
    size: int
    limits: Limits
    label: str
    look: tuple[str, ...]


class Outcome(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What it answers, as JSON on its stdout: what it wrote, or an error's code, message and hint."""

    written: Written | None = None
    code: str = ""
    message: str = ""
    hint: str = ""


class RootFs(Protocol):
    """What banger does with layers."""

    async def write(
        self, path: Path, layers: Sequence[Layer], *, label: str, size: int = 0, limits: Limits | None = None, look: Sequence[str] = ()
    ) -> Written:
        """Make `path`, which must not exist, an ext4 file system with what the layers amount to; progress is reported as events.

        The same layers, label and size give the same bytes. `size` 0 is what the content needs with some head-room, else exactly that many bytes.
        `look` are paths from the root, symbolic links followed inside of it; those that lead to something come back as `found`.
        Corrupt names the entry that is wrong, that leads outside, or with which a limit is passed, or the layer that is not its `diff_id`;
        BadRequest when the content does not fit in `size`, NoSpace when the host's file system is full, HostLacks without e2fsprogs. Whatever
        goes wrong, `path` is not there afterwards.
        """


class RealRootFs:
    """By a Python of its own, which does all of it and is killed when the caller no longer waits."""

    def __init__(self, proc: Proc) -> None:
        self.proc = proc

    async def write(
        self, path: Path, layers: Sequence[Layer], *, label: str, size: int = 0, limits: Limits | None = None, look: Sequence[str] = ()
    ) -> Written:
        """See RootFs."""
        job = Job(path=str(path), layers=tuple(layers), size=size, limits=limits or Limits(), label=label, look=tuple(look))
        if path.exists():
            raise FileExistsError(str(path))
        whole = False
        try:
            command = [sys.executable, "-P", "-m", WORKER]  # as the daemon itself is started: from wherever this Python finds banger
            said = await self.proc.run(command, timeout=TIMEOUT, data=msgspec.json.encode(job), on_line=heard)
            written = outcome(said)
            whole = True
        finally:
            if not whole:
                path.unlink(missing_ok=True)
        return written


def heard(line: str) -> None:
    """A line of progress, `DONE TOTAL WHAT` (bytes), becomes an event; anything else is only kept for the error's text."""
    words = line.split(" ", 2)
    if len(words) == 3 and words[0].isdecimal() and words[1].isdecimal():
        report(words[2], done=int(words[0]), total=int(words[1]), unit="bytes")


def outcome(said: bytes) -> Written:
    """What the process wrote, or the error that it met."""
    try:
        answer = msgspec.json.decode(said, type=Outcome)
    except msgspec.DecodeError as error:
        raise Corrupt(f"the process that writes root file systems said what it should not: {error}") from error
    if answer.written is None:
        raise every_error().get(answer.code, BangerError)(answer.message, hint=answer.hint)
    return answer.written
