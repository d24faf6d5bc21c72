"""What a layer unpacks to, chunk by chunk: gzip, zstd or nothing, told by its first bytes. Memory is bounded, whatever the layer claims to be."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO

from banger.host.zstd import ZstdDecompressor, ZstdError
from banger.model.errors import Corrupt

CHUNK = 1 << 20
PACKED = 1 << 18
GZIP, ZSTD = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd"
#: A frame to be skipped (RFC 8878, 3.1.2): 0x184D2A50 to 0x184D2A5F, little-endian.
SKIPPED = b"\x2a\x4d\x18"
#: What some pack with that no registry serves: named, so that it is not told as a broken tar.
OTHERS = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x04\x22\x4d\x18": "lz4", b"PK\x03\x04": "zip"}


def unpacked(file: BinaryIO, name: str) -> Iterator[bytes]:
    """The chunks (at most 1 MiB) of a layer called `name`, from its first byte; Corrupt when it is broken, cut short or packed some other way."""
    first = file.read(8)
    file.seek(0)
    other = next((kind for magic, kind in OTHERS.items() if first.startswith(magic)), None)
    if other is not None:
        raise Corrupt(f"{name} is packed with {other}, which is not supported", hint="layers are packed with gzip or zstd, or not at all")
    try:
        if first.startswith(GZIP):
            yield from _gunzip(file, name)
        elif first.startswith(ZSTD) or (first[1:4] == SKIPPED and first[0] >> 4 == 5):
            yield from _unzstd(file, name)
        else:
            while chunk := file.read(CHUNK):
                yield chunk
    except (zlib.error, ZstdError) as error:
        raise Corrupt(f"{name} cannot be unpacked: {error}") from error


def _gunzip(file: BinaryIO, name: str) -> Iterator[bytes]:
    """Any number of members, one after another, and zeros behind the last (RFC 1952; padding to whole blocks is common)."""
    unpacker = zlib.decompressobj(31)
    data = file.read(PACKED)
    while True:
        chunk = unpacker.decompress(data, CHUNK)
        if chunk:
            yield chunk
        data = unpacker.unconsumed_tail
        if not unpacker.eof:
            data = data or file.read(PACKED)
            if data or chunk:
                continue
            raise Corrupt(f"{name} is cut short: the end of its gzip stream is missing")
        data = unpacker.unused_data.lstrip(b"\0")
        while not data:
            data = file.read(PACKED)
            if not data:
                return
            data = data.lstrip(b"\0")
        unpacker = zlib.decompressobj(31)


def _unzstd(file: BinaryIO, name: str) -> Iterator[bytes]:
    """Any number of frames; none may refer further back than 128 MiB, which is zstd's own limit, and takes as much memory."""
    unpacker = ZstdDecompressor()
    data = file.read(PACKED)
    while True:
        chunk = unpacker.decompress(data, CHUNK)
        data = b""
        if chunk:
            yield chunk
        if unpacker.eof:
            data = unpacker.unused_data or file.read(PACKED)
            if not data:
                return
            unpacker = ZstdDecompressor()
        elif unpacker.needs_input:
            data = file.read(PACKED)
            if not data:
                raise Corrupt(f"{name} is cut short: the end of its zstd stream is missing")
