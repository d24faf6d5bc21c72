"""What banger itself does in a guest: commands whose lines are heard, tar archives that come and go. Bounded by the credit of each stream.

A command may take as long as it likes, since whoever waits for it can take it back; of a transfer each step must come in time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from banger import wire
from banger.daemon.guests import Conversation, GuestStream, result_of
from banger.model.errors import GuestFailed, TimedOut

#: Seconds without a sign of a guest that is to take or send data: its disk may be slow, and so may its processor.
SILENCE = 600.0
#: Bytes of a line; what is longer is told in pieces.
LONGEST_LINE = 4096
#: Lines that are told at once: a frame of nothing but ends of lines is then some hundred events.
MOST_LINES = 256


class Lines:
    """Bytes that become lines, which `told` hears, many at once where they come fast, so that whoever is told can keep up.

    Undecodable bytes are shown as such; of a line that is overwritten only the last state counts.
    """

    def __init__(self, told: Callable[[Sequence[str]], None]) -> None:
        self.told, self.rest = told, b""

    def feed(self, data: bytes) -> None:
        """Some more."""
        *lines, self.rest = (self.rest + data).split(b"\n")
        while len(self.rest) >= LONGEST_LINE:
            lines.append(self.rest[:LONGEST_LINE])
            self.rest = self.rest[LONGEST_LINE:]
        for at in range(0, len(lines), MOST_LINES):
            self.told([shown(line) for line in lines[at : at + MOST_LINES]])

    def end(self) -> None:
        """What came without a line's end."""
        if self.rest:
            self.told([shown(self.rest)])
        self.rest = b""


def shown(line: bytes) -> str:
    """A line as people see it."""
    return line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "backslashreplace")


async def run(conversation: Conversation, request: Mapping[str, object], told: Callable[[Sequence[str]], None]) -> dict[str, object]:
    """Run a command to its end; `told` hears the lines that it prints. Its result: `exit` or `signal`. NoCommand, NotFound when it does not start."""
    lines = {wire.DATA: Lines(told), wire.STDERR: Lines(told)}
    stream = await conversation.open({"op": "exec", "tty": None, "stdin": False, **request})
    try:
        return await _receive(stream, lambda kind, data: lines[kind].feed(data), f"a command in {conversation.name}", None)
    finally:
        for each in lines.values():
            each.end()
        await stream.aclose()


async def fetch(conversation: Conversation, request: Mapping[str, object], sink: Callable[[bytes], None]) -> None:
    """Ask for something that comes as data."""
    stream = await conversation.open(request)
    try:
        await _receive(stream, lambda _, data: sink(data), f"{request['op']} in {conversation.name}", SILENCE)
    finally:
        await stream.aclose()


async def _receive(stream: GuestStream, take: Callable[[int, bytes], None], what: str, silence: float | None) -> dict[str, object]:
    meter = wire.Meter()
    await stream.send(wire.CREDIT, wire.WINDOW.to_bytes(4, "big"))
    while True:
        frame = await _next(stream, what, silence)
        if frame.kind == wire.END:
            return result_of(frame.payload, what)
        if frame.kind in (wire.DATA, wire.STDERR):
            take(frame.kind, frame.payload)
            meter.receive(len(frame.payload))
            again = meter.consume(len(frame.payload))
            if again:
                await stream.send(wire.CREDIT, again.to_bytes(4, "big"))


async def _next(stream: GuestStream, what: str, silence: float | None) -> wire.Frame:
    try:
        async with asyncio.timeout(silence):
            frame = await stream.receive()
    except TimeoutError:
        raise TimedOut(f"{what}: nothing has come for {silence:g} s") from None
    if frame is None:
        raise GuestFailed(f"{what} ended without a result")
    return frame


async def lay(conversation: Conversation, request: Mapping[str, object], chunks: Iterable[bytes]) -> None:
    """Send something as data, read in a thread as it is needed; raises what the guest says of it."""
    what = f"{request['op']} in {conversation.name}"
    stream = await conversation.open(request)
    try:
        source, credit = iter(chunks), 0
        while (chunk := await asyncio.to_thread(next, source, None)) is not None:
            view = memoryview(chunk)
            while view:
                while not credit:
                    frame = await _next(stream, what, SILENCE)
                    if frame.kind == wire.END:
                        result_of(frame.payload, what)
                        raise GuestFailed(f"{what} ended before all of it had come")
                    credit += wire.decode_credit(frame.payload) if frame.kind == wire.CREDIT else 0
                piece = view[: min(credit, wire.MAX_PAYLOAD)]
                await stream.send(wire.DATA, bytes(piece))
                credit, view = credit - len(piece), view[len(piece) :]
        await stream.send(wire.EOF, b"")
        while (frame := await _next(stream, what, SILENCE)).kind != wire.END:
            pass
        result_of(frame.payload, what)
    finally:
        await stream.aclose()


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How a command ended."""

    exit: int = 0
    signal: str = ""

    @property
    def trouble(self) -> str:
        """Empty when it went well."""
        return f"was ended by SIG{self.signal}" if self.signal else f"ended with status {self.exit}" if self.exit else ""
