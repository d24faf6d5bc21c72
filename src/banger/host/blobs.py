"""The cache of blobs: an OCI image layout (`oci-layout`, `index.json`, `blobs/sha256/…`) that all images share, and any tool that knows layouts reads.

A blob has its name only once it was verified whole and is on disk; until then it is in `partial/`, by its digest too, and a later pull goes on where
one that was killed stopped. Whoever uses blobs holds the folder's lock shared, `prune` holds it alone: so nothing is removed that a pull counts on.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
from collections.abc import AsyncIterator, Iterator, Sequence, Set
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Protocol

import msgspec

from banger.host.files import Files, explain
from banger.model.errors import BangerError, Busy, NoSpace
from banger.model.oci import OCI_INDEX, Descriptor, Index, Manifest, Pruned, parse_document

LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
#: By which `index.json` says what an image is called (OCI image specification, "Pre-Defined Annotation Keys").
NAME = "org.opencontainers.image.ref.name"


class Blobs(Protocol):
    """What banger does with the cache. Its folder is made when something is put in it."""

    def using(self) -> AbstractContextManager[None]:
        """While this is entered, nothing is pruned. Busy while somebody prunes."""

    def path(self, digest: str) -> Path:
        """Where the blob is, or would be."""

    def memory(self, digest: str) -> Path:
        """Where a layer's entries are remembered, or would be (host/rootfs/memory.py); the folder is there."""

    def has(self, wanted: Descriptor) -> bool:
        """Whether the blob is here, whole."""

    def have(self, wanted: Descriptor) -> int:
        """How many of its bytes are here already, whole or not."""

    def read(self, wanted: Descriptor) -> bytes | None:
        """A document, verified once more; None when it is not here, or not sound any more."""

    def add(self, data: bytes, digest: str) -> None:
        """Keep a document that was verified."""

    def filling(self, wanted: Descriptor) -> AbstractAsyncContextManager[Path]:
        """The file in which a blob grows, for one at a time; it may have a beginning. Without `finish` it waits for the next pull."""

    def finish(self, part: Path, wanted: Descriptor) -> None:
        """Give a verified blob, which is on disk, its name."""

    def name(self, reference: str, manifest: Descriptor) -> None:
        """Write down in `index.json` what a manifest is called."""

    def prune(self, roots: Set[str], *, dry: bool) -> Pruned:
        """Remove all but the manifests in `roots` (digests) and what they lead to, or with `dry` say what that is. Busy while blobs are used."""


