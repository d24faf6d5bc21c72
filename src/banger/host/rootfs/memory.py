"""What is remembered of a layer in the cache: its entries, so that the next image with it unpacks it once instead of twice.

A memory lies in the cache beside the blob and goes with it. It is written when the layer was read and verified, and believed when it is whole and says
that it is of this layer, made by this reader with these limits. It stands for the entries only: the content is verified each time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO

import msgspec

from banger.host.rootfs import Layer, Limits

#: More than this is not remembered of a layer.
LARGEST = 32 << 20
LENGTH, LONGEST_HEAD = 4, 4096
#: The files that make entries of a layer.
READERS = ("tar", "sparse")


class Memory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands before the entries: of which layer, by which reader and limits, to how much it unpacks, how many they are, and their digest."""

    diff_id: str
    reader: str
    path: int
    xattrs: int
    size: int
    entries: int
    digest: str


@cache
def reader() -> str:
    """Changes whenever what reads layers does, and with it perhaps what it makes of them."""
    sources = [Path(__file__).with_name(f"{name}.py") for name in READERS]
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


def keep(layer: Layer, entries: IO[bytes], limits: Limits, *, size: int, count: int) -> None:
    """Remember what is in `entries`. Where that cannot be written the layer is read again next time, so no failure of this counts."""
    if not layer.memory or entries.seek(0, os.SEEK_END) > LARGEST:
        return
    place = Path(layer.memory)
    with suppress(OSError):
        memory = Memory(
            diff_id=layer.diff_id, reader=reader(), path=limits.path, xattrs=limits.xattrs, size=size, entries=count, digest=_digest(entries)
        )
        head = msgspec.msgpack.encode(memory)
        file = tempfile.NamedTemporaryFile(dir=place.parent, prefix=f"{place.name}.", delete=False)  # noqa: SIM115 (it becomes the memory)
        try:
            with file:
                file.write(len(head).to_bytes(LENGTH, "big") + head)
                entries.seek(0)
                shutil.copyfileobj(entries, file)
            os.replace(file.name, place)
        except BaseException:
            os.unlink(file.name)
            raise


def recall(layer: Layer, limits: Limits) -> tuple[IO[bytes], Memory] | None:
    """What is remembered: a file that stands where the entries begin. None when there is nothing that can be believed."""
    if not layer.memory:
        return None
    with suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
        file = Path(layer.memory).open("rb")  # noqa: SIM115 (the caller closes it)
        try:
            head = file.read(min(int.from_bytes(file.read(LENGTH), "big"), LONGEST_HEAD))
            memory, start = msgspec.msgpack.decode(head, type=Memory), file.tell()
            meant = (memory.diff_id, memory.reader, memory.path, memory.xattrs) == (layer.diff_id, reader(), limits.path, limits.xattrs)
            if meant and _digest(file, start) == memory.digest:
                file.seek(start)
                return file, memory
        except BaseException:
            file.close()
            raise
        file.close()
    return None


def _digest(file: IO[bytes], start: int = 0) -> str:
    file.seek(start)
    digest = hashlib.sha256()
    while data := file.read(1 << 20):
        digest.update(data)
    return digest.hexdigest()
