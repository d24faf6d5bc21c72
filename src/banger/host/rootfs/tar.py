"""The entries of a layer, a tar as the OCI image specification has it: read strictly, once, from front to back, without unpacking anything.

V7, ustar, GNU and pax headers, all forms of GNU's sparse files. tarfile is not used: it reads a header of any length into memory, guesses where
something is broken, and takes five times as long. Names, owners and sizes that a file system cannot have are refused here, with the entry's name; what
is on top of what is another file's matter (host/rootfs/tree.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from banger.host.rootfs import Limits
from banger.host.rootfs.sparse import areas_of, piece_map
from banger.model.errors import Corrupt

BLOCK = 512
#: A file system's block.
PAGE = 4096
ZEROS = bytes(PAGE)
#: From how many zeros on they are left out, and at most how many parts that makes of a file: each costs an extent.
GAP, MOST_RUNS = 1 << 18, 1000
#: The largest file and name that ext4 has with blocks of 4 KiB, and the longest target of a symbolic link.
LARGEST, LONGEST_NAME, LONGEST_TARGET = (1 << 44) - PAGE, 255, 4095
#: All extended headers before one entry together.
LARGEST_HEADER = 1 << 20
FILE, LINK, SYMLINK, CHAR, BLOCK_DEVICE, FOLDER, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
XATTR = b"SCHILY.xattr."
#: What ext4 can hold; an attribute of any other kind means nothing to the guest's kernel.
KEPT = (b"user.", b"trusted.", b"security.", b"system.posix_acl_access", b"system.posix_acl_default")
#: What a header may say about all entries after it; anything else makes no sense for more than one.
STANDING = (b"uid", b"gid", b"mtime")
NUMBER = re.compile(rb"-?[0-9]{1,20}\Z")
OCTAL = re.compile(rb"[0-7]{1,12}\Z")
TIME = re.compile(rb"(-?)([0-9]{1,18})(?:\.([0-9]*))?\Z")

Piece = tuple[int, int, int]


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One entry. `name` has neither `.` nor doubled slashes and is empty for the root; `kind` is the type's digit in POSIX's ustar; `mtime` in ns.

    `link` is what a link leads to; `at` where the content begins in the unpacked tar; `pieces` what there is of it when it is not one whole:
    (offset in the file, length, offset in the tar).
    """

    name: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int = 0
    at: int = 0
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    pieces: tuple[Piece, ...] | None = None


def shown(name: bytes) -> str:
    """A name for people: whatever its bytes are, in one line of bounded length."""
    text = name.decode("utf-8", "backslashreplace")
    return repr(text if len(text) <= 200 else f"{text[:100]}…{text[-80:]}")


class Source:
    """The unpacked tar, taken piece by piece; `at` is how much has been taken."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.chunks = chunks
        self.chunk = b""
        self.place = 0
        self.before = 0

    @property
    def at(self) -> int:
        """How much has been taken."""
        return self.before + self.place

    def _next(self) -> bool:
        """Go on to the next chunk; False at the end."""
        self.before += len(self.chunk)
        self.place = 0
        self.chunk = next(self.chunks, b"")
        return bool(self.chunk)

    def take(self, count: int) -> bytes:
        """The next `count` bytes, or fewer at the end."""
        found = self.chunk[self.place : self.place + count]
        self.place += len(found)
        while len(found) < count and self._next():
            more = self.chunk[: count - len(found)]
            self.place = len(more)
            found += more
        return found

    def skip(self, count: int) -> bool:
        """Pass over `count` bytes; False when there are fewer."""
        while count > len(self.chunk) - self.place:
            count -= len(self.chunk) - self.place
            self.place = len(self.chunk)
            if not self._next():
                return count == 0
        self.place += count
        return True

    def views(self, count: int) -> Iterator[memoryview]:
        """The next `count` bytes, or fewer at the end, as they lie in the chunks."""
        while count and (self.place < len(self.chunk) or self._next()):
            view = memoryview(self.chunk)[self.place : self.place + count]
            self.place += len(view)
            count -= len(view)
            yield view

    def drain(self) -> None:
        """Pass over all that is left."""
        while self._next():
            pass

    def filled(self, count: int) -> list[tuple[int, int]] | None:
        """Pass over `count` bytes; where they are not long runs of zeros, as (offset, length); None when there are fewer."""
        runs: list[tuple[int, int]] = []
        done = end = 0
        while done < count:
            room = len(self.chunk) - self.place
            length = min(PAGE, count - done)
            if room < length:
                page = self.take(length)
                if len(page) < length:
                    return None
                empty = page == ZEROS[:length]
            else:
                empty = not self.chunk[self.place] and self.chunk[self.place : self.place + length] == ZEROS[:length]
                self.place += length
            if not empty:
                if runs and (done - end < GAP or len(runs) == MOST_RUNS):
                    runs[-1] = (runs[-1][0], done + length - runs[-1][0])
                else:
                    runs.append((done, length))
                end = done + length
            done += length
        return runs


class Header(msgspec.Struct):
    """What extended headers say about the next entry (or, for `g`, all that follow), by pax's names."""

    values: dict[bytes, bytes] = {}
    xattrs: dict[bytes, bytes] = {}
    pieces: list[tuple[bytes, bytes]] = []


