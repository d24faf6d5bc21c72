"""The context of a build: a folder of the user's, of which files are picked by patterns, digested, and packed as a tar; and local tar archives.

Nothing leads out of the folder: links in it are copied as links, and one that is named itself must stay inside. What is digested is what is packed: a
file that changes in between is found by its digest. Reads only; owns nothing.
"""

from __future__ import annotations

import bz2
import hashlib
import io
import lzma
import os
import stat
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

import msgspec

from banger.host.rootfs.inflate import unpacked
from banger.model.dockerignore import Ignored, compiled_name, parse_ignored, plain_parts
from banger.model.errors import BadRequest, Corrupt, NotFound

CHUNK = 1 << 20
BLOCK = 512
MAGIC = (257, b"ustar")
BZIP2, XZ = b"BZh", b"\xfd7zXZ"
#: Entries of one COPY, and how many folders one may be below another.
MOST, DEEPEST = 1_000_000, 256
#: Bytes of a .dockerignore; what unpacking an xz archive may take: its strongest preset takes 65 MiB.
LONGEST, XZ_MEMORY = 1 << 20, 128 << 20
Heard = Callable[[int], None]
"""Hears how many more bytes were read, often; may raise to end the reading."""


class Picked(msgspec.Struct, frozen=True, kw_only=True):
    """A file, folder or link of the context (`path` on the host), and the name that it gets below the target."""

    path: str
    name: str


class Unpacked(msgspec.Struct, frozen=True, kw_only=True):
    """An archive of the context whose entries are copied instead of it."""

    path: str


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """What a step copies: whether it goes into a folder in any case, the entries, and files by name and content."""

    into: bool
    picked: tuple[Picked, ...] = ()
    archives: tuple[Unpacked, ...] = ()
    inline: tuple[tuple[str, bytes], ...] = ()


def ignored_in(context: Path, dockerfile: Path) -> Ignored:
    """What `DOCKERFILE.dockerignore`, or else the `.dockerignore` of the context, leaves out."""
    for place in (dockerfile.with_name(f"{dockerfile.name}.dockerignore"), context / ".dockerignore"):
        try:
            return parse_ignored(regular(place, LONGEST).decode("utf-8", "surrogateescape"), file=str(place))
        except (FileNotFoundError, NotADirectoryError):
            continue
    return Ignored()


class Context:
    """A folder, and what of it counts."""

    def __init__(self, folder: Path, ignored: Ignored, heard: Heard = lambda _: None) -> None:
        self.folder, self.ignored, self.heard = folder.resolve(), ignored, heard

    def content(self, sources: Sequence[str], *, into: bool, unpack: bool, named: Callable[[str], str]) -> Content:
        """What these patterns mean; NotFound for one that fits nothing. `named` is how a source is called in an error."""
        picked: list[Picked] = []
        archives: list[Unpacked] = []
        several = into
        for source in sources:
            found = self._matches(source)
            if not found:
                raise NotFound(f"nothing in the context fits {named(source)}", hint=f"look into {self.folder}, and at its .dockerignore")
            several = several or len(found) > 1
            for name in found:
                path = self._inside(name, named(source))
                if path.is_dir():
                    several = True
                    picked += self._below(path, name, "")
                elif unpack and path.is_file() and is_archive(path):
                    several = True
                    archives.append(Unpacked(path=str(path)))
                else:
                    picked.append(Picked(path=str(path), name=name.rpartition("/")[2]))
        return Content(into=several, picked=tuple(picked), archives=tuple(archives))

    def _inside(self, name: str, called: str) -> Path:
        path = (self.folder / name).resolve()
        if not path.is_relative_to(self.folder):
            raise BadRequest(f"{called} leads outside of the context")
        return path

    def _matches(self, source: str) -> list[str]:
        """Names from the context, in order, by a pattern each of whose parts is one of names."""
        found = [""]
        for part in plain_parts(source):
            found = [name for folder in found for name in self._named(folder, part)]
        return [name for name in found if not name or not self.ignored(name) or (self.ignored.exceptions and self._something(name))]

    def _named(self, folder: str, part: str) -> list[str]:
        try:
            pattern = compiled_name(part)
        except ValueError as error:
            raise BadRequest(f"{part[:100]!r} is no pattern: {error}") from None
        try:
            names = sorted(os.listdir(self.folder / folder))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [f"{folder}/{name}" if folder else name for name in names if pattern.match(name)]

    def _something(self, name: str) -> bool:
        path = self.folder / name
        return path.is_dir() and bool(self._below(path, name, ""))

    def _below(self, path: Path, name: str, prefix: str) -> list[Picked]:
        """All that counts in a folder, a folder before what is in it. `name` is from the context, `prefix` from the target."""
        found: list[Picked] = []
        self.heard(0)
        if prefix.count("/") > DEEPEST:
            raise BadRequest(f"{path} is more than {DEEPEST} folders deep")
        with os.scandir(path) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
        for entry in listed:
            inner, target = (f"{name}/{entry.name}" if name else entry.name), f"{prefix}{entry.name}"
            left = self.ignored(inner)
            if entry.is_dir(follow_symlinks=False) and (not left or self.ignored.exceptions):
                below = self._below(Path(entry.path), inner, f"{target}/")
                if left and not below:
                    continue
                found += [Picked(path=entry.path, name=target), *below]
            elif not left:
                found.append(Picked(path=entry.path, name=target))
            if len(found) > MOST:
                raise BadRequest(f"{path} holds more than {MOST} files")
        return found


