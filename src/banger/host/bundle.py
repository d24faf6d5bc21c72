"""Bundles as files: a tar archive packed by zstd, written and read piece by piece, never unpacked as a whole. What is read is hostile.

Only plain headers of regular files are known (POSIX.1-1988 "ustar", sizes beyond 8 GiB as GNU has them): no links, no long names, no extensions. Zeros
become holes. Threads only compute: after a cancel nothing writes any more. The files are the caller's to remove.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import tarfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import BinaryIO, Protocol

from banger.host.archive import unpacked
from banger.host.files import CHUNK, explain
from banger.host.zstd import ZstdCompressor
from banger.model import codec
from banger.model.bundle import LARGEST_MANIFEST, MANIFEST, Bundle, BundledFile, checked
from banger.model.errors import AlreadyExists, BadRequest, Corrupt, HostLacks
from banger.model.event import report

BLOCK = 512
#: Zeros of this length at its own multiples become a hole.
HOLE = 64 << 10


class Bundles(Protocol):
    """What banger does with bundles."""

    async def write(self, folder: Path, name: Callable[[str], str], bundle: Bundle, sources: Sequence[Path]) -> tuple[Path, str]:
        """Make a new file of the manifest and the files it lists, which are at `sources`; its path and digest. `name` is told the digest.

        It has no name until it is whole. Corrupt when a file is not as listed, AlreadyExists when the name is taken, HostLacks where all must have one.
        """

    async def manifest(self, source: Path) -> Bundle:
        """What is in a bundle, by its own words, which were checked; Corrupt when it is none."""

    async def read(self, source: Path, place: Callable[[str, str], Path]) -> Bundle:
        """Take all of a bundle, verified; `place` says where a file goes by its kind (`images`, `kernels`) and the rest of its path.

        Corrupt when anything is not as listed; what was written until then is the caller's to remove.
        """


class RealBundles:
    """See Bundles."""

    async def write(self, folder: Path, name: Callable[[str], str], bundle: Bundle, sources: Sequence[Path]) -> tuple[Path, str]:
        """See Bundles."""
        try:
            with os.fdopen(_nameless(folder), "wb") as writer:
                digest = await _pack(writer, bundle, sources)
                target = folder / name(digest)
                _name(writer.fileno(), target)
        except OSError as error:
            raise explain(error, folder) from error
        return target, digest

    async def manifest(self, source: Path) -> Bundle:
        """See Bundles."""
        with source.open("rb") as reader:
            return await _begin(_Tar(unpacked(reader, source.name), source.name))

    async def read(self, source: Path, place: Callable[[str, str], Path]) -> Bundle:
        """See Bundles."""
        try:
            with source.open("rb") as reader:
                tar = _Tar(unpacked(reader, source.name), source.name)
                bundle = await _begin(tar)
                total, done = sum(file.size for file in bundle.files), 0
                for file in bundle.files:
                    kind, _, inside = file.path.partition("/")
                    await _take(tar, file, place(kind, inside))
                    done += file.size
                    report("take files", done=done, total=total, unit="bytes")
                await tar.end()
        except OSError as error:
            raise explain(error, source) from error
        return bundle


def _nameless(folder: Path) -> int:
    """A file that goes when we do, unless it gets a name (open(2), O_TMPFILE)."""
    try:
        return os.open(folder, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise HostLacks(f"the file system of {folder} has no files without a name", hint="write it elsewhere, and copy it") from error
        raise


def _name(descriptor: int, target: Path) -> None:
    """Give such a file its name (linkat(2): with AT_SYMLINK_FOLLOW, which Python asks for only where it is told a folder)."""
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.link(f"/proc/self/fd/{descriptor}", target.name, dst_dir_fd=folder, follow_symlinks=True)
        os.fsync(folder)
    except FileExistsError as error:
        raise AlreadyExists(f"there is a file {target} already", hint="choose another name, or remove it") from error
    finally:
        os.close(folder)


async def _pack(writer: BinaryIO, bundle: Bundle, sources: Sequence[Path]) -> str:
    """Write it all, to the disk; the digest of what was written."""
    packer, digest = ZstdCompressor(), hashlib.sha256()
    async with aclosing(_stream(bundle, sources)) as pieces:
        async for piece in pieces:
            packed = await asyncio.to_thread(packer.compress, piece)
            digest.update(packed)
            writer.write(packed)
    end = packer.flush()
    digest.update(end)
    writer.write(end)
    writer.flush()
    await asyncio.to_thread(os.fsync, writer.fileno())
    return f"sha256:{digest.hexdigest()}"


async def _stream(bundle: Bundle, sources: Sequence[Path]) -> AsyncGenerator[bytes, None]:
    """The archive, plain."""
    text = codec.encode(bundle)
    yield header(MANIFEST, len(text)) + text + bytes(-len(text) % BLOCK)
    total, done = sum(file.size for file in bundle.files), 0
    for file, source in zip(bundle.files, sources, strict=True):
        yield header(file.path, file.size)
        digest, size = hashlib.sha256(), 0
        with source.open("rb") as reader:
            while chunk := await asyncio.to_thread(reader.read, CHUNK):
                await asyncio.to_thread(digest.update, chunk)
                size += len(chunk)
                yield chunk
        if size != file.size or f"sha256:{digest.hexdigest()}" != file.digest:
            raise Corrupt(f"{source} is not what its manifest says: it was changed, or is broken")
        yield bytes(-file.size % BLOCK)
        done += file.size
        report("pack", done=done, total=total, unit="bytes")
    yield bytes(2 * BLOCK)


def header(path: str, size: int) -> bytes:
    """Of a regular file of nobody's."""
    member = tarfile.TarInfo(path)
    member.size = size
    try:
        return member.tobuf(tarfile.USTAR_FORMAT if size < 8 << 30 or len(path) > 99 else tarfile.GNU_FORMAT)
    except ValueError as error:
        raise BadRequest(f"{path} does not fit into a bundle: {error}") from error


