"""Conversations with the agents in guests: one connection a machine, many streams on it (docs/wire.md is the protocol).

Every byte that comes is hostile: the credit that a stream's holder granted bounds what is kept for it, each kind of frame may come only in its turn,
and whatever breaks a rule ends the conversation, not the daemon. A guest that is slow to read delays its own machine's writers and nobody else.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping

import msgspec

from banger import __version__, wire
from banger.host.stream import Stream
from banger.model.errors import BadRequest, BangerError, GuestFailed, NoCommand, NotFound, TimedOut

log = logging.getLogger(__name__)
ONE_FRAME = wire.MAX_PAYLOAD
HELLO_TIMEOUT = 10.0
OPEN_TIMEOUT = 30.0
RESET_TIMEOUT = 1.0
READ = 1 << 18
FROM_HOLDER = frozenset({wire.DATA, wire.EOF, wire.CREDIT, wire.CONTROL, wire.RESET})
NOT_ON_HOST = frozenset({"not-found", "not-permitted"})


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent says of itself. Fields that a newer one adds are ignored."""

    wire: int
    epoch: int
    version: str
    boot_id: str = ""
    identified: bool = False
    #: An agent that does not say takes a single frame.
    longest_request: int = ONE_FRAME
    boot_error: str = ""


class GuestStream:
    """One stream of a conversation; implements Duplex. What waits for the holder is bounded by the credit that the holder gave."""

    def __init__(self, conversation: Conversation, number: int) -> None:
        self.conversation, self.number = conversation, number
        self.waiting: deque[wire.Frame] = deque()
        self.arrived = asyncio.Event()
        self.granted = 0
        self.credit = 0
        self.meter = wire.Meter()
        self.seen: set[int] = set()
        #: Whether the guest may have heard of it, so that it must be told when it is given up.
        self.begun = self.over = False

    def take(self, frame: wire.Frame) -> None:
        """A frame from the guest; WireError when it is not its turn."""
        kind, _, payload = frame
        if kind == wire.CREDIT:
            self._take_credit(wire.decode_credit(payload))
        elif kind in (wire.DATA, wire.STDERR):
            self._take_data(kind, payload)
        elif kind in (wire.OPENED, wire.EOF, wire.END) and kind not in self.seen:
            self.seen.add(kind)
            self.over = self.over or kind == wire.END
            self.waiting.append(frame)
        else:
            raise wire.WireError(f"{wire.NAMES[kind]} frame out of turn")
        self.arrived.set()

    def _take_credit(self, count: int) -> None:
        self.meter.grant(count)
        self.credit += count

    def _take_data(self, kind: int, payload: bytes) -> None:
        if not payload or wire.EOF in self.seen or len(payload) > self.granted:
            raise wire.WireError(f"{wire.NAMES[kind]} frame that is empty, after eof, or beyond its credit")
        self.granted -= len(payload)
        last = self.waiting[-1] if self.waiting else None
        if last is not None and last.kind == kind and len(last.payload) + len(payload) <= wire.MAX_PAYLOAD:
            self.waiting[-1] = wire.Frame((kind, 1, last.payload + payload))
        else:
            self.waiting.append(wire.Frame((kind, 1, payload)))

    def fail(self, error: BangerError) -> None:
        """The conversation is over: whoever holds the stream gets an `end` that says why."""
        if not self.over:
            self.over = True
            failure = {"error": {"code": error.code, "message": str(error)}}
            self.waiting.append(wire.Frame((wire.END, 1, msgspec.json.encode(failure))))
            self.arrived.set()

    async def receive(self) -> wire.Frame | None:
        """See Duplex. Credit that came in portions is passed on as one."""
        while not self.waiting and not self.credit:
            if self.over:
                return None
            self.arrived.clear()
            await self.arrived.wait()
        if self.credit:
            count, self.credit = self.credit, 0
            return wire.Frame((wire.CREDIT, 1, count.to_bytes(4, "big")))
        return self.waiting.popleft()

    async def send(self, kind: int, payload: bytes) -> None:
        """See Duplex."""
        if kind not in FROM_HOLDER:
            raise BadRequest(f"a {kind} frame does not go to a guest")
        if self.over:
            return
        try:
            if kind == wire.CREDIT:
                self.granted += wire.decode_credit(payload)
            elif kind == wire.DATA:
                self.meter.spend(len(payload))
        except wire.WireError as error:
            raise BadRequest(str(error)) from error
        if self.granted > wire.MAX_CREDIT:
            raise BadRequest("more credit than a stream may have")
        await self.conversation.write(wire.encode(kind, self.number, payload, tag=self.conversation.epoch))

    async def aclose(self) -> None:
        """See Duplex."""
        self.conversation.streams.pop(self.number, None)
        if not self.over:
            self.over = True
            await self.conversation.write(wire.encode(wire.RESET, self.number, tag=self.conversation.epoch))


