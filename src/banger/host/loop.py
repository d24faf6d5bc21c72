"""Loop devices: block devices over files, for what takes no file (loop(4), linux/loop.h). For root only.

A device made here clears itself with its last opener, so one whose maker dies before anybody else has opened it leaves nothing; there is no verb to
remove one. Found again by the name that its maker gave it, which anybody may read beside the file's path.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from banger.model.errors import HostLacks

CONTROL = Path("/dev/loop-control")
SYSFS = Path("/sys/block")
GET_FREE, CONFIGURE, GET_STATUS = 0x4C82, 0x4C0A, 0x4C05
READ_ONLY, AUTOCLEAR = 1, 4
#: struct loop_info64: device, inode, rdevice, offset, sizelimit; number, encryption (2), flags; file name, crypt name, key; init.
INFO = struct.Struct("=5Q4I64s64s32s2Q")
#: struct loop_config: fd, block size, the info, reserved.
CONFIG = struct.Struct(f"=2I{INFO.size}s8Q")
SECTOR = 512
PINNED = Path("/proc/self/fd")
#: How often another process may take the free device that we were told of.
TRIES = 64


def trouble() -> str:
    """Why there can be no loop device here; empty when there can."""
    if not CONTROL.exists():
        return f"{CONTROL} is missing: the kernel has no loop devices (module loop)"
    return "" if os.access(CONTROL, os.R_OK | os.W_OK) else f"{CONTROL} is not accessible to this user"


@contextmanager
def attached(path: Path, *, name: str, read_only: bool = False) -> Iterator[tuple[int, int]]:
    """A loop device over a file, as (major, minor). It stays as long as someone has it open, at least until the end of this context.

    `name` is at most 63 bytes. HostLacks when the kernel has no loop devices; any other failure is an OSError.
    """
    # A path below PINNED is a descriptor of ours, which the kernel shows as a link.
    file = os.open(path, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC | (0 if path.parent == PINNED else os.O_NOFOLLOW))
    try:
        device = _free(file, name, (READ_ONLY if read_only else 0) | AUTOCLEAR)
    finally:
        os.close(file)
    try:
        node = os.fstat(device).st_rdev
        yield os.major(node), os.minor(node)
    finally:
        os.close(device)


def _free(file: int, name: str, flags: int) -> int:
    """The descriptor of a device that was free and is now over `file`."""
    config = CONFIG.pack(file, SECTOR, INFO.pack(*[0] * 8, flags, name.encode(), b"", b"", 0, 0), *[0] * 8)
    for _ in range(TRIES):
        device = os.open(f"/dev/loop{_number()}", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(device, CONFIGURE, config)
        except OSError as error:
            os.close(device)
            if error.errno != errno.EBUSY:
                raise
        else:
            return device
    raise HostLacks("every free loop device is taken by another process at once", hint="try again")


def _number() -> int:
    try:
        control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise HostLacks(trouble() or f"{CONTROL}: {error}", hint="as root: modprobe loop") from error
    try:
        return fcntl.ioctl(control, GET_FREE)
    finally:
        os.close(control)


def names() -> dict[str, Path]:
    """The names of all loop devices that are in use, and the files below them."""
    found = {}
    for folder in SYSFS.glob("loop*/loop"):
        try:
            path = (folder / "backing_file").read_text().rstrip("\n")
            found[_name(folder.parent.name)] = Path(path)
        except OSError:  # it went while we looked
            continue
    return found


def _name(device: str) -> str:
    descriptor = os.open(f"/dev/{device}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        info = bytearray(INFO.size)
        fcntl.ioctl(descriptor, GET_STATUS, info)
    finally:
        os.close(descriptor)
    name: bytes = INFO.unpack(bytes(info))[9]
    return name.partition(b"\0")[0].decode("utf-8", "replace")