class Reader:
    """Reads one layer. Iterate over it: that gives the entries; then the source is at the end of the archive, with what follows it still to come."""

    def __init__(self, source: Source, layer: str, limits: Limits) -> None:
        self.source, self.layer, self.limits = source, layer, limits
        self.standing: dict[bytes, bytes] = {}
        self.last = b""

    def __iter__(self) -> Iterator[Entry]:
        """Entries, in order."""
        own, taken = Header(), 0
        while True:
            block = self.source.take(BLOCK)
            if not block.strip(b"\0"):
                return  # the end of the archive, or of the stream
            self._check(block)
            kind = block[156:157]
            size = self._size(block, own)
            if kind in b"xgLK":
                taken += size
                if taken > LARGEST_HEADER:
                    raise self.wrong("is followed by extended headers that are too long")
                self._extend(kind, self._content(size), own)
                if kind == b"g":
                    taken = 0
                continue
            entry = self._entry(block, kind, size, own)
            own, taken = Header(), 0
            if entry is not None:
                yield entry

    def wrong(self, what: str) -> Corrupt:
        """An error about the present entry, or what comes after the last."""
        return Corrupt(f"{self.layer}: the entry {shown(self.last)} {what}")

    def broken(self, what: str) -> Corrupt:
        """An error about the archive as such."""
        return Corrupt(f"{self.layer} is not a sound tar archive: {what} at byte {self.source.at}, after {shown(self.last)}")

    def _check(self, block: bytes) -> None:
        if len(block) < BLOCK:
            raise self.broken("it is cut short")
        said = block[148:156].strip(b" \0")
        total = sum(block) - sum(block[148:156]) + 8 * 32
        if not OCTAL.match(said) or int(said, 8) != total:
            raise self.broken("a header's sum is wrong")

    def number(self, field: bytes, what: str) -> int:
        """Octal digits, or from 128 up the two's complement of the rest, big-endian, as GNU has it."""
        if field[0] & 0x80:
            value = int.from_bytes(field, "big") & ~(1 << (8 * len(field) - 1))
            return value - (1 << (8 * len(field) - 1)) if field[0] & 0x40 else value
        digits = field.strip(b" \0")
        if not digits:
            return 0
        if not OCTAL.match(digits):
            raise self.broken(f"a header's {what} is no number")
        return int(digits, 8)

    def _size(self, block: bytes, own: Header) -> int:
        said = own.values.get(b"size", self.standing.get(b"size")) if block[156:157] not in b"xgLK" else None
        size = self.number(block[124:136], "size") if said is None else self.decimal(said, "size")
        if not 0 <= size <= LARGEST:
            raise self.broken("a header's size is impossible")
        return 0 if block[156:157] in (LINK, SYMLINK, CHAR, BLOCK_DEVICE, FOLDER, FIFO) else size

    def decimal(self, text: bytes, what: str) -> int:
        """A number in an extended header."""
        if not NUMBER.match(text):
            raise self.broken(f"an extended header's {what} is no number")
        return int(text)

    def _content(self, size: int) -> bytes:
        """The content of an extended header, padding passed over."""
        data = self.source.take(size)
        if len(data) < size or not self.source.skip(-size % BLOCK):
            raise self.broken("it is cut short")
        return data

    def _extend(self, kind: bytes, data: bytes, own: Header) -> None:
        if kind == b"L":
            own.values[b"path"] = data.partition(b"\0")[0]
        elif kind == b"K":
            own.values[b"linkpath"] = data.partition(b"\0")[0]
        else:
            self._pax(data, own, everywhere=kind == b"g")

    def _pax(self, data: bytes, own: Header, *, everywhere: bool) -> None:
        """`LENGTH KEY=VALUE` and a newline, over and over (pax(1)); the length counts itself."""
        at = 0
        while at < len(data) and data[at]:
            digits, blank, _ = data[at : at + 12].partition(b" ")
            length = int(digits) if blank and digits.isdigit() else 0
            record = data[at : at + length]
            key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
            if len(record) < length or not equals or record[-1:] != b"\n":
                raise self.broken("an extended header is malformed")
            at += length
            if not value:  # takes back what was said before
                self.standing.pop(key, None)
            elif everywhere:
                self.standing |= {key: value} if key in STANDING else {}
            elif key.startswith(XATTR):
                own.xattrs[key[len(XATTR) :]] = value
            elif key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
                own.pieces.append((key, value))
            else:
                own.values[key] = value

    def _entry(self, block: bytes, kind: bytes, size: int, own: Header) -> Entry | None:
        values = {**self.standing, **own.values} if self.standing else own.values
        raw = values.get(b"GNU.sparse.name") or values.get(b"path") or self._name(block)
        self.last = raw
        link = values.get(b"linkpath", block[157:257].partition(b"\0")[0])
        if kind in (b"\0", b"7"):
            kind = FILE
        if kind == FILE and raw.endswith(b"/"):
            kind = FOLDER
        if kind in b"VN" or (kind == FOLDER and size):  # a volume's label; a V7 folder with content
            if not self.source.skip(size + -size % BLOCK):
                raise self.broken("it is cut short")
            if kind != FOLDER:
                return None
            size = 0
        if kind not in (FILE, LINK, SYMLINK, CHAR, BLOCK_DEVICE, FOLDER, FIFO, b"S"):
            raise self.wrong(f"is of the unknown type {kind!r}")
        name = self._place(raw)
        xattrs = self._xattrs(own.xattrs)
        pieces, at, real = self._pieces(block, kind, size, values, own)
        return Entry(
            name=name,
            kind=FILE if kind == b"S" else kind,
            mode=self.number(block[100:108], "mode") & 0o7777,
            uid=self._owner(values.get(b"uid"), block[108:116], "uid"),
            gid=self._owner(values.get(b"gid"), block[116:124], "gid"),
            mtime=self._time(values.get(b"mtime"), block[136:148]),
            size=real,
            at=at,
            link=self._link(kind, link) if kind in (LINK, SYMLINK) else b"",
            device=self._device(block) if kind in (CHAR, BLOCK_DEVICE) else (0, 0),
            xattrs=xattrs,
            pieces=pieces,
        )

    def _name(self, block: bytes) -> bytes:
        name = block[:100].partition(b"\0")[0]
        if block[257:263] == b"ustar\0" and block[345]:
            return block[345:500].partition(b"\0")[0] + b"/" + name
        return name

    def _place(self, raw: bytes) -> bytes:
        """The name as a path from the root; whoever wants to leave it is refused."""
        if len(raw) > self.limits.path:
            raise self.wrong(f"has a name of more than {self.limits.path} bytes")
        parts = [part for part in raw.split(b"/") if part not in (b"", b".")]
        if b".." in parts:
            raise self.wrong("leads outside: its name has ..")
        if raw.startswith(b"/") and parts:
            raise self.wrong("leads outside: its name begins with /")
        if not raw:
            raise self.wrong("has no name")
        if len(parts) > self.limits.depth:
            raise self.wrong(f"is more than {self.limits.depth} folders deep")
        if b"\0" in raw or any(len(part) > LONGEST_NAME for part in parts):
            raise self.wrong("has a name that no file system can have")
        return b"/".join(parts)

    def _link(self, kind: bytes, target: bytes) -> bytes:
        if not target or b"\0" in target or len(target) > LONGEST_TARGET:
            raise self.wrong("is a link to what no file can be called")
        if kind == SYMLINK:
            return target
        parts = [part for part in target.split(b"/") if part not in (b"", b".")]
        if b".." in parts or target.startswith(b"/"):
            raise self.wrong(f"is a link that leads outside: {shown(target)}")
        return b"/".join(parts)

    def _owner(self, said: bytes | None, field: bytes, what: str) -> int:
        number = self.number(field, what) if said is None else self.decimal(said, what)
        if not 0 <= number < (1 << 32) - 1:
            raise self.wrong(f"has an owner that cannot be: {what} {number}")
        return number

    def _time(self, said: bytes | None, field: bytes) -> int:
        """ns since 1970, within what ext4 can hold (34 bits of seconds, the first half of the 32-bit range below zero)."""
        if said is None:
            nanoseconds = self.number(field, "mtime") * 1_000_000_000
        else:
            found = TIME.match(said)
            if found is None:
                raise self.broken("an extended header's mtime is no number")
            nanoseconds = int(found[2]) * 1_000_000_000 + int((found[3] or b"")[:9].ljust(9, b"0"))
            nanoseconds = -nanoseconds if found[1] else nanoseconds
        return min(max(nanoseconds, -(1 << 31) * 1_000_000_000), (1 << 33) * 1_000_000_000)

    def _device(self, block: bytes) -> tuple[int, int]:
        major, minor = self.number(block[329:337], "device"), self.number(block[337:345], "device")
        if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
            raise self.wrong(f"is a device that cannot be: {major}:{minor}")
        return major, minor

    def _xattrs(self, given: dict[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
        kept = sorted((name, value) for name, value in given.items() if name.startswith(KEPT))
        if sum(len(name) + len(value) for name, value in kept) > self.limits.xattrs:
            raise self.wrong(f"has attributes of more than {self.limits.xattrs} bytes")
        if any(len(name) > LONGEST_NAME or b"\0" in name or name.endswith(b".") for name, _ in kept):
            raise self.wrong("has an attribute with a name that cannot be")
        return tuple(kept)

    def _pieces(self, block: bytes, kind: bytes, size: int, values: dict[bytes, bytes], own: Header) -> tuple[tuple[Piece, ...] | None, int, int]:
        """What there is of the content, where it begins in the tar, and the file's real size; the content is passed over."""
        if kind != b"S" and not any(key.startswith(b"GNU.sparse.") for key in values) and not own.pieces:
            return self._dense(size)
        start = self.source.at
        areas, real = areas_of(self, block if kind == b"S" else b"", values, [value for _, value in own.pieces], size)
        at, size = self.source.at, size - (self.source.at - start if kind != b"S" else 0)
        found = piece_map(areas, at, size, real)
        if found is None or not 0 <= real <= LARGEST:
            raise self.wrong("has a map of its sparse content that cannot be")
        if not self.source.skip(size + -size % BLOCK):
            raise self.broken("it is cut short")
        return found, at, real

    def _dense(self, size: int) -> tuple[tuple[Piece, ...] | None, int, int]:
        at = self.source.at
        if size < PAGE:
            runs: list[tuple[int, int]] | None = [(0, size)] if self.source.skip(size) else None
        else:
            runs = self.source.filled(size)
        if runs is None or not self.source.skip(-size % BLOCK):
            raise self.broken("it is cut short")
        if runs == [(0, size)] or not size:
            return None, at, size
        return tuple((offset, length, at + offset) for offset, length in runs), at, size