def is_archive(path: Path) -> bool:
    """Whether a file is a tar, packed or not, by its bytes."""
    try:
        head = b""
        for chunk in plain(path):
            head += chunk
            if len(head) >= BLOCK:
                break
    except (Corrupt, OSError, EOFError, lzma.LZMAError, ValueError):
        return False
    return head[MAGIC[0] : MAGIC[0] + 5] == MAGIC[1]


def plain(path: Path) -> Iterator[bytes]:
    """The chunks of a file that may be packed with gzip, zstd, bzip2 or xz."""
    with path.open("rb") as file:
        head = file.read(8)
        file.seek(0)
        if head.startswith(BZIP2):
            yield from streams(file, bz2.BZ2Decompressor)
        elif head.startswith(XZ):
            yield from streams(file, lambda: lzma.LZMADecompressor(memlimit=XZ_MEMORY))
        else:
            yield from unpacked(file, str(path))


class Unpacker(Protocol):
    """As `bz2` and `lzma` have them."""

    @property
    def eof(self) -> bool:
        """Whether the stream has ended."""

    @property
    def needs_input(self) -> bool:
        """Whether there is no more to be had without more."""

    @property
    def unused_data(self) -> bytes:
        """What came after the end."""

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """Some more of it."""


def streams(file: BinaryIO, make: Callable[[], Unpacker]) -> Iterator[bytes]:
    """What one or more streams unpack to, never more than a chunk at once; EOFError when the last is cut."""
    unpacker, data = make(), b""
    while True:
        if unpacker.eof:
            data = (unpacker.unused_data or file.read(CHUNK)).lstrip(b"\0")
            if not data:
                return
            unpacker = make()
        elif unpacker.needs_input:
            data = file.read(CHUNK)
            if not data:
                raise EOFError("it ends too early")
        yield unpacker.decompress(data, CHUNK)
        data = b""


