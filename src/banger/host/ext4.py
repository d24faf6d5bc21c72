"""ext4 file systems in sparse files, made by mkfs.ext4 without mounting anything. The file is the caller's; a half-made one is removed here."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from banger.host.files import explain
from banger.host.proc import Proc
from banger.model.errors import BangerError, Corrupt, NoSpace, ToolFailed

#: mkfs.ext4 writes what it is given; a whole root file system takes it seconds, on slow disks a minute.
TIMEOUT = 600.0
#: Where the superblock is, and how long.
SUPERBLOCK = 1024
#: What mke2fs prints when the host's file system is full, and when the new one is too small for its content.
FULL = ("No space left on device", "Could not allocate")


class Ext4(Protocol):
    """What banger does with ext4."""

    async def make_blank(self, path: Path, size: int) -> None:
        """An empty one of `size` bytes that takes next to nothing on disk: its tables are left for the guest's kernel to fill in.

        `path` must not exist. NoSpace when the host's file system is full.
        """

    async def make_root(self, path: Path, size: int, *, folder: Path, label: str, prefix: Sequence[str] = ()) -> None:
        """One of `size` bytes with the content of `folder`, made to be shared read-only or cloned and written: nothing reserved.

        `prefix` begins the command (see host/unshare.py), so that owners are those which the mapped root sees. `path` must not exist.
        """

    def has_journal(self, path: Path) -> bool:
        """Whether what is written to it outlives a power cut whole; Corrupt when it is no ext4 at all."""


class RealExt4:
    """By mkfs.ext4 of e2fsprogs."""

    def __init__(self, proc: Proc) -> None:
        self.proc = proc

    async def make_blank(self, path: Path, size: int) -> None:
        """See Ext4."""
        await self._make(path, size, blank_command(path))

    async def make_root(self, path: Path, size: int, *, folder: Path, label: str, prefix: Sequence[str] = ()) -> None:
        """See Ext4."""
        await self._make(path, size, [*prefix, *root_command(path, folder, label)])

    def has_journal(self, path: Path) -> bool:
        """See Ext4."""
        return has_journal(path)

    async def _make(self, path: Path, size: int, command: list[str]) -> None:
        whole = False
        try:
            with path.open("xb") as file:
                file.truncate(size)
            await self.proc.run(command, timeout=TIMEOUT)
            whole = True
        except FileExistsError:
            whole = True
            raise
        except OSError as error:
            raise explain(error, path) from error
        except ToolFailed as error:
            raise told(error, path) from error
        finally:
            if not whole:
                path.unlink(missing_ok=True)


def has_journal(path: Path) -> bool:
    """See Ext4; read from the superblock (linux/Documentation/filesystems/ext4/super.rst)."""
    with path.open("rb") as file:
        file.seek(SUPERBLOCK)
        superblock = file.read(SUPERBLOCK)
    if superblock[0x38:0x3A] != b"\x53\xef":
        raise Corrupt(f"{path} is no ext4 file system")
    return bool(superblock[0x5C] & 4)


def blank_command(path: Path) -> list[str]:
    """lazy: inode tables and journal are zeroed by the guest in the background, and a sparse file's zeros are right from the start."""
    return ["mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", str(path)]


def root_command(path: Path, folder: Path, label: str) -> list[str]:
    """UUID and hash seed come from the label, so that the same content gives (times apart) the same file."""
    seed = str(uuid.uuid5(uuid.NAMESPACE_OID, f"banger {label}"))
    extended = f"root_owner=0:0,hash_seed={seed},lazy_itable_init=1,lazy_journal_init=1,nodiscard"
    return [
        "mkfs.ext4",
        *("-q", "-F"),
        *("-L", label[:16]),
        *("-U", seed),
        *("-m", "0"),
        *("-b", "4096"),
        *("-i", "8192"),
        *("-O", "^resize_inode"),
        *("-E", extended),
        *("-d", str(folder)),
        str(path),
    ]


def told(error: ToolFailed, path: Path) -> BangerError:
    """A full file system as NoSpace, any other failure as it is."""
    said = [*error.tail, error.message]
    if any(mark in line for mark in FULL for line in said):
        return NoSpace(f"no space left for {path}: {said[0]}", hint="free some space, or give the image a larger size_mib")
    return error


#: Named one by one, so that the same content gives the same file whatever the host's mke2fs.conf says, and every kernel that is still kept can read it.
FEATURES = (
    *("none", "has_journal", "ext_attr", "dir_index", "filetype", "extent", "64bit", "flex_bg", "sparse_super"),
    *("large_file", "huge_file", "dir_nlink", "extra_isize", "metadata_csum"),
)


#: For mke2fs and libext2fs: what time it is.
FAKE_TIME = {"E2FSPROGS_FAKE_TIME": "1"}


def empty_command(path: Path, label: str, *, inodes: int, journal_mib: int) -> list[str]:
    """One to be filled by host/rootfs/ext2fs.py. UUID and hash seed come from the label, as in `root_command`; its times are FAKE_TIME."""
    seed = str(uuid.uuid5(uuid.NAMESPACE_OID, f"banger {label}"))
    extended = f"root_owner=0:0,hash_seed={seed},lazy_itable_init=1,lazy_journal_init=1,nodiscard"
    return [
        "mkfs.ext4",
        *("-q", "-F"),
        *("-L", label[:16]),
        *("-U", seed),
        *("-m", "0"),
        *("-b", "4096"),
        *("-I", "256"),
        *("-N", str(inodes)),
        *("-J", f"size={journal_mib}"),
        *("-O", ",".join(FEATURES)),
        *("-E", extended),
        str(path),
    ]
