"""Conversations with guests that behave, and with guests that do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from banger import wire
from banger.daemon.guests import Conversation, GuestStream, converse
from banger.model.errors import BadRequest, GuestFailed, NotFound, TimedOut

EPOCH = 77


class Pipe:
    """A stream in memory whose other end the test holds: `sent` is what the host wrote, `feed` what the guest writes."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.incoming: asyncio.Queue[bytes] = asyncio.Queue()
        self.closed = False

    async def read(self, limit: int) -> bytes:
        return await self.incoming.get()

    async def write(self, data: bytes) -> None:
        self.sent += data

    def close(self) -> None:
        self.closed = True

    def feed(self, data: bytes) -> None:
        self.incoming.put_nowait(data)

    def frames(self) -> list[wire.Frame]:
        """What the host said after its hello."""
        hunter = wire.Hunter(None)
        assert hunter.feed(bytes(self.sent)) is not None
        return wire.Decoder(EPOCH).feed(hunter.rest)


def guest_hello(**more: object) -> bytes:
    hello = {"wire": 1, "epoch": EPOCH, "version": "0.1.0", "boot_id": "b", "identified": True, **more}
    return wire.MARKER + wire.encode_json(wire.HELLO, 0, hello, tag=EPOCH)


def frame(kind: int, stream: int, payload: bytes = b"") -> bytes:
    return wire.encode(kind, stream, payload, tag=EPOCH)


@pytest.fixture
async def tasks() -> AsyncIterator[asyncio.TaskGroup]:
    class Over(Exception):
        pass

    try:
        async with asyncio.TaskGroup() as group:
            yield group
            raise Over
    except* Over:
        pass


async def met(tasks: asyncio.TaskGroup) -> tuple[Conversation, Pipe]:
    pipe = Pipe()
    pipe.feed(b"left over from before" + guest_hello())
    return await converse(pipe, epoch=EPOCH, tasks=tasks, name="otter", timeout=2), pipe


async def opened(conversation: Conversation, pipe: Pipe) -> GuestStream:
    pipe.feed(frame(wire.OPENED, conversation.next_number, b"{}"))
    stream = await conversation.open({"op": "exec"})
    assert (await stream.receive()) == (wire.OPENED, 1, b"{}")
    return stream


async def grant(stream: GuestStream, count: int) -> None:
    await stream.send(wire.CREDIT, count.to_bytes(4, "big"))


async def test_the_hello_is_found_behind_leftovers(tasks: asyncio.TaskGroup) -> None:
    conversation, _ = await met(tasks)
    assert conversation.hello.boot_id == "b"
    assert conversation.hello.identified


async def test_a_silent_guest_is_given_up_in_time(tasks: asyncio.TaskGroup) -> None:
    pipe = Pipe()
    with pytest.raises(TimedOut):
        await converse(pipe, epoch=EPOCH, tasks=tasks, name="otter", timeout=0.05)
    assert pipe.closed


@pytest.mark.parametrize(
    "garbage",
    [b"\x00" * 2_000_000, b"HTTP/1.1 200 OK\r\n" * 70_000, wire.MARKER + b"\xff" * 1_100_000],
    ids=["zeros", "text", "marker and noise"],
)
async def test_garbage_instead_of_a_hello_is_no_agent(tasks: asyncio.TaskGroup, garbage: bytes) -> None:
    pipe = Pipe()
    pipe.feed(garbage)
    with pytest.raises(GuestFailed, match="no agent"):
        await converse(pipe, epoch=EPOCH, tasks=tasks, name="otter", timeout=2)
    assert pipe.closed


async def test_a_hello_that_lacks_fields_or_is_of_another_version_is_refused(tasks: asyncio.TaskGroup) -> None:
    for hello, words in ((guest_hello(wire=2), "speaks wire 2"), (guest_hello(boot_id=5), "no agent")):
        pipe = Pipe()
        pipe.feed(hello)
        with pytest.raises(GuestFailed, match=words):
            await converse(pipe, epoch=EPOCH, tasks=tasks, name="otter", timeout=2)


async def test_an_end_of_the_connection_before_the_hello_is_told(tasks: asyncio.TaskGroup) -> None:
    pipe = Pipe()
    pipe.feed(b"")
    with pytest.raises(GuestFailed, match="ended before"):
        await converse(pipe, epoch=EPOCH, tasks=tasks, name="otter", timeout=2)


async def test_a_guest_that_answers_when_the_daemon_stops_is_hung_up_on() -> None:
    async with asyncio.TaskGroup() as over:
        pass
    pipe = Pipe()
    pipe.feed(guest_hello())
    with pytest.raises(GuestFailed, match="nobody listens"):
        await converse(pipe, epoch=EPOCH, tasks=over, name="otter", timeout=2)
    assert pipe.closed


