"""Archives: files out of a tar, the kernel out of a vmlinuz, digests. What is read is hostile: types, names and sizes are checked, memory is bounded.

Nothing is ever written but regular files below the folder that the caller gives, which is the caller's to remove.
"""

from __future__ import annotations

import asyncio
import hashlib
import lzma
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Protocol

import lz4.block

from banger.host.files import CHUNK, explain
from banger.model.errors import BadRequest, Corrupt

#: A kernel's ELF is some 50 MiB; nothing near this is one.
LARGEST_KERNEL = 512 << 20
#: lz4's legacy frame: magic, then blocks of at most 8 MiB unpacked, each preceded by its packed size.
LZ4_LEGACY = b"\x02\x21\x4c\x18"
LZ4_BLOCK = 8 << 20
#: The signatures of a kernel that no longer needs unpacking: an ELF file, or an arm64 Image ("ARM\x64" at offset 56).
ELF = b"\x7fELF"
ARM64 = b"ARMd"

#: Where a member of a tar goes (relative to the target folder), or None to leave it out.
Chooser = Callable[[PurePosixPath], PurePosixPath | None]


class Archive(Protocol):
    """What banger does with archives."""

    async def take(self, tar: Path, into: Path, choose: Chooser, *, limit: int) -> int:
        """Copy the chosen regular files of an uncompressed tar below `into`, 0644 each; the number of files. Links and devices are never taken.

        Corrupt when the tar is broken, a name leads outside, or all together exceed `limit` bytes.
        """

    async def gunzip(self, packed: Path, into: Path, *, limit: int) -> None:
        """Unpack one gzip file to the new file `into`. Corrupt when it is broken or cut short, or unpacks to more than `limit` bytes."""

    async def unpack_kernel(self, image: Path, into: Path) -> None:
        """Write the kernel in a vmlinuz as the file `into`: an ELF (x86-64) or an Image (arm64). Corrupt when there is none."""

    async def sha256(self, path: Path) -> str:
        """`sha256:` and the hex digest of a file."""


class RealArchive:
    """Archives as files. Threads only compute; all writing is done here, so that after a cancel nothing writes any more."""

    async def take(self, tar: Path, into: Path, choose: Chooser, *, limit: int) -> int:
        """See Archive."""
        count = 0
        try:
            with tarfile.open(tar, "r:") as archive:
                for member, target in _chosen(archive, choose):
                    limit -= member.size
                    if limit < 0:
                        raise Corrupt(f"{tar.name} holds more than is allowed of what was to be taken from it")
                    _copy_member(archive, member, into / target)
                    count += 1
                    await asyncio.sleep(0)
        except tarfile.TarError as error:
            raise Corrupt(f"{tar} is not a sound tar archive: {error}") from error
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


def _chosen(archive: tarfile.TarFile, choose: Chooser) -> Iterator[tuple[tarfile.TarInfo, PurePosixPath]]:
    for member in archive:
        if not member.isreg():
            continue
        target = choose(PurePosixPath(member.name.removeprefix("./")))
        if target is None:
            continue
        if target.is_absolute() or ".." in target.parts or ".." in member.name.split("/"):
            raise Corrupt(f"the tar archive has a member whose name leads outside: {member.name!r}")
        yield member, target


def _copy_member(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    reader = archive.extractfile(member)
    assert reader is not None, "regular files have content"
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as writer:
        while chunk := reader.read(CHUNK):
            writer.write(chunk)


def unpacked_kernel(image: bytes) -> bytes:
    """The kernel inside a vmlinuz, or the image itself if it is unpacked already; Corrupt names what was looked for."""
    if is_kernel(image):
        return image
    for place, unpack in _candidates(image):
        kernel = unpack(place)
        if is_kernel(kernel):
            return kernel
    if b"\x28\xb5\x2f\xfd" in image:
        raise BadRequest("the kernel is packed with zstd, which is not supported", hint="use a kernel packed with lz4, gzip or xz")
    raise Corrupt("there is no kernel in the image: no ELF packed with lz4, gzip or xz was found")


def is_kernel(data: bytes | memoryview) -> bool:
    """Whether this is what a virtual machine monitor loads."""
    return bytes(data[:4]) == ELF or bytes(data[56:60]) == ARM64


def _candidates(image: bytes) -> Iterator[tuple[memoryview, Callable[[memoryview], bytes]]]:
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


def unpack_lz4(data: memoryview) -> bytes:
    """Blocks until one does not unpack: the end of a legacy frame is not marked, what follows it looks like a block's size."""
    parts: list[bytes] = []
    total, at = 0, len(LZ4_LEGACY)
    while at + 4 <= len(data) and total <= LARGEST_KERNEL:
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


def unpack_gzip(data: memoryview) -> bytes:
    """One gzip member, at most LARGEST_KERNEL; empty when broken."""
    try:
        return zlib.decompressobj(31).decompress(data, LARGEST_KERNEL)
    except zlib.error:
        return b""


def unpack_xz(data: memoryview) -> bytes:
    """One xz stream, at most LARGEST_KERNEL, with bounded memory; empty when broken."""
    try:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=256 << 20).decompress(data, LARGEST_KERNEL)
    except lzma.LZMAError:
        return b""


UNPACKERS: tuple[tuple[bytes, Callable[[memoryview], bytes]], ...] = (
    (LZ4_LEGACY, unpack_lz4),
    (b"\x1f\x8b\x08", unpack_gzip),
    (b"\xfd7zXZ\x00", unpack_xz),
)