class Conversation:
    """One connection to an agent, from its hello to its end."""

    def __init__(self, stream: Stream, hello: Hello, tasks: asyncio.TaskGroup, rest: bytes, name: str) -> None:
        self.stream, self.hello, self.epoch, self.name = stream, hello, hello.epoch, name
        self.streams: dict[int, GuestStream] = {}
        self.next_number = 1
        self.writing = asyncio.Lock()
        self.broken: BangerError | None = None
        #: Why it will end, once somebody knows; told however the end then shows.
        self.ending: BangerError | None = None
        self.decoder = wire.Decoder(self.epoch)
        reading = self._read(rest)
        try:
            self.reader = tasks.create_task(reading, name=f"guest {name}")
        except RuntimeError as error:  # the group takes no more tasks: the daemon is being stopped
            reading.close()
            stream.close()
            raise GuestFailed(f"nobody listens to {name} any more: {error}") from error

    async def _read(self, data: bytes) -> None:
        try:
            while True:
                for frame in self.decoder.feed(data):
                    self._dispatch(frame)
                data = await self.stream.read(READ)
                if not data:
                    raise GuestFailed(f"the connection to {self.name} has ended")
        except wire.WireError as error:
            self.close(GuestFailed(f"the agent in {self.name} broke the protocol: {error}"))
        except (OSError, GuestFailed) as error:
            self.close(error if isinstance(error, GuestFailed) else GuestFailed(f"the connection to {self.name} broke: {error}"))

    def _dispatch(self, frame: wire.Frame) -> None:
        stream = self.streams.get(frame.stream)
        if stream is not None:
            stream.take(frame)
            if stream.over:
                del self.streams[frame.stream]
        elif frame.stream >= self.next_number or frame.kind in (wire.OPEN, wire.CONTROL, wire.RESET, wire.PART):
            raise wire.WireError(f"{wire.NAMES[frame.kind]} frame for a stream that never was")

    async def write(self, data: bytes, *, begins: GuestStream | None = None) -> None:
        """Send one or more whole frames, the first ever of the stream that `begins`; a connection that breaks is noted, and its streams end."""
        if self.broken is not None:
            raise self.broken
        try:
            async with self.writing:
                if begins is not None:
                    begins.begun = True
                await self.stream.write(data)
        except OSError as error:
            self.close(GuestFailed(f"the connection to {self.name} broke: {error}"))
            raise GuestFailed(f"the connection to {self.name} broke: {error}") from error

    def close(self, why: BangerError) -> None:
        """End it for a reason; every stream's holder hears it."""
        if self.broken is None:
            why = self.ending or why
            log.info("conversation with %s: %s", self.name, why)
            self.broken = why
            for stream in self.streams.values():
                stream.fail(why)
            self.streams.clear()
            self.stream.close()
            if self.reader is not asyncio.current_task():
                self.reader.cancel()

    async def open(self, request: Mapping[str, object]) -> GuestStream:
        """Begin a stream; returns once the guest has accepted or ended it (that frame is the first to be received), within 30 s."""
        if self.broken is not None:
            raise self.broken
        stream = GuestStream(self, self.next_number)
        self.next_number += 1
        self.streams[stream.number] = stream
        try:
            frames = wire.encode_request(stream.number, request, tag=self.epoch, limit=self.hello.longest_request)
        except wire.WireError as error:
            del self.streams[stream.number]
            raise BadRequest(f"the request does not fit: {error}", hint="pass what is long through the command's stdin") from error
        try:
            async with asyncio.timeout(OPEN_TIMEOUT):
                await self.write(frames, begins=stream)
                while not stream.waiting:
                    stream.arrived.clear()
                    await stream.arrived.wait()
        except TimeoutError:
            await self._give_up(stream)
            raise TimedOut(f"the agent in {self.name} did not answer within {OPEN_TIMEOUT:g} s", hint=f"look at: banger vm logs {self.name}") from None
        except BaseException:
            await self._give_up(stream)
            raise
        return stream

    async def _give_up(self, stream: GuestStream) -> None:
        """Stop what may have begun in the guest; one that does not take the news in time is not waited for."""
        self.streams.pop(stream.number, None)
        try:
            async with asyncio.timeout(RESET_TIMEOUT):
                if stream.begun:
                    await stream.aclose()
        except (BangerError, TimeoutError) as error:
            log.info("stream %d of %s was not reset: %s", stream.number, self.name, error)

    async def request(self, request: Mapping[str, object], *, timeout: float) -> dict[str, object]:
        """A request without streams: its `ok` object. GuestFailed or NotFound with the guest's message; TimedOut after `timeout` seconds."""
        stream: GuestStream | None = None
        try:
            async with asyncio.timeout(timeout):
                stream = await self.open(request)
                frame = await stream.receive()
        except TimeoutError:
            if stream is not None:
                await self._give_up(stream)
            raise TimedOut(f"{request['op']} in {self.name} took longer than {timeout:g} s") from None
        if frame is None or frame.kind != wire.END:
            await stream.aclose()
            raise GuestFailed(f"the agent in {self.name} answered {request['op']} out of turn")
        return result_of(frame.payload, f"{request['op']} in {self.name}")


