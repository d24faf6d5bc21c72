"""Archives: files out of a tar, the kernel out of a vmlinuz, digests. What is read is hostile: types, names and sizes are checked, memory is bounded.

Nothing is ever written but regular files below the folder that the caller gives, which is the caller's to remove.
"""

from __future__ import annotations

import asyncio
import bz2
import hashlib
import lzma
import os
import struct
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

import lz4.block

from banger.host.files import CHUNK, explain
from banger.host.kernelfile import KernelFacts, kernel_facts
from banger.host.rootfs import Limits
from banger.host.rootfs.tar import FILE, FOLDER, Entry, Reader, Source
from banger.host.zstd import ZstdDecompressor, ZstdError
from banger.model.errors import BadRequest, Corrupt

#: A kernel's ELF is some 50 MiB; nothing near this is one.
LARGEST_KERNEL = 512 << 20
#: lz4's legacy frame: magic, then blocks of at most 8 MiB unpacked, each preceded by its packed size.
LZ4_LEGACY = b"\x02\x21\x4c\x18"
LZ4_BLOCK = 8 << 20
#: The signatures of a kernel that no longer needs unpacking: an ELF file, or an arm64 Image ("ARM\x64" at offset 56).
ELF = b"\x7fELF"
ARM64 = b"ARMd"

#: lzop's beginning, which the kernel's build uses too.
LZO = b"\x89LZO\0"
#: How much of a candidate shows whether it is a kernel, and how many are looked at: any bytes may look like the beginning of a packed file.
PEEK, CANDIDATES = 64, 4096
#: Unpacks what begins at a place, at most so many bytes; empty when there is nothing to be unpacked.
Unpack = Callable[[memoryview, int], bytes]

#: Where a member of a tar goes (relative to the target folder), or None to leave it out.
Chooser = Callable[[PurePosixPath], PurePosixPath | None]


class Archive(Protocol):
    """What banger does with archives."""

    async def take(self, tar: Path, into: Path, choose: Chooser, *, limit: int, strict: bool = False) -> int:
        """Copy the chosen regular files of an uncompressed tar below `into`, 0644 each; the number of files. Links and devices are never taken.

        Corrupt when the tar is broken, a name leads outside, or all together exceed `limit` bytes; if `strict` also when anything but folders is left
        out: it names that.
        """

    async def gunzip(self, packed: Path, into: Path, *, limit: int) -> None:
        """Unpack one gzip file to the new file `into`. Corrupt when it is broken or cut short, or unpacks to more than `limit` bytes."""

    async def unpack(self, packed: Path, into: Path, *, limit: int) -> None:
        """The same for whatever of gzip, xz, zstd and bzip2 the file's first bytes tell it is packed with; a plain file is copied."""

    async def kernel_facts(self, kernel: Path) -> KernelFacts:
        """What an unpacked kernel says of itself; Corrupt when it is none, or not whole."""

    async def unpack_kernel(self, image: Path, into: Path) -> None:
        """Write the kernel in a vmlinuz as the file `into`: an ELF (x86-64) or an Image (arm64). Corrupt when there is none."""

    async def sha256(self, path: Path) -> str:
        """`sha256:` and the hex digest of a file."""