class Packing:
    """The tar of what one step copies, chunk by chunk; its `digest` is known at the end, and the same for the same names, modes, links and bytes."""

    def __init__(self, content: Content) -> None:
        self.content = content
        self._hash = hashlib.sha256(b"into" if content.into else b"")

    @property
    def digest(self) -> str:
        """Of all that has been read from `chunks`."""
        return self._hash.hexdigest()

    def chunks(self) -> Iterator[bytes]:
        """Entries of the context belong to root; BadRequest for what cannot be copied, NotFound when something vanishes."""
        for picked in self.content.picked:
            yield from self._entry(picked)
        for name, text in self.content.inline:
            head = tarfile.TarInfo(name)
            head.size, head.mode = len(text), 0o644
            self._count(name, stat.S_IFREG | head.mode, "", head.size)
            self._hash.update(text)
            yield from (header(head), text, bytes(-len(text) % BLOCK))
        yield bytes(2 * BLOCK)

    def archives(self) -> Iterator[Iterator[bytes]]:
        """Each archive as a tar of its own."""
        for archive in self.content.archives:
            yield self._archive(archive)

    def _archive(self, archive: Unpacked) -> Iterator[bytes]:
        self._count("", 0, "archive")
        size = 0
        try:
            for chunk in plain(Path(archive.path)):
                self._hash.update(chunk)
                size += len(chunk)
                yield chunk
            self._hash.update(size.to_bytes(8, "big"))
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise Corrupt(f"{archive.path} cannot be unpacked: {error}") from error

    def _count(self, name: str, mode: int, link: str, size: int = 0) -> None:
        for word in (name, f"{mode:o}", link, str(size)):
            data = os.fsencode(word)
            self._hash.update(len(data).to_bytes(8, "big") + data)

    def _entry(self, picked: Picked) -> Iterator[bytes]:
        try:
            status = os.lstat(picked.path)
            link = os.readlink(picked.path) if stat.S_ISLNK(status.st_mode) else ""
        except FileNotFoundError as error:
            raise NotFound(f"{picked.path} has gone while the build read the context") from error
        head = tarfile.TarInfo(picked.name)
        head.mode, head.mtime, head.linkname = stat.S_IMODE(status.st_mode), int(status.st_mtime), link
        if stat.S_ISREG(status.st_mode):
            yield from self._file(picked, head)
            return
        self._count(picked.name, status.st_mode, link)
        if stat.S_ISDIR(status.st_mode) or link:
            head.type = tarfile.SYMTYPE if link else tarfile.DIRTYPE
            yield header(head)
        elif not stat.S_ISSOCK(status.st_mode):
            raise BadRequest(f"{picked.path} is no file, folder or link", hint="leave it out by a .dockerignore")

    def _file(self, picked: Picked, head: tarfile.TarInfo) -> Iterator[bytes]:
        try:
            file: BinaryIO = open(os.open(picked.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")  # noqa: SIM115
        except FileNotFoundError as error:
            raise NotFound(f"{picked.path} has gone while the build read the context") from error
        with file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Corrupt(f"{picked.path} was replaced while the build read the context")
            head.size = left = os.fstat(file.fileno()).st_size
            self._count(picked.name, stat.S_IFREG | head.mode, "", head.size)
            yield header(head)
            while left:
                chunk = file.read(min(left, CHUNK))
                if not chunk:
                    raise Corrupt(f"{picked.path} became shorter while it was read")
                left -= len(chunk)
                self._hash.update(chunk)
                yield chunk
        yield bytes(-head.size % BLOCK)


def header(head: tarfile.TarInfo) -> bytes:
    """An entry's blocks; names that are no text come back as the bytes they are."""
    return head.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def digest_of(content: Content, heard: Heard = lambda _: None) -> str:
    """The digest of what a step copies; reads all of it."""
    packing = Packing(content)
    for chunks in ((packing.chunks(),), packing.archives()):
        for each in chunks:
            for chunk in each:
                heard(len(chunk))
    return packing.digest


def regular(path: Path, longest: int) -> bytes:
    """A file's bytes; OSError, or BadRequest when it is no file or has more than `longest`. Never waits, as the reader of a pipe would."""
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise BadRequest(f"{path} is no file")
        data = file.read(longest + 1)
    if len(data) > longest:
        raise BadRequest(f"{path} has more than {longest} bytes")
    return data


def read_text(path: Path, longest: int) -> str:
    """A Dockerfile; NotFound, or BadRequest when it is none."""
    try:
        return regular(path, longest).decode("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"there is no {path}", hint="name the Dockerfile with --file") from None
    except UnicodeDecodeError as error:
        raise BadRequest(f"{path} is not UTF-8: {error}") from None
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}") from None


class Sink:
    """A tar that comes, into a new file of ours, with its digest; `told` hears how much there is."""

    def __init__(self, path: Path, told: Callable[[int], None]) -> None:
        self.file: io.BufferedWriter = path.open("xb")
        self.digest, self.size, self.told = hashlib.sha256(), 0, told

    def write(self, data: bytes) -> None:
        """One more piece."""
        self.file.write(data)
        self.digest.update(data)
        self.size += len(data)
        self.told(self.size)

    def close(self) -> str:
        """`sha256:…` of all of it."""
        self.file.close()
        return f"sha256:{self.digest.hexdigest()}"
