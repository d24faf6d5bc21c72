"""Registries of images (OCI distribution specification 1.1): manifests and blobs, verified by digest and size, or a clear error.

aiohttp moves the bytes; what is decided is decided here: who may be asked (the registry's mirrors first), what is sent to whom (a login never leaves
the host that it is for, nothing goes from https to http, plain http only when asked for), what is tried again (cut or stalled connections, 429 and
5xx, with growing pauses; never what was refused), and where a download goes on. Nothing that comes is trusted: lengths, ranges, types and digests are
compared with what was announced. aiohttp takes a quarter of a second to import, so it is imported at the first pull.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec

from banger.host.blobs import digest_of
from banger.host.files import explain
from banger.host.logins import Logins
from banger.host.peer import LEAST, Again, Peer, Session
from banger.model.errors import BangerError, Corrupt, DownloadFailed, NoSpace
from banger.model.oci import ACCEPTED, LARGEST_MANIFEST, Descriptor
from banger.model.reference import Reference
from banger.model.registry import Mirror, parse_content_range

if TYPE_CHECKING:
    from aiohttp import ClientResponse

log = logging.getLogger(__name__)
T = TypeVar("T")
#: How often in a row something is tried without a byte of progress, and the pauses between in seconds: about so long, twice that, and so on.
TRIES, PAUSE, LONGEST_PAUSE = 6, 0.5, 30.0
#: Longer than this nobody waits because a registry says so.
LONGEST_WAIT = 120.0

#: Called with the number of bytes that are there.
Told = Callable[[int], None]


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest or index as it came, with the type that the registry gives it and its digest."""

    data: bytes
    media_type: str
    digest: str


class Repository(Protocol):
    """One name in a registry, and its mirrors."""

    async def document(self, target: str) -> Document:
        """What a tag or digest stands for. NotFound when there is none; Corrupt when it is not what its digest says."""

    async def blob(self, wanted: Descriptor, into: Path, *, told: Told) -> None:
        """Fill the file `into`, which may have a beginning already; once this returns, the file is whole, verified and on disk.

        Whatever goes wrong, what came stays for the next time, unless it is known to be wrong or the disk is full: then the file is empty.
        """


class Registry(Protocol):
    """What banger does with registries."""

    def open(self, reference: Reference, *, plain_http: bool = False) -> AbstractAsyncContextManager[Repository]:
        """The repository of a reference, while this is entered. Without `plain_http` nothing is asked but by https."""


class RealRegistry:
    """Registries over the network."""

    def __init__(self, logins: Logins, *, mirrors: Sequence[Mirror] = (), certificates: Sequence[Path] = (), pause: float = PAUSE) -> None:
        self.logins, self.mirrors, self.certificates, self.pause = logins, tuple(mirrors), tuple(certificates), pause

    @asynccontextmanager
    async def open(self, reference: Reference, *, plain_http: bool = False) -> AsyncIterator[Repository]:
        """See Registry."""
        places = [
            (one.server, one.server, f"{one.folder}/{reference.repository}" if one.folder else reference.repository)
            for one in self.mirrors
            if one.registry == reference.registry
        ]
        places.append((reference.server, reference.registry, reference.repository))
        async with Session(self.certificates, plain_http=plain_http) as session:
            yield RealRepository([Peer(session, self.logins, server, name, repository) for server, name, repository in places], self.pause)


class RealRepository:
    """The same name at one or several places, asked in order; one that failed is not asked again."""

    def __init__(self, peers: Sequence[Peer], pause: float) -> None:
        self.peers, self.pause = list(peers), pause

    async def document(self, target: str) -> Document:
        """See Repository."""
        return await self._anywhere(lambda peer: persist(lambda: _document(peer, target), self.pause, lambda: 0))

    async def blob(self, wanted: Descriptor, into: Path, *, told: Told) -> None:
        """See Repository."""
        with Growing(into, wanted, told) as growing:
            await growing.begin()
            if growing.done < wanted.size or not growing.sound():
                await self._anywhere(lambda peer: persist(lambda: _grow(peer, growing), self.pause, lambda: growing.done))
            await growing.keep()

    async def _anywhere(self, ask: Callable[[Peer], Awaitable[T]]) -> T:
        for peer in self.peers[:-1]:
            try:
                return await ask(peer)
            except NoSpace:
                raise
            except BangerError as error:
                log.warning("the mirror %s is passed over: %s", peer.server, error)
                if peer in self.peers:
                    self.peers.remove(peer)
        return await ask(self.peers[-1])


async def persist(attempt: Callable[[], Awaitable[T]], pause: float, progress: Callable[[], int]) -> T:
    """What an attempt returns; one that failed in passing is made again after a pause, and begins to count anew when there was progress."""
    tries, reached = 0, progress()
    while True:
        try:
            return await attempt()
        except Again as again:
            went_on = progress() >= reached + LEAST
            tries, reached = (0, progress()) if went_on else (tries + 1, reached)
            if tries >= min(TRIES, again.tries) or (again.wait or 0) > LONGEST_WAIT:
                waits = f" (it asks for {again.wait:.0f} s of patience)" if again.wait else ""
                raise DownloadFailed(f"{again}{waits}", hint=again.hint) from again
            log.info("%s; once more", again)
            await asyncio.sleep(again.wait if again.wait is not None else _pause(tries, pause))