class RealArchive:
    """Archives as files. Threads only compute; all writing is done here, so that after a cancel nothing writes any more."""

    async def take(self, tar: Path, into: Path, choose: Chooser, *, limit: int, strict: bool = False) -> int:
        """See Archive."""
        count = 0
        try:
            with tar.open("rb") as scanned, tar.open("rb") as reader:
                members = Reader(Source(iter(lambda: scanned.read(CHUNK), b"")), tar.name, Limits())
                for member, target in _chosen(members, choose, strict):
                    limit -= member.size
                    if limit < 0:
                        raise Corrupt(f"{tar.name} holds more than is allowed of what was to be taken from it")
                    _copy_member(reader, member, into / target)
                    count += 1
                    await asyncio.sleep(0)
        except FileExistsError as error:
            raise Corrupt(f"{tar.name} has two files of the name {Path(error.filename).name}") from error
        except OSError as error:
            raise explain(error, into) from error
        return count

    async def gunzip(self, packed: Path, into: Path, *, limit: int) -> None:
        """See Archive."""
        unpacker = zlib.decompressobj(31)
        try:
            with packed.open("rb") as reader, into.open("xb") as writer:
                while not unpacker.eof:
                    data = unpacker.unconsumed_tail or reader.read(CHUNK)
                    if not data:
                        raise Corrupt(f"{packed.name} is cut short: its end is missing")
                    plain = await asyncio.to_thread(unpacker.decompress, data, CHUNK)
                    limit -= len(plain)
                    if limit < 0:
                        raise Corrupt(f"{packed.name} unpacks to more than is allowed")
                    writer.write(plain)
        except zlib.error as error:
            raise Corrupt(f"{packed.name} is not a sound gzip file: {error}") from error
        except OSError as error:
            raise explain(error, into) from error

    async def unpack(self, packed: Path, into: Path, *, limit: int) -> None:
        """See Archive."""
        try:
            with packed.open("rb") as reader, into.open("xb") as writer:
                async for plain in unpacked(reader, packed.name):
                    limit -= len(plain)
                    if limit < 0:
                        raise Corrupt(f"{packed.name} unpacks to more than is allowed")
                    writer.write(plain)
        except OSError as error:
            raise explain(error, into) from error

    async def kernel_facts(self, kernel: Path) -> KernelFacts:
        """See Archive."""
        return await asyncio.to_thread(kernel_facts, kernel)

    async def unpack_kernel(self, image: Path, into: Path) -> None:
        """See Archive."""
        if image.stat().st_size > LARGEST_KERNEL:
            raise Corrupt(f"{image.name} is too large for a kernel")
        kernel = await asyncio.to_thread(unpacked_kernel, image.read_bytes())
        try:
            into.write_bytes(kernel)
        except OSError as error:
            raise explain(error, into) from error

    async def sha256(self, path: Path) -> str:
        """See Archive."""
        digest = hashlib.sha256()
        with path.open("rb") as reader:
            while chunk := await asyncio.to_thread(reader.read, 8 * CHUNK):
                await asyncio.to_thread(digest.update, chunk)
        return f"sha256:{digest.hexdigest()}"


def _chosen(members: Reader, choose: Chooser, strict: bool) -> Iterator[tuple[Entry, PurePosixPath]]:
    for member in members:
        target = choose(PurePosixPath(os.fsdecode(member.name))) if member.kind == FILE else None
        if target is not None:
            yield member, target
        elif strict and member.kind != FOLDER:
            raise members.wrong("does not belong into this archive")


