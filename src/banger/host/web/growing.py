"""A file that grows to what is downloaded: it goes on where it broke off, and is verified before anybody reads it.

What is tried again is decided here (cut or stalled connections, 429 and 5xx, with growing pauses; never what was refused), and so is where a download
goes on: where a digest says in the end whether the pieces fit together, or the sender that it is still the same. Nothing that comes is trusted:
lengths, ranges and digests are compared with what was announced.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from banger.host.files import explain
from banger.host.web.session import LEAST, Again
from banger.model.errors import Corrupt, DownloadFailed
from banger.model.registry import parse_content_range

if TYPE_CHECKING:
    from aiohttp import ClientResponse

log = logging.getLogger(__name__)
T = TypeVar("T")
#: How often in a row something is tried without a byte of progress, and the pauses between in seconds: about so long, twice that, and so on.
TRIES, PAUSE, LONGEST_PAUSE = 6, 0.5, 30.0
#: Longer than this nobody waits because a server says so.
LONGEST_WAIT = 120.0

#: Called with the number of bytes that are there.
Told = Callable[[int], None]


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


class Growing:
    """The file `path`, which may have a beginning. Owns the descriptor.

    `what` is what it grows to, for people; `digest` what that must be, or empty; `size` how long it is, None where the sender is to say so, and then
    at most `limit`.
    """

    def __init__(self, path: Path, *, what: str, digest: str, size: int | None, limit: int, told: Told) -> None:
        self.path, self.what, self.digest, self.size, self.limit, self.told = path, what, digest, size, limit, told
        self.descriptor = -1
        self.done = 0
        #: As long as the sender says that it is; and by what the sender knows whether it is still the same.
        self.total, self.mark = size, ""
        self.algorithm = digest.partition(":")[0] or "sha256"
        self.hash = hashlib.new(self.algorithm)
        #: Whether all that is there came in one piece, from one answer.
        self.fresh = True

    def __enter__(self) -> Growing:
        try:
            self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise explain(error, self.path) from error
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    async def begin(self) -> None:
        """Take over what is there, where a digest will tell what it is worth."""
        self.fresh = os.fstat(self.descriptor).st_size == 0
        if not self.digest or os.fstat(self.descriptor).st_size > (self.limit if self.size is None else self.size):
            self.restart()
        while data := await asyncio.to_thread(os.pread, self.descriptor, 1 << 20, self.done):
            await asyncio.to_thread(self.hash.update, data)
            self.done += len(data)
        self.told(self.done)

    def restart(self) -> None:
        """Nothing of what is there counts."""
        os.ftruncate(self.descriptor, 0)
        self.done, self.hash, self.fresh = 0, hashlib.new(self.algorithm), True
        self.total, self.mark = self.size, ""

    @property
    def found(self) -> str:
        """The digest of what is there."""
        return f"{self.algorithm}:{self.hash.hexdigest()}"

    def sound(self) -> bool:
        """Whether the whole is what was wanted; if not, it is as if nothing had come."""
        if self.digest in ("", self.found):
            return True
        self.restart()
        return False

    def asks(self) -> dict[str, str]:
        """The headers of a request for what is missing. What was whole, and wrong, is asked for anew; so is what nobody vouches for."""
        if self.done == self.size or not (self.digest or self.mark):
            self.restart()
        if not self.done:
            return {}
        return {"Range": f"bytes={self.done}-"} | ({} if self.digest else {"If-Range": self.mark})

    async def take(self, server: str, response: ClientResponse, pieces: AsyncIterator[bytes]) -> None:
        """What an answer (200, 206 or 416) to such a request brings; Again while that is not all, Corrupt for what cannot be."""
        self._judge(server, response)
        self.fresh = self.done == 0
        most = self.limit if self.total is None else self.total
        async for data in pieces:
            if self.done + len(data) > most:
                self.restart()
                raise Corrupt(f"{server} sends more for {self.what} than {self._allowed(most)}")
            await self._add(data)
        if self.total is not None and self.done < self.total:
            raise Again(f"{server} cut {self.what} short: {self.done} of {self.total} bytes came")
        whole, found = self.fresh, self.found
        if not self.sound():
            self._wrong(server, whole, found)

    def _allowed(self, most: int) -> str:
        if self.size is not None:
            return f"the {most} bytes that the manifest names"
        return f"the {most} bytes that it has announced" if self.total is not None else f"it may be: {most} bytes"

    def _wrong(self, server: str, whole: bool, found: str) -> None:
        """What came in pieces is fetched once more as a whole: one of them may have been from another time, or another hand."""
        if not whole:
            raise Again(f"the pieces of {self.what} do not fit together")
        raise Corrupt(
            f"{self.what} from {server} is not what it must be: its digest is {found}, not {self.digest}", hint="try again; or tell who runs it"
        )

    def _judge(self, server: str, response: ClientResponse) -> None:
        """Whether the answer goes on where we are; one that begins anew makes us begin anew."""
        if response.status == 416:
            self.restart()
            raise Again(f"{server} has no such part of {self.what}")
        if response.status == 206:
            place = parse_content_range(response.headers.get("Content-Range", ""))
            if place is None or place[0] != self.done or (place[1] is not None and self.total not in (None, place[1])):
                self.restart()
                raise Again(f"{server} sends another part of {self.what} than the one that was asked for")
        else:
            if self.done:
                self.restart()
            self.mark = validator(response.headers)
        self._measure(server, response.content_length)

    def _measure(self, server: str, length: int | None) -> None:
        """Take the announced length (bytes still to come) for what it is worth."""
        if length is None:
            return
        total = self.done + length
        if self.size is None and total > self.limit:
            raise Corrupt(f"{self.what} is longer than it may be: {total} bytes, more than {self.limit}")
        if self.total not in (None, total):
            known = "the manifest names" if self.size is not None else "there were before"
            raise Corrupt(f"{server} announces {total} bytes for {self.what}, where {known} {self.total}")
        self.total = total

    async def _add(self, data: bytes) -> None:
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


def validator(headers: Mapping[str, str]) -> str:
    """By what a sender can tell whether something is still the same (RFC 9110, 13.1.5): a strong tag, or empty."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else ""
