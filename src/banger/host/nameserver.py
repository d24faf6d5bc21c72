"""The sockets of a name server: datagrams and streams on one port of the loopback. What is answered is the caller's to decide.

A stream carries queries and answers with their lengths before them (RFC 1035, 4.2.2); it may be silent for a moment only, and there are few at a time,
so that nobody holds what others need. Owns both sockets and the streams' tasks until it is closed.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from banger.model.errors import Busy, HostLacks

log = logging.getLogger(__name__)
SILENCE_SECONDS = 5.0
MOST_STREAMS = 32

Answer = Callable[[bytes, bool], bytes]
"""From a query, and whether it came over a stream, to the answer; empty: none is sent."""


class Listening(Protocol):
    """A port that is listened at."""

    async def close(self) -> None:
        """Give it up; who is in the middle of a stream is cut off."""


class NameServers(Protocol):
    """How a name server is had."""

    async def listen(self, address: str, port: int, answer: Answer) -> Listening:
        """Answer on a port, datagrams and streams alike; Busy when it is taken, HostLacks when it is not ours to take."""


class _Datagrams(asyncio.DatagramProtocol):
    """Each datagram is a query."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str | int, ...]) -> None:
        found = self.answer(data, False)
        if found and self.transport is not None:
            self.transport.sendto(found, addr)

    def error_received(self, exc: Exception) -> None:
        log.debug("whoever asked does not wait for the answer: %s", exc)


class _Both:
    """Datagrams and streams at one address."""

    def __init__(self, answer: Answer) -> None:
        self.decide = answer
        self.datagrams: asyncio.BaseTransport | None = None
        self.streams: asyncio.Server | None = None
        self.tasks: set[asyncio.Task[None]] = set()

    async def open(self, address: str, port: int) -> None:
        loop = asyncio.get_running_loop()
        self.datagrams, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self.answer), local_addr=(address, port))
        self.streams = await asyncio.start_server(self._welcome, address, port)

    async def close(self) -> None:
        """See Listening."""
        if self.datagrams is not None:
            self.datagrams.close()
        if self.streams is not None:
            self.streams.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await asyncio.sleep(0)  # the datagrams' socket is closed by the loop, in its next turn

    def answer(self, query: bytes, stream: bool) -> bytes:
        """None to a query that brings the caller down: one of them must not end what serves all others."""
        try:
            return self.decide(query, stream)
        except Exception:
            log.exception("no answer to %s", query.hex())
            return b""

    def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self.tasks) >= MOST_STREAMS:
            writer.close()
            return
        task = asyncio.get_running_loop().create_task(self._talk(reader, writer), name="names over a stream")
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer until the other end closes, is silent, reads too slowly, or asks what deserves no answer."""
        try:
            with suppress(asyncio.IncompleteReadError, TimeoutError, ConnectionError):
                while await self._reply(reader, writer):
                    pass
        finally:
            writer.close()

    async def _reply(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        async with asyncio.timeout(SILENCE_SECONDS):
            size = int.from_bytes(await reader.readexactly(2), "big")
            found = self.answer(await reader.readexactly(size), True)
            writer.write(len(found).to_bytes(2, "big") + found if found else b"")
            await writer.drain()
        return bool(found)


class RealNameServers:
    """The host's ports."""

    async def listen(self, address: str, port: int, answer: Answer) -> Listening:
        """See NameServers."""
        made = _Both(answer)
        try:
            await made.open(address, port)
        except OSError as error:
            await made.close()
            if error.errno == errno.EADDRINUSE:
                raise Busy(f"port {port} of {address} is taken by another process") from error
            raise HostLacks(f"cannot listen at port {port} of {address}: {os.strerror(error.errno or 0).lower()}") from error
        return made
