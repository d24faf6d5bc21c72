"""Registries of images (OCI distribution specification 1.1): manifests and blobs, verified by digest and size, or a clear error.

What is decided here: who may be asked (the registry's mirrors first) and for what. Peers (host/web/peer.py) know what is sent to whom: a login never
leaves the host that it is for, nothing goes from https to http, plain http only when asked for. How a blob grows is that of all downloads
(host/web/growing.py).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from banger.host.blobs import digest_of
from banger.host.web.growing import PAUSE, Growing, Told, persist
from banger.host.web.logins import Logins
from banger.host.web.peer import ADVICE, Peer
from banger.host.web.session import Session
from banger.model.errors import BangerError, Corrupt, NoSpace
from banger.model.oci import ACCEPTED, LARGEST_MANIFEST, Descriptor
from banger.model.reference import Reference
from banger.model.registry import Mirror

log = logging.getLogger(__name__)
T = TypeVar("T")


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
        async with Session(self.certificates, advice=ADVICE) as session:
            yield RealRepository([Peer(session, self.logins, *place, plain_http=plain_http) for place in places], self.pause)


class RealRepository:
    """The same name at one or several places, asked in order; one that failed is not asked again."""

    def __init__(self, peers: Sequence[Peer], pause: float) -> None:
        self.peers, self.pause = list(peers), pause

    async def document(self, target: str) -> Document:
        """See Repository."""
        return await self._anywhere(lambda peer: persist(lambda: _document(peer, target), self.pause, lambda: 0))

    async def blob(self, wanted: Descriptor, into: Path, *, told: Told) -> None:
        """See Repository."""
        with Growing(into, what=wanted.digest, digest=wanted.digest, size=wanted.size, limit=wanted.size, told=told) as growing:
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


async def _grow(peer: Peer, growing: Growing) -> None:
    """One request for what is missing."""
    async with peer.get(f"blobs/{growing.digest}", growing.asks(), ranged=True) as response:
        await growing.take(peer.server, response, peer.session.pieces(peer.server, response))
