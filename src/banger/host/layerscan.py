"""Layers read once each: their entries go to a file without a name, for a tree to be made of them, and their digests are verified.

Two layers at a time, each in a thread: unpacking and digesting leave Python's lock to others. What is kept of a layer is on disk, not in memory.
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

from banger.host.inflate import unpacked
from banger.host.layertar import Entry, Reader, Source, shown
from banger.host.rootfs import Layer, Limits
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


def name_of(layer: Layer) -> str:
    """A layer for people."""
    return f"the layer {layer.diff_id.partition(':')[2][:12] or Path(layer.path).name}"


class Scanned:
    """The entries of a layer, in a file that is gone with the process."""

    def __init__(self, folder: Path) -> None:
        self.file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by close)
        self.encoder = msgspec.msgpack.Encoder()
        self.waiting: list[Entry] = []
        self.weight = 0

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
        return written

    def __iter__(self) -> Iterator[Entry]:
        """All of them, in order."""
        decoder = msgspec.msgpack.Decoder(list[Entry])
        self.file.seek(0)
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
    what = name_of(layer)
    algorithm, _, wanted = layer.diff_id.partition(":")
    if algorithm not in ALGORITHMS:
        raise Corrupt(f"{what} has a digest of an unknown kind: {layer.diff_id!r}")
    digest = hashlib.new(algorithm)
    kept = Scanned(folder)
    with Path(layer.path).open("rb") as file:
        reader = Reader(Source(iter(())), what, budget.limits)
        source = reader.source = Source(_counted(file, reader, budget, digest, digesters))
        for entry in reader:
            budget.entered(kept.add(entry), reader)
        budget.entered(kept.flush(), reader)
        source.drain()
    if digest.hexdigest() != wanted:
        raise Corrupt(f"{what} is not what its digest says: it unpacks to {algorithm}:{digest.hexdigest()} instead of {layer.diff_id}")
    return kept


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
