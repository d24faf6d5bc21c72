"""Downloads: here of one address to one file, and beside it (registry.py) of images, both in one way (growing.py).

The environment's proxies and the system's certificates count, redirects are followed, but never from a secure address to an insecure one. The caller
removes the file.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from banger.host.web.growing import PAUSE, Growing, persist
from banger.host.web.session import HOPS, REDIRECTS, Advice, Again, Session, led, loopback
from banger.model.errors import BadRequest, DownloadFailed, NotFound
from banger.model.registry import retry_after

if TYPE_CHECKING:
    from aiohttp import ClientResponse

#: How long all of it may take, in seconds.
WHOLE = 900.0
ONLINE = "is this host online, and the address right?"
ADVICE = Advice(untrusted="is this host's clock right, and its package ca-certificates installed?", insecure=ONLINE)

#: Told after each piece: bytes so far, and all there will be (None when it was not announced).
Told = Callable[[int, int | None], None]


class Web(Protocol):
    """What banger fetches by itself."""

    async def fetch(self, url: str, into: Path, *, limit: int, digest: str = "", told: Told | None = None, seconds: float = WHOLE) -> None:
        """Fill the file `into` with what is at `url`, within so many seconds. NotFound when there is nothing, DownloadFailed when it does not come,
        or not whole.

        With a `digest` (`sha256:…`) a beginning in the file is used, and Corrupt is raised for what is something else. Corrupt when it is longer than
        `limit` bytes; BadRequest for an address that is neither https nor http to this host's loopback.
        """


def acceptable(url: str) -> str:
    """The address itself, or BadRequest."""
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return url
    if parts.scheme == "http" and loopback(parts.hostname or ""):
        return url
    raise BadRequest(f"{url[:200]!r} is not an address to fetch from", hint="use https; http only to this host itself")


class RealWeb:
    """The web."""

    def __init__(self, pause: float = PAUSE) -> None:
        self.pause = pause

    async def fetch(self, url: str, into: Path, *, limit: int, digest: str = "", told: Told | None = None, seconds: float = WHOLE) -> None:
        """See Web."""
        acceptable(url)
        try:
            async with asyncio.timeout(seconds), Session(advice=ADVICE) as session:
                await self._fill(session, url, into, limit, digest, told or (lambda done, total: None))
        except TimeoutError:
            raise DownloadFailed(f"{url} did not come: it takes too long", hint="try again") from None

    async def _fill(self, session: Session, url: str, into: Path, limit: int, digest: str, told: Told) -> None:
        with Growing(into, what=url, digest=digest, size=None, limit=limit, told=lambda done: told(done, growing.total)) as growing:
            await growing.begin()
            if not (digest and growing.found == digest):
                await persist(lambda: _attempt(session, url, growing), self.pause, lambda: growing.done)


async def _attempt(session: Session, url: str, growing: Growing) -> None:
    """One request for what is missing."""
    server = urlsplit(url).netloc
    async with _answer(session, url, growing.asks()) as response:
        await growing.take(server, response, session.pieces(server, response))


@asynccontextmanager
async def _answer(session: Session, url: str, headers: Mapping[str, str]) -> AsyncIterator[ClientResponse]:
    """An answer that can be used (200, 206, 416), after redirects."""
    from aiohttp import ClientError

    try:
        response = await _follow(session, url, headers)
    except (ClientError, OSError, TimeoutError) as error:
        raise session.failure(urlsplit(url).netloc, error) from error
    try:
        _judge(url, response)
        yield response
    finally:
        response.close()  # what was not read to its end is not read on


async def _follow(session: Session, url: str, headers: Mapping[str, str]) -> ClientResponse:
    for _ in range(HOPS):
        response = await session.send(url, headers)
        if response.status not in REDIRECTS:
            return response
        url = acceptable(led(urlsplit(url).netloc, url, response, secure=urlsplit(url).scheme == "https"))
    raise DownloadFailed(f"{urlsplit(url).netloc} leads from one address to the next without an end")


def _judge(url: str, response: ClientResponse) -> None:
    """Raise what a status other than a fine one means."""
    if response.status in (200, 206, 416):
        return
    text = f"{response.status} {response.reason or ''}".strip()
    if response.status in (404, 410):
        raise NotFound(f"there is nothing at {url}", hint="is the address right?")
    if response.status in (408, 429) or response.status >= 500:
        raise Again(f"{url} cannot be had now: {text}", wait=retry_after(response.headers.get("Retry-After", ""), datetime.now(UTC)))
    raise DownloadFailed(f"{url} was refused: {text}", hint="is the address right, and open to everybody?")