def result_of(payload: bytes, what: str) -> dict[str, object]:
    """What an `end` says: its `ok` object; NoCommand, NotFound or GuestFailed with the guest's message."""
    try:
        answer = wire.decode_json(payload)
    except wire.WireError as error:
        raise GuestFailed(f"{what}: {error}") from error
    good, bad = answer.get("ok"), answer.get("error")
    if isinstance(good, dict):
        return good
    code, message = (bad.get("code"), bad.get("message")) if isinstance(bad, dict) else ("failed", "no answer")
    kind = NoCommand if code == NoCommand.code else NotFound if code in NOT_ON_HOST else GuestFailed
    raise kind(f"{what}: {str(message)[:1000]}")


async def converse(stream: Stream, *, epoch: int, tasks: asyncio.TaskGroup, name: str, timeout: float = HELLO_TIMEOUT) -> Conversation:
    """Say hello on a fresh connection and return the conversation; GuestFailed or TimedOut when no agent of our kind answers."""
    hello = {"wire": wire.VERSION, "epoch": epoch, "version": __version__}
    hunter = wire.Hunter(epoch)
    try:
        async with asyncio.timeout(timeout):
            greeting = wire.preamble() + wire.encode_json(wire.HELLO, 0, hello, tag=epoch)
            answer = await _hunt(stream, greeting, hunter, name)
    except TimeoutError:
        stream.close()
        raise TimedOut(f"the agent in {name} did not answer within {timeout:g} s") from None
    except BaseException:
        stream.close()
        raise
    return Conversation(stream, answer, tasks, hunter.rest, name)


async def _hunt(stream: Stream, greeting: bytes, hunter: wire.Hunter, name: str) -> Hello:
    found: dict[str, object] | None = None
    try:
        await stream.write(greeting)
        while found is None:
            data = await stream.read(READ)
            if not data:
                raise GuestFailed(f"the connection to {name} ended before its agent answered")
            found = hunter.feed(data)
        hello = msgspec.convert(found, Hello)
    except (wire.WireError, msgspec.ValidationError, OSError) as error:
        raise GuestFailed(f"what answers in {name} is no agent: {error}") from error
    if hello.wire != wire.VERSION:
        raise GuestFailed(f"the agent in {name} speaks wire {hello.wire} (version {hello.version}), this daemon {wire.VERSION}")
    return hello
