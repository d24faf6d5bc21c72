"""Layers read once each: their entries go to a file without a name, for a tree to be made of them, and their digests are verified.

Two layers at a time, each in a thread: unpacking and digesting leave Python's lock to others. What is kept of a layer is on disk, not in memory. The
entries of one that is remembered (host/rootfs/memory.py) are not read again; it is verified when its content is.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import IO, BinaryIO

import msgspec

from banger.host.rootfs import Layer, Limits
from banger.host.rootfs.inflate import unpacked
from banger.host.rootfs.memory import keep, recall
from banger.host.rootfs.tar import Entry, Reader, Source, shown
from banger.model.errors import Corrupt

BATCH = 512
THREADS = 2
LENGTH = 4
ALGORITHMS = ("sha256", "sha512")
#: What helps against a limit.
HINT = "if the image is to be trusted, raise the limit in the settings"


class Budget:
    """What all layers together may still unpack to and hold; shared by the threads. `told` hears how much has been unpacked."""

    def __init__(self, limits: Limits, told: Callable[[int], None]) -> None:
        self.limits, self.told = limits, told
        self.lock = Lock()
        self.bytes = self.entries = 0
        self.over = False

    def unpacked(self, count: int, reader: Reader) -> None:
        """Count bytes; Corrupt when there are too many."""
        with self.lock:
            self.bytes += count
            if self.over:
                raise Corrupt(f"{reader.layer} is no longer read, since another is wrong")
            if self.bytes > self.limits.size:
                after = f"with the entry {shown(reader.last)}"
                raise Corrupt(f"{reader.layer} unpacks to more than an image may be ({self.limits.size} bytes), {after}", hint=HINT)
            self.told(self.bytes)

    def entered(self, count: int, reader: Reader) -> None:
        """Count entries, and pieces of sparse ones."""
        if not count:
            return
        with self.lock:
            self.entries += count
            if self.entries > self.limits.entries:
                raise reader.wrong(f"is one too many: an image may have {self.limits.entries}")

    def remembered(self, size: int, entries: int) -> bool:
        """Count a whole layer. False, and it is not counted, when that is too much: reading it will tell with which entry."""
        with self.lock:
            if self.over or self.bytes + size > self.limits.size or self.entries + entries > self.limits.entries:
                return False
            self.bytes, self.entries = self.bytes + size, self.entries + entries
            self.told(self.bytes)
            return True


def name_of(layer: Layer) -> str:
    """A layer for people."""
    return f"the layer {layer.diff_id.partition(':')[2][:12] or Path(layer.path).name}"


class Scanned:
    """The entries of a layer, in a file; whether its content was `verified` when they were read. `every` counts them, and pieces of sparse ones."""

    def __init__(self, file: IO[bytes], *, verified: bool = True) -> None:
        self.file, self.start, self.verified = file, file.tell(), verified
        self.encoder = msgspec.msgpack.Encoder()
        self.waiting: list[Entry] = []
        self.weight = self.every = 0

    def add(self, entry: Entry) -> int:
        """Keep one; how much has been written, since a batch was full (entries, and pieces of sparse ones)."""
        self.waiting.append(entry)
        self.weight += 1 + len(entry.pieces or ())
        return self.flush() if self.weight >= BATCH else 0

    def flush(self) -> int:
        """Write what waits; how much it was."""
        data = self.encoder.encode(self.waiting)
        self.file.write(len(data).to_bytes(LENGTH, "big") + data)
        written, self.weight, self.waiting = self.weight, 0, []
        self.every += written
        return written

    def __iter__(self) -> Iterator[Entry]:
        """All of them, in order."""
        decoder = msgspec.msgpack.Decoder(list[Entry])
        self.file.seek(self.start)
        while length := self.file.read(LENGTH):
            yield from decoder.decode(self.file.read(int.from_bytes(length, "big")))

    def close(self) -> None:
        """Away with it."""
        self.file.close()


def scan_all(layers: Sequence[Layer], folder: Path, budget: Budget) -> list[Scanned]:
    """All layers, in order; the first that is wrong ends it."""
    with ThreadPoolExecutor(THREADS) as readers, ThreadPoolExecutor(THREADS) as digesters:
        futures = [readers.submit(_scan, layer, folder, budget, digesters) for layer in layers]
        try:
            return [future.result() for future in futures]
        except BaseException:
            budget.over = True  # whoever still reads stops
            for future in futures:
                future.cancel()
            raise


def _scan(layer: Layer, folder: Path, budget: Budget, digesters: ThreadPoolExecutor) -> Scanned:
    recalled = recall(layer, budget.limits)
    if recalled is not None:
        file, memory = recalled
        if budget.remembered(memory.size, memory.entries):
            return Scanned(file, verified=False)
        file.close()
    return _read(layer, folder, budget, digesters)


def _read(layer: Layer, folder: Path, budget: Budget, digesters: ThreadPoolExecutor) -> Scanned:
    what, digest = name_of(layer), digest_for(layer)
    kept = Scanned(tempfile.TemporaryFile(dir=folder))  # noqa: SIM115 (closed by close)
    with Path(layer.path).open("rb") as file:
        reader = Reader(Source(iter(())), what, budget.limits)
        source = reader.source = Source(_counted(file, reader, budget, digest, digesters))
        for entry in reader:
            budget.entered(kept.add(entry), reader)
        budget.entered(kept.flush(), reader)
        source.drain()
    verify(layer, digest)
    keep(layer, kept.file, budget.limits, size=source.at, count=kept.every)
    return kept


def digest_for(layer: Layer) -> hashlib._Hash:
    """To be fed with what the layer unpacks to; Corrupt when its digest is of an unknown kind."""
    algorithm = layer.diff_id.partition(":")[0]
    if algorithm not in ALGORITHMS:
        raise Corrupt(f"{name_of(layer)} has a digest of an unknown kind: {layer.diff_id!r}")
    return hashlib.new(algorithm)


def verify(layer: Layer, digest: hashlib._Hash) -> None:
    """Corrupt when the layer has unpacked to something else than it must."""
    found = f"{layer.diff_id.partition(':')[0]}:{digest.hexdigest()}"
    if found != layer.diff_id:
        raise Corrupt(f"{name_of(layer)} is not what its digest says: it unpacks to {found} instead of {layer.diff_id}")


def _counted(file: BinaryIO, reader: Reader, budget: Budget, digest: hashlib._Hash, digesters: ThreadPoolExecutor) -> Iterator[bytes]:
    """The chunks of a layer, each digested by another thread while the next is unpacked."""
    digesting: Future[None] | None = None
    for chunk in unpacked(file, reader.layer):
        budget.unpacked(len(chunk), reader)
        if digesting is not None:
            digesting.result()
        digesting = digesters.submit(digest.update, chunk)
        yield chunk
    if digesting is not None:
        digesting.result()
