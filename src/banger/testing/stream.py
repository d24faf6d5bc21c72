"""Streams in memory, and a dialer that knows who listens where. Whoever serves a connection is a task of the dialer's; `aclose` ends them all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from banger.host.stream import Stream
from banger.model.errors import GuestFailed

log = logging.getLogger(__name__)
Server = Callable[[Stream], Awaitable[None]]
#: What a real socket takes before a writer has to wait, about.
BOUND = 1 << 18


class _Way:
    """Bytes in one direction."""

    def __init__(self) -> None:
        self.waiting = bytearray()
        self.ended = False
        self.changed = asyncio.Condition()

    async def put(self, data: bytes) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: self.ended or len(self.waiting) < BOUND)
            if self.ended:
                raise GuestFailed("the other end has closed the stream")
            self.waiting += data
            self.changed.notify_all()

    async def take(self, limit: int) -> bytes:
        async with self.changed:
            await self.changed.wait_for(lambda: self.ended or self.waiting)
            data = bytes(self.waiting[:limit])
            del self.waiting[:limit]
            self.changed.notify_all()
            return data

    async def end(self) -> None:
        async with self.changed:
            self.ended = True
            self.changed.notify_all()


class FakeStream:
    """One end of a pair."""

    def __init__(self, inward: _Way, outward: _Way) -> None:
        self.inward, self.outward = inward, outward
        self.closing: list[asyncio.Task[None]] = []

    async def read(self, limit: int) -> bytes:
        """See Stream."""
        return await self.inward.take(limit)

    async def write(self, data: bytes) -> None:
        """See Stream."""
        await self.outward.put(data)

    def close(self) -> None:
        """See Stream."""
        if not self.closing:
            self.closing = [asyncio.ensure_future(way.end()) for way in (self.inward, self.outward)]


def pair() -> tuple[FakeStream, FakeStream]:
    """Two ends of one stream."""
    there, back = _Way(), _Way()
    return FakeStream(there, back), FakeStream(back, there)


class FakeDialer:
    """Connects to whoever said `listen`."""

    def __init__(self) -> None:
        self.servers: dict[Path, Server] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    def listen(self, path: Path, server: Server) -> None:
        """Serve connections to `path`, each in a task of its own."""
        self.servers[path] = server

    def deaf(self, path: Path) -> None:
        """Nobody listens there any more."""
        self.servers.pop(path, None)

    async def unix(self, path: Path) -> Stream:
        """See Dialer."""
        if path not in self.servers:
            raise GuestFailed(f"cannot reach {path}: no such file or directory")
        ours, theirs = pair()
        task = asyncio.create_task(self._serve(self.servers[path], theirs), name=f"fake {path.name}")
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return ours

    async def _serve(self, server: Server, stream: FakeStream) -> None:
        try:
            await server(stream)
        except GuestFailed as error:
            log.debug("fake peer: %s", error)
        finally:
            stream.close()

    async def aclose(self) -> None:
        """End all who serve."""
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
