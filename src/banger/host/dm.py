"""device-mapper: a writable block device over a file that is only read, and what was written to it in a file of its own (dm-snapshot), for root only.

A mapped disk called NAME is two maps: `NAME-base`, the base file with zeros behind it up to the size that was asked for, read-only; and over it
`NAME`, a persistent snapshot. The files below them are loop devices that clear themselves with their map, so two maps are all that there is to
remove, and all that a death in the middle can leave. What was written is in the other file, in the kernel's own format, and outlives maps and boots.

The device node is one of our own, `/dev/banger/NAME`, for its owner alone: udev's nodes come late and are not made everywhere. udev is told to leave
the maps alone, since what is in them is a guest's: no program of the host's should look into it.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import msgspec

from banger.host import loop
from banger.model.errors import Busy, Corrupt, HostLacks

CONTROL = Path("/dev/mapper/control")
NODES = Path("/dev/banger")
PREFIX = "banger-"
#: "SnAp".
SNAPSHOT_MAGIC = 0x70416E53
SECTOR = 512
#: How much the kernel copies at the first write to a place, in sectors: ext4's blocks, so that nothing is copied that is not written.
CHUNK = 8
#: What a map may be held open by strangers (udev, a person's blkid) before its removal fails, in seconds.
PATIENCE, PAUSE = 5.0, 0.02
#: linux/dm-ioctl.h: commands and flags.
REMOVE, CREATE, SUSPEND, STATUS, LOAD, LIST = 4, 3, 6, 7, 9, 2
READ_ONLY, ACTIVE = 1 << 0, 1 << 5
#: struct dm_ioctl: version (3), size, data's start, targets, openers, flags, event, padding; device, name, uuid, data.
HEADER = struct.Struct("=3I2I I i 3I Q 128s 129s 7s")
#: struct dm_target_spec: start, length, status, next, type; the parameters follow.
TARGET = struct.Struct("=QQiI16s")
#: Size of the answer to LIST: some hundred maps; a host with more is told apart.
ANSWER = 1 << 18
#: libdevmapper.h: what the upper half of a cookie says to udev's rules: no rules of subsystems, disks or others; and: this is the event that counts.
LEAVE_ALONE = (0x02 | 0x04 | 0x08 | 0x40) << 16

Target = tuple[int, int, str, str]
"""Start and length in sectors, type, parameters."""


class Mapping(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mapped disk: `name` begins with `banger-`; `base` is read, `cow` takes what is written; `size` in bytes, a multiple of 4096."""

    name: str
    base: str
    cow: str
    size: int


class Dm(Protocol):
    """Mapped disks. All arguments are plain, so that another process can do it for us."""

    async def trouble(self) -> str:
        """Why no disk can be mapped here, in one line; empty when it can."""

    async def make(self, mapping: Mapping) -> None:
        """Map it unless it is; HostLacks without device-mapper, Corrupt when the kernel has given up what was written."""

    async def remove(self, name: str) -> None:
        """Take its maps and its node away, whatever there is of them; missing is success. Busy when someone keeps it open. The files stay."""

    async def names(self) -> list[str]:
        """The maps of banger's that there are, whole or half."""


def given_up(cow: Path) -> bool:
    """Whether the kernel has given up what was written to `cow`: it says so in the file itself, so nobody needs privilege to see it. See `revived`.

    No when there is no such file: a machine may be deleted while somebody looks at it.
    """
    try:
        with cow.open("rb") as file:
            magic, valid = struct.unpack("<2I", file.read(8).ljust(8, b"\0"))
    except FileNotFoundError:
        return False
    return bool(magic == SNAPSHOT_MAGIC and not valid)


def revived(cow: Path) -> bool:
    """Take back that the kernel gave up what was written, which it does when a write to `cow` fails (a full disk); whether it had.

    The failed write was told to whoever wrote, and what had been kept before is kept: after this the disk is as after a power cut. The head is four
    little-endian numbers: magic, valid, version, chunk size (linux/drivers/md/dm-snap-persistent.c).
    """
    if not given_up(cow):
        return False
    with cow.open("r+b") as file:
        file.seek(4)
        file.write(struct.pack("<I", 1))
        file.flush()
        os.fsync(file.fileno())
    return True


def node(name: str) -> Path:
    """The device that a VMM opens."""
    return NODES / name


def base_table(sectors: int, size: int, device: tuple[int, int]) -> list[Target]:
    """The base as it is (`sectors` long, on a device), and zeros behind it up to `size` sectors."""
    major, minor = device
    targets = [(0, min(sectors, size), "linear", f"{major}:{minor} 0")]
    if size > sectors:
        targets.append((sectors, size - sectors, "zero", ""))
    return targets


def snapshot_table(size: int, base: tuple[int, int], cow: tuple[int, int]) -> list[Target]:
    """What is written goes to `cow`, and is found there again (P: persistent)."""
    return [(0, size, "snapshot", f"{base[0]}:{base[1]} {cow[0]}:{cow[1]} P {CHUNK}")]


def encode_table(targets: Sequence[Target]) -> bytes:
    """As the kernel takes it: each target's `next` is the way to the one after it, in steps of 8 bytes."""
    data = b""
    for start, length, kind, parameters in targets:
        text = parameters.encode() + b"\0"
        text += bytes(-(TARGET.size + len(text)) % 8)
        data += TARGET.pack(start, length, 0, TARGET.size + len(text), kind.encode()) + text
    return data


def request(name: str, *, flags: int = 0, targets: int = 0, data: bytes = b"", event: int = 0, room: int = 0) -> bytearray:
    """One call's argument, with room for its answer."""
    size = HEADER.size + max(len(data), room)
    head = HEADER.pack(4, 0, 0, size, HEADER.size, targets, 0, flags, event, 0, 0, name.encode(), b"", b"")
    return bytearray((head + data).ljust(size, b"\0"))


