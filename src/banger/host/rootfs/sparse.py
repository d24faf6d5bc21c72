"""GNU tar's maps of sparse files, in all four forms: which areas of a file a tar has the content of. Everything between them is zeros."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from banger.host.rootfs.tar import Reader

BLOCK = 512
#: How many areas a file may have.
MOST = 100_000

Area = tuple[int, int]


def areas_of(reader: Reader, block: bytes, values: Mapping[bytes, bytes], told: Sequence[bytes], size: int) -> tuple[list[Area], int]:
    """The areas (offset, length) and the file's real size. `block` is the header of GNU's own form, empty when pax headers (`values`, `told`) say it.

    A map that stands before the content is taken from the reader's source; it is at most `size` bytes.
    """
    if block:
        return _gnu(reader, block), reader.number(block[483:495], "size")
    if values.get(b"GNU.sparse.major") == b"1":
        return _in_front(reader, size), reader.decimal(values.get(b"GNU.sparse.realsize", b""), "size")
    real = values.get(b"GNU.sparse.size", values.get(b"GNU.sparse.realsize", b""))
    return _in_header(reader, told or values.get(b"GNU.sparse.map", b"").split(b",")), reader.decimal(real, "size")


def piece_map(areas: Sequence[Area], at: int, size: int, real: int) -> tuple[tuple[int, int, int], ...] | None:
    """(offset in the file, length, offset in the tar) of each; None unless they are in order, in the file, and all of the `size` bytes from `at`."""
    end, place, found = 0, at, []
    for offset, length in areas:
        if offset < end or length < 0 or offset + length > real:
            return None
        if length:
            found.append((offset, length, place))
        place, end = place + length, offset + length
    return tuple(found) if place - at == size else None


def _gnu(reader: Reader, block: bytes) -> list[Area]:
    """Four areas in the header, then 21 in each block that follows, as long as a flag says so."""
    areas, more = _fields(reader, block[386:482]), block[482]
    while more:
        block = reader.source.take(BLOCK)
        if len(block) < BLOCK or len(areas) > MOST:
            raise reader.broken("a map of sparse content does not end")
        areas += _fields(reader, block[:504])
        more = block[504]
    return areas


def _fields(reader: Reader, fields: bytes) -> list[Area]:
    pairs = (fields[at : at + 24] for at in range(0, len(fields), 24))
    return [(reader.number(pair[:12], "offset"), reader.number(pair[12:], "length")) for pair in pairs if pair.strip(b"\0")]


def _in_front(reader: Reader, size: int) -> list[Area]:
    """Format 1.0: decimal numbers, one a line, in whole blocks before the content: how many areas, then offset and length of each."""
    blocks: list[bytes] = []
    wanted, lines = 1, 0
    while lines < wanted:
        block = reader.source.take(BLOCK)
        if len(block) < BLOCK or len(blocks) * BLOCK >= size or wanted > 2 * MOST:
            raise reader.broken("a map of sparse content does not end")
        blocks.append(block)
        lines += block.count(b"\n")
        if wanted == 1 and lines:
            wanted = 2 * reader.decimal(b"".join(blocks).partition(b"\n")[0], "number of areas") + 1
    return _pairs(reader, b"".join(blocks).split(b"\n")[1:wanted])


def _in_header(reader: Reader, told: Sequence[bytes]) -> list[Area]:
    """Formats 0.0 and 0.1: pairs of keys, or one key with all numbers."""
    return _pairs(reader, told if any(told) else [])


def _pairs(reader: Reader, told: Sequence[bytes]) -> list[Area]:
    if len(told) % 2 or len(told) > 2 * MOST:
        raise reader.broken("a map of sparse content is malformed")
    numbers = [reader.decimal(each, "area") for each in told]
    return list(zip(numbers[::2], numbers[1::2], strict=True))
