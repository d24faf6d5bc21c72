"""Inodes and folder blocks of ext4 as bytes, pure (the kernel's Documentation/filesystems/ext4); checksums are libext2fs's matter."""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator, Sequence

from banger.host.rootfs.ext2fs import BLOCK, INODE_SIZE

#: Everything up to the project id: 128 bytes as ext2 has them, then those of which i_extra_isize (32) tells.
INODE = struct.Struct("<HHIIIIIHHIII60sIIIIHHHHHHHHIIIIIII")
EXTENTS = 0x80000
EXTRA = 32
#: More are not counted (dir_nlink).
MOST_LINKS = 65000
#: What an inode holds itself: extents, a short symbolic link.
INLINE_EXTENTS, INLINE_LINK = 4, 59
#: Blocks that one extent may have.
LONGEST_EXTENT = 32768
HEADER = struct.Struct("<HHHHI")
EXTENT = struct.Struct("<IHHI")
NAME = struct.Struct("<IHBB")
#: A folder block's last 12 bytes: an entry of no inode whose type says that a checksum follows.
TAIL = struct.pack("<IHBBI", 0, 12, 0, 0xDE, 0)
TYPES = {stat.S_IFREG: 1, stat.S_IFDIR: 2, stat.S_IFCHR: 3, stat.S_IFBLK: 4, stat.S_IFIFO: 5, stat.S_IFSOCK: 6, stat.S_IFLNK: 7}

Extent = tuple[int, int, int]


def inode(*, mode: int, uid: int, gid: int, size: int, links: int, mtime: int, blocks: int, body: bytes, flags: int) -> bytes:
    """256 bytes. `mtime` in ns is all of its times; `blocks` of 4 KiB; `body` is what i_block holds."""
    seconds, rest = divmod(mtime, 1_000_000_000)
    low, extra = seconds & 0xFFFFFFFF, (seconds + (1 << 31) >> 32 & 3) | rest << 2
    sectors = blocks * (BLOCK // 512)
    count = links if links < MOST_LINKS else 1
    return INODE.pack(
        *(mode, uid & 0xFFFF, size & 0xFFFFFFFF, low, low, low, 0, gid & 0xFFFF, count, sectors & 0xFFFFFFFF, flags, 0, body),
        *(0, 0, size >> 32, 0),
        *(sectors >> 32, 0, uid >> 16, gid >> 16, 0, 0),
        *(EXTRA, 0, extra, extra, extra, low, extra, 0, 0),
    ).ljust(INODE_SIZE, b"\0")


def extent_root(extents: Sequence[Extent]) -> bytes:
    """Up to four extents (first block in the file, first on disk, length) as an inode holds them."""
    packed = b"".join(EXTENT.pack(logical, length, physical >> 32, physical & 0xFFFFFFFF) for logical, physical, length in extents)
    return HEADER.pack(0xF30A, len(extents), INLINE_EXTENTS, 0, 0) + packed


def device_body(major: int, minor: int) -> bytes:
    """As linux/kdev_t.h has it: 16 bits where they suffice, else 32 in the second word."""
    if major < 256 and minor < 256:
        return struct.pack("<I", major << 8 | minor)
    return struct.pack("<II", 0, minor & 0xFF | major << 8 | (minor & ~0xFF) << 12)


def folder_blocks(own: int, above: int, children: Sequence[tuple[bytes, int, int]]) -> Iterator[bytes]:
    """The blocks of a folder whose inode is `own`, with the names (name, inode, mode) in that order."""
    entries = [(b".", own, stat.S_IFDIR), (b"..", above, stat.S_IFDIR), *children]
    parts: list[bytes] = []
    used = 0
    room = BLOCK - len(TAIL)
    for name, number, mode in entries:
        length = 8 + len(name) + 3 & ~3
        if used + length > room:
            yield _block(parts, used)
            parts, used = [], 0
        last = NAME.pack(number, length, len(name), TYPES[stat.S_IFMT(mode)]) + name
        parts.append(last.ljust(length, b"\0"))
        used += length
    yield _block(parts, used)


def _block(parts: list[bytes], used: int) -> bytes:
    """The last entry reaches to the tail."""
    last = parts[-1]
    number, length, size, kind = NAME.unpack_from(last)
    parts[-1] = NAME.pack(number, length + BLOCK - len(TAIL) - used, size, kind) + last[8:]
    return b"".join(parts).ljust(BLOCK - len(TAIL), b"\0") + TAIL
