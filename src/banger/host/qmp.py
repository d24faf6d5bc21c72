"""QMP: how QEMU is asked things. Each call is a conversation of its own (greeting, capabilities, command), so nothing is kept between calls.

QEMU answers one peer at a time; a second call waits in the socket's queue, within its own deadline. Who follows a machine for long has a socket for it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Protocol

from banger.host.stream import Dialer, Stream
from banger.model.errors import TimedOut, VmmFailed

LIMIT = 1 << 20


class Qmp(Protocol):
    """What banger asks of QEMU."""

    async def execute(self, path: Path, command: str, arguments: Mapping[str, object] | None = None, *, timeout: float) -> object:
        """Run a command and return its `return`; `path` is the socket.

        VmmFailed when QEMU refuses, breaks the protocol or closes the connection; TimedOut after `timeout` seconds; GuestFailed when nobody listens.
        """

    def follow(self, path: Path, command: str, events: frozenset[str]) -> AsyncGenerator[object, None]:
        """What a command returns, now and again after each of these events, however long that takes. It ends by the same errors as `execute`."""


class RealQmp:
    """QMP over a stream of any dialer."""

    def __init__(self, dialer: Dialer) -> None:
        self.dialer = dialer

    async def execute(self, path: Path, command: str, arguments: Mapping[str, object] | None = None, *, timeout: float) -> object:
        """See Qmp."""
        try:
            async with asyncio.timeout(timeout):
                stream = await self.dialer.unix(path)
                try:
                    return await _converse(_Lines(stream), command, dict(arguments or {}))
                finally:
                    stream.close()
        except TimeoutError:
            raise TimedOut(f"QEMU did not answer {command} within {timeout:g} s") from None

    async def follow(self, path: Path, command: str, events: frozenset[str]) -> AsyncGenerator[object, None]:
        """See Qmp."""
        stream = await self.dialer.unix(path)
        try:
            lines = _Lines(stream)
            yield await _converse(lines, command, {})
            while True:
                while not lines.events & events:
                    await lines.receive()
                lines.events.clear()  # before it is asked: what happens meanwhile is a reason to ask again
                yield await lines.ask(command, {})
        finally:
            stream.close()


class _Lines:
    """JSON objects, one a line, both ways; what QEMU may send without an end to the line is bounded."""

    def __init__(self, stream: Stream) -> None:
        self.stream, self.rest = stream, b""
        #: Which kinds of event have come.
        self.events: set[str] = set()

    async def receive(self) -> dict[str, object]:
        while b"\n" not in self.rest:
            data = await self.stream.read(1 << 16)
            if not data:
                raise VmmFailed("QEMU closed its control connection")
            self.rest += data
            if len(self.rest) > LIMIT:
                raise VmmFailed(f"QEMU sent a control message of more than {LIMIT} bytes")
        line, _, self.rest = self.rest.partition(b"\n")
        message = _parse(line)
        if isinstance(message.get("event"), str):
            self.events.add(str(message["event"]))
        return message

    async def ask(self, command: str, arguments: dict[str, object]) -> object:
        message = {"execute": command, **({"arguments": arguments} if arguments else {})}
        await self.stream.write(json.dumps(message).encode() + b"\n")
        while True:
            reply = await self.receive()
            if "return" in reply:
                return reply["return"]
            if "error" in reply:
                raise VmmFailed(f"QEMU refused {command}: {_reason(reply['error'])}")


async def _converse(lines: _Lines, command: str, arguments: dict[str, object]) -> object:
    if "QMP" not in await lines.receive():
        raise VmmFailed("QEMU's control connection began without a greeting")
    await lines.ask("qmp_capabilities", {})
    return await lines.ask(command, arguments)


def _parse(line: bytes) -> dict[str, object]:
    try:
        found: object = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise VmmFailed(f"QEMU's control message is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise VmmFailed("QEMU's control message is not a JSON object")
    return found


def _reason(error: object) -> str:
    return str(error.get("desc", error)) if isinstance(error, dict) else str(error)