class RealDm:
    """The kernel's, by its ioctls. Nodes belong to `owner`."""

    def __init__(self, owner: int) -> None:
        self.owner = owner
        #: One at a time: a removal must not overtake a making whose caller has gone.
        self.lock = threading.Lock()

    async def trouble(self) -> str:
        """See Dm."""
        return self._trouble()

    def _trouble(self) -> str:
        if not CONTROL.exists():
            return f"{CONTROL} is missing: the kernel has no device-mapper (module dm_mod)"
        return loop.trouble() if os.access(CONTROL, os.R_OK | os.W_OK) else f"{CONTROL} is for root only"

    async def make(self, mapping: Mapping) -> None:
        """See Dm."""
        await asyncio.to_thread(self._make, mapping)

    async def remove(self, name: str) -> None:
        """See Dm."""
        await asyncio.to_thread(self._remove, name)

    async def names(self) -> list[str]:
        """See Dm."""
        return await asyncio.to_thread(self._names)

    def _make(self, mapping: Mapping) -> None:
        with self.lock:
            name = mapping.name
            try:
                flags, device = self._look(name)
                if not flags & ACTIVE:
                    self._unmap(name)
                    device = self._build(mapping)
                self._put_node(name, device)
            except OSError as error:
                raise HostLacks(f"the disk {name} cannot be mapped: {error}", hint="the kernel's log may say why: dmesg") from error

    def _build(self, mapping: Mapping) -> int:
        """Both maps; what fails takes them away again. The loop devices are ours until the maps hold them."""
        size = mapping.size // SECTOR
        with ExitStack() as held:
            try:
                base = held.enter_context(loop.attached(Path(mapping.base), name=f"{mapping.name}-base", read_only=True))
                cow = held.enter_context(loop.attached(Path(mapping.cow), name=f"{mapping.name}-cow"))
                sectors = Path(mapping.base).stat().st_size // SECTOR
                below = self._map(f"{mapping.name}-base", base_table(sectors, size, base), READ_ONLY)
                return self._map(mapping.name, snapshot_table(size, (os.major(below), os.minor(below)), cow), 0)
            except BaseException:
                self._unmap(mapping.name)
                raise

    def _map(self, name: str, targets: Sequence[Target], flags: int) -> int:
        """A map that works; its device."""
        self._call(CREATE, request(name, flags=flags))
        try:
            self._call(LOAD, request(name, flags=flags, targets=len(targets), data=encode_table(targets)))
        except OSError as error:
            raise Corrupt(f"the kernel does not map {name}: {error.strerror}", hint="its log says why: dmesg | grep device-mapper") from error
        self._call(SUSPEND, request(name, event=LEAVE_ALONE))  # without the flag to suspend it resumes, with the table that was loaded
        return self._look(name)[1]

    def _put_node(self, name: str, device: int) -> None:
        NODES.mkdir(exist_ok=True)
        NODES.chmod(0o755)  # whatever our umask is
        fresh = NODES / f".{name}.new"
        fresh.unlink(missing_ok=True)
        os.mknod(fresh, 0o060600, device)
        os.chown(fresh, self.owner, -1)
        fresh.replace(node(name))

    def _remove(self, name: str) -> None:
        with self.lock:
            node(name).unlink(missing_ok=True)
            (NODES / f".{name}.new").unlink(missing_ok=True)
            if CONTROL.exists():
                self._unmap(name)

    def _unmap(self, name: str) -> None:
        """The upper first; someone who only looks at a map lets go of it soon."""
        deadline = time.monotonic() + PATIENCE
        for each in (name, f"{name}-base"):
            while not self._gone(each):
                if time.monotonic() > deadline:
                    raise Busy(f"the mapped disk {each} is kept open by someone", hint="as root, fuser -v /dev/dm-* says who; then try again")
                time.sleep(PAUSE)

    def _gone(self, name: str) -> bool:
        try:
            self._call(REMOVE, request(name, event=LEAVE_ALONE))
        except OSError as error:
            if error.errno == errno.EBUSY:
                return False
            if error.errno != errno.ENXIO:
                raise
        return True

    def _look(self, name: str) -> tuple[int, int]:
        """A map's flags and device; no flags when there is none."""
        argument = request(name)
        try:
            self._call(STATUS, argument)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return 0, 0
            raise
        found = HEADER.unpack_from(argument)
        return int(found[7]), int(found[10])

    def _names(self) -> list[str]:
        if self._trouble():
            return []
        argument = request("", room=ANSWER)
        self._call(LIST, argument)
        return sorted(name for name in parse_names(bytes(argument)) if name.startswith(PREFIX))

    def _call(self, command: int, argument: bytearray) -> None:
        code = 3 << 30 | HEADER.size << 16 | 0xFD << 8 | command
        try:
            control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise HostLacks(self._trouble() or f"{CONTROL}: {error}", hint="run as root, or choose another --disk") from error
        try:
            fcntl.ioctl(control, code, argument)
        finally:
            os.close(control)


def parse_names(answer: bytes) -> list[str]:
    """The names in the answer to LIST: each entry has its device (8 bytes), the way to the next one (4), and its name."""
    at, found = int(HEADER.unpack_from(answer)[4]), []
    while at + 12 <= len(answer):
        device, further = struct.unpack_from("=QI", answer, at)
        if device:
            found.append(answer[at + 12 : answer.index(b"\0", at + 12)].decode("utf-8", "replace"))
        if not further:
            break
        at += further
    return found
