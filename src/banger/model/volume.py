"""What a file is that is said to be a root file system: told by the bytes in it, never by its name. Pure; the bytes are hostile.

Offsets: ext4's superblock is at 1024 (linux/Documentation/filesystems/ext4/super.rst), so is that of erofs (fs/erofs/erofs_fs.h); squashfs begins with
its own; a GPT's header is in the second sector, an MBR's mark at the end of the first (UEFI 2.10, 5.2); qcow2's header: QEMU's docs/interop/qcow2.
"""

from __future__ import annotations

import struct
from enum import StrEnum

import msgspec

from banger.model.errors import BadRequest, Corrupt
from banger.model.sizes import show_size

#: How much of a file's beginning has to be read: the last of all marks is that of btrfs.
HEAD = 66 << 10
#: The largest file system that an image is taken from; a qcow2 file of a few bytes may claim any size.
LARGEST = 1 << 40

QCOW2 = b"QFI\xfb"
EXT4 = b"\x53\xef"
EROFS = b"\xe2\xe1\xf5\xe0"
SQUASHFS = b"hsqs"
#: What QEMU's document calls incompatible features: those that are harmless to whoever only converts (dirty, other compression, extended L2 entries).
HARMLESS = 0b11001
#: ext4: the journal has to be played back first; the file is another's journal.
RECOVER, JOURNAL_ONLY = 0x4, 0x8
#: What is not taken, by where its mark stands, and what to do about it.
OTHERS = (
    (0, b"\x1f\x8b", "packed with gzip", "unpack it first"),
    (0, b"\xfd7zXZ\x00", "packed with xz", "unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "packed with zstd", "unpack it first"),
    (0, b"BZh", "packed with bzip2", "unpack it first"),
    (0, b"PK\x03\x04", "a zip archive", "unpack it first"),
    (257, b"ustar", "a tar archive", "a root file system is needed: mkfs.ext4 -d makes one from a folder"),
    (0, b"KDMV", "a VMware disk", "convert it first: qemu-img convert -O raw"),
    (0, b"vhdxfile", "a Hyper-V disk", "convert it first: qemu-img convert -O raw"),
    (0, b"conectix", "a VHD disk", "convert it first: qemu-img convert -O raw"),
    (0, b"XFSB", "an XFS file system", "a root file system of banger's is ext4, erofs or squashfs"),
    (0x10040, b"_BHRfS_M", "a btrfs file system", "a root file system of banger's is ext4, erofs or squashfs"),
    (0, b"\x7fELF", "a program or kernel", "kernels come in by banger kernel import"),
)


class Kind(StrEnum):
    """What images are made from. `qcow2` is converted first, and is then one of the others."""

    EXT4 = "ext4"
    EROFS = "erofs"
    SQUASHFS = "squashfs"
    QCOW2 = "qcow2"


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """`size_bytes` is what the machine sees: the file's own length, or for qcow2 what it unfolds to."""

    kind: Kind
    size_bytes: int


def recognise(head: bytes, size: int, name: str) -> Volume:
    """What the first `HEAD` bytes of a file of `size` bytes say; BadRequest or Corrupt, about `name`, when no image can be made of it."""
    if head[:4] == QCOW2:
        return Volume(kind=Kind.QCOW2, size_bytes=_qcow2(head, name))
    if head[0x438:0x43A] == EXT4:
        return Volume(kind=Kind.EXT4, size_bytes=_ext4(head, size, name))
    if head[0x400:0x404] == EROFS:
        return Volume(kind=Kind.EROFS, size_bytes=size)
    if head[:4] == SQUASHFS:
        return Volume(kind=Kind.SQUASHFS, size_bytes=size)
    _partitioned(head, name)
    for at, mark, what, hint in OTHERS:
        if head[at : at + len(mark)] == mark:
            raise BadRequest(f"{name} is {what}, not a root file system", hint=hint)
    raise BadRequest(f"{name} holds no file system that banger knows", hint="ext4, erofs and squashfs are known, raw or (ext4) in a qcow2 file")


def _partitioned(head: bytes, name: str) -> None:
    table = "GPT" if b"EFI PART" in (head[512:520], head[4096:4104]) else "MBR" if head[510:512] == b"\x55\xaa" else ""
    if table:
        raise BadRequest(
            f"{name} is a whole disk with a partition table ({table}); an image is one file system",
            hint="take out the partition with the root file system: partx --show FILE, then dd with its start and length",
        )


def _ext4(head: bytes, size: int, name: str) -> int:
    """The file's length, if all blocks are in it and nothing has to be repaired before it is mounted read-only."""
    head = head.ljust(0x600, b"\0")  # a file that ends in its superblock
    low, log_size = struct.unpack_from("<I", head, 0x404)[0], struct.unpack_from("<I", head, 0x418)[0]
    state, (incompatible,) = struct.unpack_from("<H", head, 0x43A)[0], struct.unpack_from("<I", head, 0x460)
    high = struct.unpack_from("<I", head, 0x550)[0] if incompatible & 0x80 else 0
    blocks = high << 32 | low
    if log_size > 6 or not blocks or blocks > LARGEST >> 10:
        raise Corrupt(f"{name}: the superblock of its ext4 file system cannot be right")
    if blocks << (10 + log_size) > size:
        raise Corrupt(f"{name} is cut short: its file system has {show_size(blocks << (10 + log_size))}, the file {show_size(size)}")
    if incompatible & JOURNAL_ONLY:
        raise BadRequest(f"{name} is a journal of ext4's, not a root file system")
    if incompatible & RECOVER or not state & 1 or state & 2:
        raise BadRequest(f"{name} was not unmounted cleanly, or has errors: it cannot be read-only", hint=f"repair it first: e2fsck -f {name}")
    return size


def _qcow2(head: bytes, name: str) -> int:
    """What it unfolds to, if all of it is in this one file."""
    if len(head) < 104:
        raise Corrupt(f"{name} is cut short: a qcow2 file has a header of 104 bytes")
    version, backing, _, cluster_bits, size, crypt = struct.unpack_from(">IQIIQI", head, 4)
    features = struct.unpack_from(">Q", head, 72)[0] if version == 3 else 0
    if version not in (2, 3) or not 9 <= cluster_bits <= 21:
        raise Corrupt(f"{name}: its qcow2 header cannot be right")
    if backing:
        raise BadRequest(f"{name} is only what differs from another file (a backing file)", hint="make one file of it: qemu-img convert -O raw")
    if crypt:
        raise BadRequest(f"{name} is encrypted", hint="make a plain one of it: qemu-img convert -O raw")
    if features & ~HARMLESS:
        raise BadRequest(f"{name} has its data in another file, is marked as broken, or is of a kind that banger does not know")
    if not 0 < size <= LARGEST:
        raise BadRequest(f"{name} unfolds to {show_size(size) if size else 'nothing'}; at most {show_size(LARGEST)} are taken")
    return int(size)