class _Tar:
    """A plain stream of a tar archive, member by member."""

    def __init__(self, pieces: AsyncIterator[bytes], name: str) -> None:
        self.pieces, self.name, self.rest = pieces, name, memoryview(b"")

    async def some(self, most: int) -> memoryview:
        """The next bytes, at least one and at most `most`; Corrupt at the end."""
        while not self.rest:
            try:
                self.rest = memoryview(await anext(self.pieces))
            except StopAsyncIteration:
                raise Corrupt(f"{self.name} is cut short") from None
        piece, self.rest = self.rest[:most], self.rest[most:]
        return piece

    async def exactly(self, count: int) -> bytes:
        """So many bytes."""
        parts: list[memoryview] = []
        while count:
            parts.append(await self.some(count))
            count -= len(parts[-1])
        return b"".join(parts)

    async def member(self, path: str) -> int:
        """The length of the next member, which must be the regular file of that path."""
        try:
            found = tarfile.TarInfo.frombuf(await self.exactly(BLOCK), "utf-8", "strict")
        except (tarfile.HeaderError, ValueError) as error:
            raise Corrupt(f"{self.name} is not a bundle: where {path} should begin is no member ({error})") from error
        if found.type != tarfile.REGTYPE or found.name != path:
            raise Corrupt(f"{self.name} has {found.name!r} where the regular file {path} should be")
        if found.size < 0:
            raise Corrupt(f"{self.name} says that {path} is {found.size} bytes long")
        return found.size

    async def padding(self, size: int) -> None:
        """What follows a file of that size."""
        await self.exactly(-size % BLOCK)

    async def end(self) -> None:
        """Two empty blocks, and then nothing but more of them."""
        if (await self.exactly(2 * BLOCK)).strip(b"\0") or bytes(self.rest).strip(b"\0"):
            raise Corrupt(f"{self.name} has more in it than it lists")
        async for piece in self.pieces:
            if piece.strip(b"\0"):
                raise Corrupt(f"{self.name} has more in it than it lists")


async def _begin(tar: _Tar) -> Bundle:
    size = await tar.member(MANIFEST)
    if size > LARGEST_MANIFEST:
        raise Corrupt(f"{tar.name}: its manifest is larger than any bundle's")
    text = await tar.exactly(size)
    await tar.padding(size)
    return checked(codec.decode(text, Bundle, what=f"the manifest of {tar.name}"), tar.name)


async def _take(tar: _Tar, file: BundledFile, target: Path) -> None:
    if await tar.member(file.path) != file.size:
        raise Corrupt(f"{tar.name}: {file.path} is not as long as listed")
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    digest, left = hashlib.sha256(), file.size
    with target.open("xb") as writer:
        while left:
            piece = await tar.exactly(min(HOLE, left))
            left -= len(piece)
            digest.update(piece)
            if len(piece) == HOLE and not piece.strip(b"\0"):
                writer.seek(HOLE, os.SEEK_CUR)
            else:
                writer.write(piece)
        writer.truncate(file.size)
    if f"sha256:{digest.hexdigest()}" != file.digest:
        raise Corrupt(f"{tar.name}: {file.path} is not what it must be by its digest")
    await tar.padding(file.size)