async def test_a_request_returns_what_the_guest_answers(tasks: asyncio.TaskGroup) -> None:
    conversation, pipe = await met(tasks)
    pipe.feed(frame(wire.END, 1, b'{"ok":{"booted":true}}'))
    assert await conversation.request({"op": "info"}, timeout=2) == {"booted": True}
    assert pipe.frames()[0][:2] == (wire.OPEN, 1)


@pytest.mark.parametrize(
    ("payload", "kind", "words"),
    [
        (b'{"error":{"code":"failed","message":"no such luck"}}', GuestFailed, "no such luck"),
        (b'{"error":{"code":"not-found","message":"user x"}}', NotFound, "user x"),
        (b"{}", GuestFailed, "no answer"),
        (b"[]", GuestFailed, "not a JSON object"),
        (b"\xff", GuestFailed, "not JSON"),
    ],
)
async def test_a_request_that_fails_says_why(tasks: asyncio.TaskGroup, payload: bytes, kind: type[Exception], words: str) -> None:
    conversation, pipe = await met(tasks)
    pipe.feed(frame(wire.END, 1, payload))
    with pytest.raises(kind, match=words):
        await conversation.request({"op": "info"}, timeout=2)


async def test_a_request_without_an_answer_is_given_up_in_time(tasks: asyncio.TaskGroup) -> None:
    conversation, _ = await met(tasks)
    with pytest.raises(TimedOut):
        await conversation.request({"op": "sync"}, timeout=0.05)


async def test_a_long_request_goes_in_one_piece_with_nothing_between_its_parts(tasks: asyncio.TaskGroup) -> None:
    pipe = Pipe()
    pipe.feed(guest_hello(longest_request=wire.MAX_REQUEST))
    conversation = await converse(pipe, epoch=EPOCH, tasks=tasks, name="otter", timeout=2)
    pipe.feed(frame(wire.OPENED, 1, b"{}"))
    await conversation.open({"op": "exec", "argv": ["x" * 1_000_000]})
    kinds = [kind for kind, _, _ in pipe.frames()]
    assert kinds == [wire.PART] * (len(kinds) - 1) + [wire.OPEN]
    assert len(kinds) == 16
    with pytest.raises(BadRequest, match="may have 2097152") as caught:
        await conversation.open({"op": "exec", "argv": ["x" * 3_000_000]})
    assert "stdin" in caught.value.hint


async def test_an_agent_that_does_not_say_so_gets_no_request_of_several_frames(tasks: asyncio.TaskGroup) -> None:
    conversation, pipe = await met(tasks)
    with pytest.raises(BadRequest, match="may have 65536"):
        await conversation.open({"op": "exec", "argv": ["x" * 70_000]})
    assert pipe.frames() == []


async def test_data_within_its_credit_is_delivered_and_small_pieces_join(tasks: asyncio.TaskGroup) -> None:
    conversation, pipe = await met(tasks)
    stream = await opened(conversation, pipe)
    await grant(stream, 10)
    pipe.feed(frame(wire.DATA, 1, b"abc") + frame(wire.DATA, 1, b"def") + frame(wire.STDERR, 1, b"!") + frame(wire.EOF, 1))
    pipe.feed(frame(wire.END, 1, b'{"ok":{"exit":0}}'))
    received = [await stream.receive() for _ in range(4)]
    assert [frame and (frame.kind, frame.payload) for frame in received] == [
        (wire.DATA, b"abcdef"),
        (wire.STDERR, b"!"),
        (wire.EOF, b""),
        (wire.END, b'{"ok":{"exit":0}}'),
    ]
    assert await stream.receive() is None


BREACHES = {
    "data without credit": frame(wire.DATA, 1, b"x"),
    "empty data": frame(wire.DATA, 1),
    "opened twice": frame(wire.OPENED, 1, b"{}"),
    "a control frame": frame(wire.CONTROL, 1, b"{}"),
    "a stream that never was": frame(wire.DATA, 9, b"x"),
    "short credit": frame(wire.CREDIT, 1, b"x"),
    "endless credit": frame(wire.CREDIT, 1, b"\xff\xff\xff\xff"),
    "an oversized frame": (1 << 20).to_bytes(4, "big") + b"\0\0\0\1\4\0\0\0" + b"x" * 200,
    "another's tag": wire.encode(wire.EOF, 1, tag=EPOCH + 1),
    "an unknown type": b"\0\0\0\0\0\0\0\1\x63\0\0\0" + EPOCH.to_bytes(4, "big"),
}


