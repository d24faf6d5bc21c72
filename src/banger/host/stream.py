"""Byte streams over Unix sockets: QMP and the agent's channel. Paths may be longer than a socket address holds (108 bytes, unix(7)), and folders may
belong to those who are not trusted: a socket is opened first, whatever is a link is refused, and it is reached through that descriptor.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Protocol

from banger.model.errors import GuestFailed, TimedOut

CONNECT_TIMEOUT = 5.0


class Stream(Protocol):
    """One byte stream with back-pressure."""

    async def read(self, limit: int) -> bytes:
        """Up to `limit` bytes; empty at the end of the stream."""

    async def write(self, data: bytes) -> None:
        """Send all of it; waits while the peer reads slowly. GuestFailed when the peer is gone."""

    def close(self) -> None:
        """Give the stream up; pending reads end."""


class Dialer(Protocol):
    """How streams are opened."""

    async def unix(self, path: Path) -> Stream:
        """Connect to a Unix stream socket within 5 s; GuestFailed when nobody listens."""


class RealStream:
    """A stream over asyncio's reader and writer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def read(self, limit: int) -> bytes:
        """See Stream."""
        try:
            return await self.reader.read(limit)
        except (ConnectionResetError, BrokenPipeError):
            return b""

    async def write(self, data: bytes) -> None:
        """See Stream."""
        try:
            self.writer.write(data)
            await self.writer.drain()
        except (ConnectionResetError, BrokenPipeError) as error:
            raise GuestFailed("the other end has closed the stream") from error

    def close(self) -> None:
        """See Stream."""
        self.writer.close()


class RealDialer:
    """The host's sockets."""

    async def unix(self, path: Path) -> Stream:
        """See Dialer."""
        try:
            there = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise GuestFailed(f"cannot reach {path}: {error.strerror}") from error
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{there}", limit=1 << 18)
        except TimeoutError:
            raise TimedOut(f"no connection to {path} within {CONNECT_TIMEOUT:g} s") from None
        except OSError as error:
            raise GuestFailed(f"cannot reach {path}: {error.strerror}") from error
        finally:
            os.close(there)
        return RealStream(reader, writer)
