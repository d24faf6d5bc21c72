"""libext2fs: writes into an ext4 file system in a file, without mounting it and without privilege. Part of every e2fsprogs, loaded when it is needed.

What the library knows stays its matter: bitmaps, group descriptors, checksums, attributes, deep extent trees. Blocks are handed out in long runs, and
whoever asked for them writes what they hold. One thread may use a Volume. Until `close` the file is no file system yet.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Sequence
from pathlib import Path

from banger.model.errors import BangerError, Corrupt, HostLacks, NoSpace, ToolFailed

LIBRARY, MESSAGES = "libext2fs.so.2", "libcom_err.so.2"
BLOCK = 4096
INODE_SIZE = 256
#: ext2fs/ext2fs.h: open for writing, and with bitmaps for 64-bit block numbers.
RW, BITS64 = 0x1, 0x20000
#: ext2fs/ext2fs.h: an extent is put in after the present one.
AFTER = 0x1
#: The library's own errors begin here (ext2_err.et); smaller numbers are errno's.
OWN = 1 << 16

Handle, Number, Count = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64


class Extent(ctypes.Structure):
    """struct ext2fs_extent."""

    _fields_ = (("physical", Count), ("logical", Count), ("length", ctypes.c_uint32), ("flags", ctypes.c_uint32))


#: Of ext2fs/ext2fs.h: name and arguments; all give an errcode_t but for those without a result.
SIGNATURES: tuple[tuple[str, tuple[object, ...]], ...] = (
    ("ext2fs_open", (ctypes.c_char_p, ctypes.c_int, ctypes.c_int, ctypes.c_uint, Handle, ctypes.POINTER(Handle))),
    ("ext2fs_read_bitmaps", (Handle,)),
    ("ext2fs_new_range", (Handle, ctypes.c_int, Count, Count, Handle, ctypes.POINTER(Count), ctypes.POINTER(Count))),
    ("ext2fs_block_alloc_stats_range", (Handle, Count, Count, ctypes.c_int)),
    ("ext2fs_inode_alloc_stats2", (Handle, Number, ctypes.c_int, ctypes.c_int)),
    ("ext2fs_read_inode_full", (Handle, Number, ctypes.c_char_p, ctypes.c_int)),
    ("ext2fs_write_inode_full", (Handle, Number, ctypes.c_char_p, ctypes.c_int)),
    ("ext2fs_write_dir_block4", (Handle, Count, ctypes.c_char_p, ctypes.c_int, Number)),
    ("ext2fs_xattrs_open", (Handle, Number, ctypes.POINTER(Handle))),
    ("ext2fs_xattrs_read", (Handle,)),
    ("ext2fs_xattr_set", (Handle, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)),
    ("ext2fs_xattrs_close", (ctypes.POINTER(Handle),)),
    ("ext2fs_extent_open", (Handle, Number, ctypes.POINTER(Handle))),
    ("ext2fs_extent_insert", (Handle, ctypes.c_int, ctypes.POINTER(Extent))),
    ("ext2fs_extent_fix_parents", (Handle,)),
    ("ext2fs_extent_free", (Handle,)),
    ("ext2fs_close_free", (ctypes.POINTER(Handle),)),
)
SILENT = ("ext2fs_block_alloc_stats_range", "ext2fs_inode_alloc_stats2", "ext2fs_extent_free")


def load() -> ctypes.CDLL:
    """The library, its functions declared; HostLacks without it."""
    try:
        library = ctypes.CDLL(LIBRARY)
        for name, arguments in SIGNATURES:
            function = getattr(library, name)
            function.restype = None if name in SILENT else ctypes.c_long
            function.argtypes = arguments
        library.initialize_ext2_error_table.restype = None
        library.initialize_ext2_error_table()
    except (OSError, AttributeError) as error:
        raise HostLacks(f"{LIBRARY} of e2fsprogs cannot be used: {error}", hint="install the package e2fsprogs, 1.45 or newer") from error
    return library


class Volume:
    """An ext4 file system with blocks of 4 KiB and inodes of 256 bytes that nobody else uses."""

    def __init__(self, path: Path) -> None:
        self.path, self.library = path, load()
        self.handle = Handle()
        manager = Handle.in_dll(self.library, "unix_io_manager")
        self._do(self.library.ext2fs_open(os.fsencode(path), RW | BITS64, 0, 0, manager, ctypes.byref(self.handle)), "open")
        self._do(self.library.ext2fs_read_bitmaps(self.handle), "read the bitmaps of")

    def take(self, count: int) -> list[tuple[int, int]]:
        """`count` free blocks, from now on in use: (first, length) of each run, in order."""
        runs: list[tuple[int, int]] = []
        first, length = Count(), Count()
        goal = 0
        while count:
            failed = self.library.ext2fs_new_range(self.handle, 0, goal, count, None, ctypes.byref(first), ctypes.byref(length))
            self._do(failed, "find free blocks in")
            self.library.ext2fs_block_alloc_stats_range(self.handle, first, length, 1)
            runs.append((first.value, length.value))
            count -= length.value
            goal = first.value + length.value
        return runs

    def give(self, first: int, count: int) -> None:
        """Blocks that are free again."""
        self.library.ext2fs_block_alloc_stats_range(self.handle, first, count, -1)

    def inode(self, number: int) -> bytes:
        """An inode as it is, 256 bytes."""
        body = ctypes.create_string_buffer(INODE_SIZE)
        self._do(self.library.ext2fs_read_inode_full(self.handle, number, body, INODE_SIZE), "read an inode of")
        return body.raw

    def claim(self, number: int, *, folder: bool) -> None:
        """An inode that is in use from now on."""
        self.library.ext2fs_inode_alloc_stats2(self.handle, number, 1, folder)

    def write_inode(self, number: int, body: bytes) -> None:
        """An inode's 256 bytes but for its checksum."""
        self._do(self.library.ext2fs_write_inode_full(self.handle, number, body, INODE_SIZE), "write an inode of")

    def write_folder_block(self, block: int, data: bytes, number: int) -> None:
        """A block of a folder's, whose last entry stands for the checksum; `number` is the folder's inode."""
        self._do(self.library.ext2fs_write_dir_block4(self.handle, block, data, 0, number), "write a folder of")

    def write_xattrs(self, number: int, pairs: Sequence[tuple[bytes, bytes]], what: str) -> None:
        """An inode's extended attributes, by their full names; Corrupt says that `what` has some that ext4 cannot hold."""
        handle = Handle()
        self._do(self.library.ext2fs_xattrs_open(self.handle, number, ctypes.byref(handle)), "open the attributes of")
        try:
            self._do(self.library.ext2fs_xattrs_read(handle), "read the attributes of")
            for name, value in pairs:
                failed = self.library.ext2fs_xattr_set(handle, name, value, len(value))
                if failed and not self._full(failed):
                    raise Corrupt(f"{what} has the attribute {name.decode('utf-8', 'backslashreplace')}, which ext4 cannot hold: {self._said(failed)}")
                self._do(failed, "write the attributes of")
        finally:
            self.library.ext2fs_xattrs_close(ctypes.byref(handle))

    def write_extents(self, number: int, extents: Sequence[tuple[int, int, int]]) -> None:
        """Extents (first block in the file, first on disk, length) of an inode that has none yet; the library makes the tree, and counts its blocks."""
        handle = Handle()
        self._do(self.library.ext2fs_extent_open(self.handle, number, ctypes.byref(handle)), "open an inode of")
        try:
            for logical, physical, length in extents:
                extent = Extent(physical, logical, length, 0)
                self._do(self.library.ext2fs_extent_insert(handle, AFTER, ctypes.byref(extent)), "add an extent to")
                self._do(self.library.ext2fs_extent_fix_parents(handle), "write an extent tree of")
        finally:
            self.library.ext2fs_extent_free(handle)

    def close(self) -> None:
        """Write all that is left, down to the disk."""
        if self.handle:
            self._do(self.library.ext2fs_close_free(ctypes.byref(self.handle)), "finish")

    def _do(self, failed: int, what: str) -> None:
        if failed:
            raise self._error(failed, what)

    def _error(self, failed: int, what: str) -> BangerError:
        if self._full(failed):
            return NoSpace(f"no space left for {self.path}", hint="free some space, or run: banger vm prune")
        return ToolFailed(f"libext2fs cannot {what} {self.path}: {self._said(failed)}")

    def _full(self, failed: int) -> bool:
        """Whether the host's file system is full; the library tells a write that was cut short in words of its own."""
        return failed in (errno.ENOSPC, errno.EDQUOT) or (failed >= OWN and "short write" in self._said(failed))

    def _said(self, failed: int) -> str:
        if failed < OWN:
            return os.strerror(failed)
        messages = ctypes.CDLL(MESSAGES)
        messages.error_message.restype, messages.error_message.argtypes = ctypes.c_char_p, (ctypes.c_long,)
        said = messages.error_message(failed)
        return said.decode("utf-8", "replace") if said else str(failed)