@pytest.mark.parametrize("breach", BREACHES.values(), ids=BREACHES.keys())
async def test_a_breach_ends_the_conversation_and_its_streams_hear_it(tasks: asyncio.TaskGroup, breach: bytes) -> None:
    conversation, pipe = await met(tasks)
    stream = await opened(conversation, pipe)
    pipe.feed(breach)
    async with asyncio.timeout(2):
        end = await stream.receive()
    assert end is not None
    assert end.kind == wire.END
    assert b"guest-failed" in end.payload
    assert pipe.closed
    with pytest.raises(GuestFailed):
        await conversation.request({"op": "ping"}, timeout=1)


async def test_half_a_frame_and_then_the_end_breaks_the_conversation(tasks: asyncio.TaskGroup) -> None:
    conversation, pipe = await met(tasks)
    stream = await opened(conversation, pipe)
    pipe.feed(frame(wire.EOF, 1)[:9])
    pipe.feed(b"")
    end = await stream.receive()
    assert end is not None
    assert b"has ended" in end.payload
    assert conversation.broken is not None


async def test_what_waits_for_a_slow_holder_never_exceeds_its_credit(tasks: asyncio.TaskGroup) -> None:
    conversation, pipe = await met(tasks)
    stream = await opened(conversation, pipe)
    await grant(stream, wire.WINDOW)
    for _ in range(wire.WINDOW // 1024):
        pipe.feed(frame(wire.DATA, 1, bytes(1024)))
    pipe.feed(frame(wire.CREDIT, 1, (1).to_bytes(4, "big")))
    while not stream.credit:
        stream.arrived.clear()
        await stream.arrived.wait()
    assert sum(len(waiting.payload) for waiting in stream.waiting) == wire.WINDOW
    assert len(stream.waiting) <= wire.WINDOW // wire.MAX_PAYLOAD + 1


async def test_a_holder_may_not_send_more_than_the_guest_takes(tasks: asyncio.TaskGroup) -> None:
    conversation, pipe = await met(tasks)
    stream = await opened(conversation, pipe)
    with pytest.raises(BadRequest):
        await stream.send(wire.DATA, b"too early")
    pipe.feed(frame(wire.CREDIT, 1, (5).to_bytes(4, "big")))
    assert (await stream.receive()) == (wire.CREDIT, 1, b"\0\0\0\5")
    await stream.send(wire.DATA, b"12345")
    assert pipe.frames()[-1] == (wire.DATA, 1, b"12345")
    with pytest.raises(BadRequest):
        await stream.send(wire.OPEN, b"{}")


async def test_giving_a_stream_up_resets_it_and_its_late_frames_are_dropped(tasks: asyncio.TaskGroup) -> None:
    conversation, pipe = await met(tasks)
    stream = await opened(conversation, pipe)
    await grant(stream, 10)
    await stream.aclose()
    assert pipe.frames()[-1][:2] == (wire.RESET, 1)
    pipe.feed(frame(wire.DATA, 1, b"late") + frame(wire.END, 1, b"{}") + frame(wire.END, 2, b'{"ok":{}}'))
    assert await conversation.request({"op": "ping"}, timeout=2) == {}


async def test_who_leaves_before_the_guest_has_answered_resets_what_may_have_begun(tasks: asyncio.TaskGroup) -> None:
    conversation, pipe = await met(tasks)
    opening = asyncio.ensure_future(conversation.open({"op": "exec"}))
    await asyncio.sleep(0)
    assert list(conversation.streams) == [1]
    opening.cancel()
    await asyncio.wait([opening])
    assert [each[:2] for each in pipe.frames()] == [(wire.OPEN, 1), (wire.RESET, 1)]
    assert conversation.streams == {}


async def test_a_stream_that_the_guest_never_heard_of_is_not_reset(tasks: asyncio.TaskGroup) -> None:
    conversation, pipe = await met(tasks)
    async with conversation.writing:
        opening = asyncio.ensure_future(conversation.open({"op": "exec"}))
        await asyncio.sleep(0)
        assert list(conversation.streams) == [1]
        opening.cancel()
        await asyncio.wait([opening])
    assert pipe.frames() == []


async def test_a_request_that_was_given_up_keeps_nothing(tasks: asyncio.TaskGroup) -> None:
    conversation, pipe = await met(tasks)
    with pytest.raises(TimedOut):
        await conversation.request({"op": "sync"}, timeout=0.05)
    assert conversation.streams == {}
    assert pipe.frames()[-1][:2] == (wire.RESET, 1)