class RealBlobs:
    """The cache in a folder."""

    def __init__(self, folder: Path, files: Files) -> None:
        self.folder, self.files = folder, files
        self.locks: dict[str, asyncio.Lock] = {}

    def _made(self) -> Path:
        if not (self.folder / "oci-layout").exists():
            for part in (self.folder, self.folder / "blobs", self.folder / "partial"):
                self.files.private_folder(part)
            self.files.write_atomic(self.folder / "oci-layout", LAYOUT)
        return self.folder

    @contextmanager
    def using(self) -> Iterator[None]:
        """See Blobs."""
        with self._locked(fcntl.LOCK_SH, "the cache of images is being pruned"):
            yield

    @contextmanager
    def _locked(self, how: int, busy: str) -> Iterator[None]:
        descriptor = os.open(self._made() / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise Busy(busy, hint="try again in a moment") from None
        finally:
            os.close(descriptor)

    def path(self, digest: str) -> Path:
        """See Blobs."""
        algorithm, _, value = digest.partition(":")
        return self.folder / "blobs" / algorithm / value

    def memory(self, digest: str) -> Path:
        """See Blobs."""
        return self.files.private_folder(self._made() / "memory") / digest.replace(":", "-")

    def _part(self, digest: str) -> Path:
        return self.folder / "partial" / digest.replace(":", "-")

    def has(self, wanted: Descriptor) -> bool:
        """See Blobs."""
        return self.files.size(self.path(wanted.digest)) == wanted.size

    def have(self, wanted: Descriptor) -> int:
        """See Blobs."""
        return wanted.size if self.has(wanted) else min(wanted.size, self.files.size(self._part(wanted.digest)) or 0)

    def read(self, wanted: Descriptor) -> bytes | None:
        """See Blobs."""
        data = self.files.read(self.path(wanted.digest)) if self.has(wanted) else None
        return data if data is not None and digest_of(data, wanted.digest) == wanted.digest else None

    def add(self, data: bytes, digest: str) -> None:
        """See Blobs."""
        self._made()
        self.files.write_atomic(self._home(digest), data)

    def _home(self, digest: str) -> Path:
        path = self.path(digest)
        self.files.private_folder(path.parent)
        return path

    @asynccontextmanager
    async def filling(self, wanted: Descriptor) -> AsyncIterator[Path]:
        """See Blobs."""
        self._made()
        async with self.locks.setdefault(wanted.digest, asyncio.Lock()):
            path, descriptor = self._claim(self._part(wanted.digest))
            try:
                yield path
            finally:
                if path != self._part(wanted.digest) or not os.fstat(descriptor).st_size:
                    path.unlink(missing_ok=True)
                os.close(descriptor)

    def _claim(self, path: Path) -> tuple[Path, int]:
        """The file and what holds it; one of our own where another daemon that shares the cache is filling it."""
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return path, descriptor
            except BlockingIOError:
                path = path.with_name(f"{path.name}.{os.getpid()}")
            except FileNotFoundError:
                pass  # it has become the blob since it was opened
            except OSError:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def finish(self, part: Path, wanted: Descriptor) -> None:
        """See Blobs."""
        self.files.replace(part, self._home(wanted.digest))

    def name(self, reference: str, manifest: Descriptor) -> None:
        """See Blobs. Nothing is awaited in here, and another daemon's entry that is lost by this is one that `prune` never looks at."""
        named = msgspec.structs.replace(manifest, annotations={NAME: reference})
        others = [one for one in self._named() if (one.annotations or {}).get(NAME) != reference]
        self._write_index([*others, named])

    def _named(self) -> list[Descriptor]:
        data = self.files.read(self.folder / "index.json")
        with suppress(BangerError):
            found = parse_document(data, OCI_INDEX, what="index.json") if data else None
            return list(found.manifests or ()) if isinstance(found, Index) else []
        return []

    def _write_index(self, manifests: list[Descriptor]) -> None:
        rows = [bare(one) for one in manifests]
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": rows}
        self.files.write_atomic(self.folder / "index.json", msgspec.json.encode(document))

    def prune(self, roots: Set[str], *, dry: bool) -> Pruned:
        """See Blobs."""
        if not self.folder.exists():
            return Pruned(removed=0, removed_bytes=0, kept=0, kept_bytes=0)
        with nullcontext() if dry else self._locked(fcntl.LOCK_EX, "an image is being pulled"):
            wanted = {self.path(digest) for root in roots for digest in self._reached(root)}
            every = [path for place in ("blobs/*/*", "partial/*") for path in sorted(self.folder.glob(place))]
            memories = self._memories(wanted)
            sizes = {path: self.files.used_bytes(path) for path in [*every, *memories]}
            removed = [path for path in every if path not in wanted]
            forgotten = [path for path, kept in memories.items() if not kept]
            if not dry:
                self._remove([*removed, *forgotten], [one for one in self._named() if self.path(one.digest) in wanted])
            gone = sum(sizes[path] for path in [*removed, *forgotten])
            return Pruned(removed=len(removed), removed_bytes=gone, kept=len(every) - len(removed), kept_bytes=sum(sizes.values()) - gone)

    def _remove(self, blobs: Sequence[Path], kept: list[Descriptor]) -> None:
        """Blobs, and before that their names. On a full disk, where this makes room, `index.json` goes first and comes back when there is some."""
        full = False
        try:
            self._write_index(kept)
        except NoSpace:
            full = True
            (self.folder / "index.json").unlink(missing_ok=True)
        for path in blobs:
            path.unlink(missing_ok=True)
        if full:
            self._write_index(kept)

    def _memories(self, wanted: Set[Path]) -> dict[Path, bool]:
        """All memories, and whether their blobs are wanted; never what somebody who was killed left half-written."""
        kept = {f"{path.parent.name}-{path.name}" for path in wanted}
        return {path: path.name in kept for path in sorted(self.folder.glob("memory/*"))}

    def _reached(self, root: str) -> list[str]:
        """A manifest that is here, its configuration and its layers."""
        data = self.files.read(self.path(root))
        with suppress(BangerError):
            found = parse_document(data, "", what=root) if data else None
            if isinstance(found, Manifest):
                return [root, found.config.digest, *(layer.digest for layer in found.layers or ())]
        return []


def digest_of(data: bytes, like: str) -> str:
    """The digest of data, by the algorithm of another digest."""
    algorithm = like.partition(":")[0]
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def bare(descriptor: Descriptor) -> dict[str, object]:
    """A descriptor without what it does not say."""
    row: dict[str, object] = {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size}
    if descriptor.platform is not None:
        row["platform"] = {key: value for key, value in msgspec.to_builtins(descriptor.platform).items() if value}
    if descriptor.annotations:
        row["annotations"] = descriptor.annotations
    return row


def on_disk(path: Path) -> None:
    """Wait until what was written to a file is on disk. Blocks."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise explain(error, path) from error
    finally:
        os.close(descriptor)