def _pause(tries: int, pause: float) -> float:
    """Twice as long each time, and never the same for two who failed together."""
    return min(LONGEST_PAUSE, pause * 2.0**tries) * random.uniform(0.5, 1.0)


async def _document(peer: Peer, target: str) -> Document:
    async with peer.get(f"manifests/{target}", {"Accept": ", ".join(ACCEPTED)}) as response:
        data = await peer.body(response, LARGEST_MANIFEST)
        media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        named = target if ":" in target else response.headers.get("Docker-Content-Digest", "") or "sha256:"
    if named.partition(":")[0] not in ("sha256", "sha512"):
        named = "sha256:"
    digest = digest_of(data, named)
    if named not in (digest, "sha256:"):
        raise Corrupt(f"what {peer.server} has for {peer.repository} is not what its digest {named} says: it is {digest}")
    return Document(data=data, media_type=media_type, digest=digest)


class Growing:
    """A file that grows to a blob, and the digest of what it holds. Owns the descriptor."""

    def __init__(self, path: Path, wanted: Descriptor, told: Told) -> None:
        self.path, self.wanted, self.told = path, wanted, told
        self.descriptor = -1
        self.done = 0
        self.algorithm = wanted.digest.partition(":")[0]
        self.hash = hashlib.new(self.algorithm)
        #: Whether all that is there came in one piece, from one answer.
        self.fresh = True

    def __enter__(self) -> Growing:
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    async def begin(self) -> None:
        """Take over what is there."""
        self.fresh = os.fstat(self.descriptor).st_size == 0
        if os.fstat(self.descriptor).st_size > self.wanted.size:
            self.restart()
        while data := await asyncio.to_thread(os.pread, self.descriptor, 1 << 20, self.done):
            await asyncio.to_thread(self.hash.update, data)
            self.done += len(data)
        self.told(self.done)

    def restart(self) -> None:
        """Nothing of what is there counts."""
        os.ftruncate(self.descriptor, 0)
        self.done, self.hash, self.fresh = 0, hashlib.new(self.algorithm), True

    def sound(self) -> bool:
        """Whether the whole is what was wanted; if not, it is as if nothing had come."""
        if f"{self.algorithm}:{self.hash.hexdigest()}" == self.wanted.digest:
            return True
        self.restart()
        return False

    async def add(self, data: bytes) -> None:
        """Go on. Written here and not in a thread, so that after a cancel nothing writes any more."""
        try:
            view = memoryview(data)
            while view:
                view = view[os.pwrite(self.descriptor, view, self.done + len(data) - len(view)) :]
        except OSError as error:
            self.restart()
            raise explain(error, self.path) from error
        await asyncio.to_thread(self.hash.update, data)
        self.done += len(data)
        self.told(self.done)

    async def keep(self) -> None:
        """On disk."""
        try:
            await asyncio.to_thread(os.fsync, self.descriptor)
        except OSError as error:
            raise explain(error, self.path) from error


async def _grow(peer: Peer, growing: Growing) -> None:
    """One request for what is missing."""
    wanted, start = growing.wanted, growing.done
    if start == wanted.size:  # it was whole, and wrong
        growing.restart()
        start = 0
    async with peer.get(f"blobs/{wanted.digest}", {"Range": f"bytes={start}-"} if start else {}, ranged=True) as response:
        _check_answer(peer, response, growing)
        growing.fresh = growing.done == 0
        async for data in peer.pieces(response):
            if growing.done + len(data) > wanted.size:
                growing.restart()
                raise Corrupt(f"{peer.server} sends more for {wanted.digest} than the {wanted.size} bytes that the manifest names")
            await growing.add(data)
    if growing.done < wanted.size:
        raise Again(f"{peer.server} cut {wanted.digest} short: {growing.done} of {wanted.size} bytes came")
    whole = growing.fresh
    if not growing.sound():
        _wrong(peer, wanted, whole)


def _wrong(peer: Peer, wanted: Descriptor, whole: bool) -> None:
    """What came in pieces is fetched once more as a whole: one of them may have been from another time, or another hand."""
    if whole:
        raise Corrupt(f"what {peer.server} sends for {wanted.digest} is something else: its digest is wrong", hint="try again; or tell who runs it")
    raise Again(f"the pieces of {wanted.digest} do not fit together")


def _check_answer(peer: Peer, response: ClientResponse, growing: Growing) -> None:
    """Whether the answer goes on where we are; one that begins anew makes us begin anew. Corrupt for lengths that cannot be."""
    wanted = growing.wanted
    if response.status == 416:
        growing.restart()
        raise Again(f"{peer.server} has no such part of {wanted.digest}")
    if response.status == 206:
        place = parse_content_range(response.headers.get("Content-Range", ""))
        if place is None or place[0] != growing.done or (place[1] is not None and place[1] != wanted.size):
            growing.restart()
            raise Again(f"{peer.server} sends another part of {wanted.digest} than the one that was asked for")
    elif growing.done:
        growing.restart()
    length = response.content_length
    if length is not None and length != wanted.size - growing.done:
        raise Corrupt(f"{peer.server} announces {length + growing.done} bytes for {wanted.digest}, where the manifest names {wanted.size}")