def _copy_member(reader: BinaryIO, member: Entry, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as writer:
        for offset, left, at in ((0, member.size, member.at),) if member.pieces is None else member.pieces:
            writer.seek(offset)
            reader.seek(at)
            while left and (chunk := reader.read(min(CHUNK, left))):
                writer.write(chunk)
                left -= len(chunk)
        writer.truncate(member.size)


def unpacked_kernel(image: bytes) -> bytes:
    """The kernel inside a vmlinuz, or the image itself if it is unpacked already; Corrupt names what was looked for."""
    if is_kernel(image):
        return image
    for place, unpack in islice(_candidates(image), CANDIDATES):
        if is_kernel(unpack(place, PEEK)) and is_kernel(kernel := unpack(place, LARGEST_KERNEL + 1)):
            if len(kernel) > LARGEST_KERNEL:
                raise Corrupt(f"the kernel in the image unpacks to more than {LARGEST_KERNEL >> 20} MiB")
            return kernel
    if _payload(image)[:5] == LZO:
        raise BadRequest("the kernel is packed with lzo, which is not supported", hint="use a kernel packed with zstd, lz4, gzip or xz")
    raise Corrupt("there is no kernel in the image: no ELF packed with lz4, gzip, xz, zstd, bzip2 or lzma was found")


def is_kernel(data: bytes | memoryview) -> bool:
    """Whether this is what a virtual machine monitor loads."""
    return bytes(data[:4]) == ELF or bytes(data[56:60]) == ARM64


def _candidates(image: bytes) -> Iterator[tuple[memoryview, Unpack]]:
    """First where a bzImage's header says that its payload is, then every place where a known magic stands."""
    payload = _payload(image)
    for magic, unpack in UNPACKERS:
        if bytes(payload[: len(magic)]) == magic:
            yield payload, unpack
    for magic, unpack in UNPACKERS:
        at = image.find(magic)
        while at != -1:
            yield memoryview(image)[at:], unpack
            at = image.find(magic, at + 1)


def _payload(image: bytes) -> memoryview:
    """The packed kernel of a bzImage (the kernel's boot.rst): payload_offset counts from behind the set-up sectors."""
    if len(image) < 0x250 or image[0x202:0x206] != b"HdrS":
        return memoryview(b"")
    start, length = struct.unpack_from("<II", image, 0x248)
    start += (image[0x1F1] + 1) * 512
    return memoryview(image)[start : start + length]


def unpack_lz4(data: memoryview, limit: int) -> bytes:
    """Blocks until one does not unpack: the end of a legacy frame is not marked, what follows it looks like a block's size."""
    parts: list[bytes] = []
    total, at = 0, len(LZ4_LEGACY)
    while at + 4 <= len(data) and total < limit:
        (size,) = struct.unpack_from("<I", data, at)
        block = data[at + 4 : at + 4 + size]
        if not size or len(block) < size or size > LZ4_BLOCK + LZ4_BLOCK // 255 + 16:
            break
        try:
            parts.append(lz4.block.decompress(bytes(block), uncompressed_size=LZ4_BLOCK))
        except lz4.block.LZ4BlockError:
            break
        total += len(parts[-1])
        at += 4 + size
        if len(parts[-1]) < LZ4_BLOCK:
            break
    return b"".join(parts)


def unpack_stream(kind: Kind) -> Unpack:
    """One stream of that kind, at most `limit` bytes of it; what came before it breaks."""

    def unpack(data: memoryview, limit: int) -> bytes:
        try:
            return kind().decompress(data, limit)
        except BROKEN:
            return b""

    return unpack


class Decompressor(Protocol):
    """What all of the standard library's have in common."""

    @property
    def eof(self) -> bool:
        """Whether the stream has ended."""

    def decompress(self, data: bytes | memoryview, max_length: int, /) -> bytes:
        """At most `max_length` bytes of what comes out."""


Kind = Callable[[], Decompressor]
#: What they raise on what is not theirs.
BROKEN = (zlib.error, lzma.LZMAError, ZstdError, OSError, EOFError, ValueError)
#: A dictionary of xz's that is larger than this is meant to take memory.
MEMORY = 256 << 20
GZIP: Kind = lambda: zlib.decompressobj(31)  # noqa: E731
XZ: Kind = lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY)  # noqa: E731
ALONE: Kind = lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=MEMORY)  # noqa: E731
KINDS: tuple[tuple[bytes, Kind], ...] = (
    (b"\x1f\x8b\x08", GZIP),
    (b"\xfd7zXZ\x00", XZ),
    (b"\x28\xb5\x2f\xfd", ZstdDecompressor),
    (b"BZh", bz2.BZ2Decompressor),
)
UNPACKERS: tuple[tuple[bytes, Unpack], ...] = (
    (LZ4_LEGACY, unpack_lz4),
    *((magic, unpack_stream(kind)) for magic, kind in KINDS),
    (b"\x5d\x00\x00", unpack_stream(ALONE)),
)


async def unpacked(reader: BinaryIO, name: str) -> AsyncIterator[bytes]:
    """What a file holds, piece by piece, whatever it is packed with; Corrupt when that is broken, goes on after its end, or is cut short."""
    head = reader.read(CHUNK)
    kind = next((kind for magic, kind in KINDS if head.startswith(magic)), None)
    if kind is None:
        while head:
            yield head
            head = await asyncio.to_thread(reader.read, CHUNK)
        return
    stream = kind()
    while not stream.eof:
        try:
            plain = await asyncio.to_thread(stream.decompress, head, CHUNK)
        except BROKEN as error:
            raise Corrupt(f"{name} cannot be unpacked: {error}") from error
        if plain:
            yield plain
        head = getattr(stream, "unconsumed_tail", b"")
        if not head and not stream.eof and getattr(stream, "needs_input", True):
            head = reader.read(CHUNK)
            if not head:
                raise Corrupt(f"{name} is cut short: its end is missing")
    if getattr(stream, "unused_data", b"").strip(b"\0") or reader.read(CHUNK).strip(b"\0"):
        raise Corrupt(f"{name} goes on after its end")
