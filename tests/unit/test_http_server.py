"""The HTTP server over operations made for the purpose: every form of result, every kind of failure, and clients that misbehave or leave."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from banger.daemon.duplex import Duplex
from banger.frontends.http import talk as talking
from banger.frontends.http.server import Service
from banger.model.errors import NotFound, WrongState
from banger.model.event import Event
from banger.ops import Op
from banger.wire import DATA, END, OPEN, Decoder, Frame, encode

SECONDS = 5


class Toy:
    """The state behind the toy operations."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.duplex = ToyDuplex()


class ToyDuplex:
    """Echoes `data`; ends after `bye`."""

    def __init__(self) -> None:
        self.frames: asyncio.Queue[Frame | None] = asyncio.Queue()
        self.closed = asyncio.Event()

    async def receive(self) -> Frame | None:
        return await self.frames.get()

    async def send(self, kind: int, payload: bytes) -> None:
        self.frames.put_nowait(Frame((kind, 7, payload)))
        if payload == b"bye":
            self.frames.put_nowait(Frame((END, 7, b'{"ok":{}}')))
            self.frames.put_nowait(None)

    async def aclose(self) -> None:
        self.closed.set()


def show(daemon: Toy, *, name: str, loud: bool = False) -> dict[str, str | bool]:
    """Show a thing.

    At length.
    """
    if name == "missing":
        raise NotFound(f"there is no thing {name}", hint="make one")
    return {"name": name, "loud": loud}


async def make(daemon: Toy, *, name: str | None = None, size: int = 1, words: list[str] | None = None) -> None:
    """Make a thing."""
    if size == 0:
        raise ZeroDivisionError("a secret")


async def watch(daemon: Toy, *, fail: str = "", endless: bool = False) -> AsyncIterator[dict[str, int]]:
    """Watch things."""
    try:
        daemon.begun.set()
        yield Event(stage="look")
        if fail == "wrong-state":
            raise WrongState("it sleeps", stage="look")
        if fail:
            raise ZeroDivisionError("a secret")
        yield {"n": 1}
        if endless:
            await asyncio.get_running_loop().create_future()
    finally:
        daemon.closed.set()


async def hold(daemon: Toy) -> None:
    """Hold a thing until it may go."""
    daemon.begun.set()
    await daemon.go.wait()


async def talk(daemon: Toy, *, name: str) -> Duplex:
    """Talk to a thing."""
    if name == "missing":
        raise NotFound("there is no thing missing")
    return daemon.duplex


OPS = {
    op.name: op
    for op in (
        Op("thing.show", "GET", "/things/{name}", show),
        Op("thing.make", "POST", "/things", make),
        Op("thing.watch", "POST", "/things/watch", watch),
        Op("thing.hold", "POST", "/things/hold", hold),
        Op("thing.talk", "POST", "/things/{name}/talk", talk),
    )
}


class Peer:
    """The client's end of a connection, and what it has read."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, method: str, target: str, body: bytes = b"", *headers: str) -> None:
        lines = [f"{method} {target} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""]
        self.writer.write("\r\n".join(lines).encode() + body)

    async def head(self) -> tuple[int, dict[str, str]]:
        async with asyncio.timeout(SECONDS):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        return int(lines[0].split()[1]), dict(line.lower().split(": ", 1) for line in lines[1:] if line)

    async def answer(self) -> tuple[int, object]:
        status, headers = await self.head()
        async with asyncio.timeout(SECONDS):
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return status, json.loads(body) if body else None

    async def ask(self, method: str, target: str, body: bytes = b"", *headers: str) -> tuple[int, object]:
        self.send(method, target, body, *headers)
        return await self.answer()

    async def line(self) -> object:
        async with asyncio.timeout(SECONDS):
            size = int(await self.reader.readline(), 16)
            data = await self.reader.readexactly(size + 2)
        return json.loads(data) if size else None

    async def end(self) -> bytes:
        async with asyncio.timeout(SECONDS):
            return await self.reader.read()


@asynccontextmanager
async def connected(toy: Toy, *, stale: Callable[[], bool] | None = None, service: Service | None = None) -> AsyncIterator[Peer]:
    service = service or Service(OPS, toy, "0.1.0+100", stale=stale)
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=theirs)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(service.converse(reader, writer))
        mine, out = await asyncio.open_unix_connection(sock=ours)
        try:
            yield Peer(mine, out)
        finally:
            out.close()
            task.cancel()


@pytest.fixture
async def toy() -> Toy:
    return Toy()


async def test_a_result_is_json_with_the_build_in_its_head(toy: Toy) -> None:
    async with connected(toy) as peer:
        peer.send("GET", "/things/a%20b?loud=true")
        status, headers = await peer.head()
        assert (status, headers["banger-build"], headers["content-type"]) == (200, "0.1.0+100", "application/json")
        assert json.loads(await peer.reader.readexactly(int(headers["content-length"]))) == {"name": "a b", "loud": True}


async def test_a_connection_serves_one_request_after_another_also_when_sent_ahead(toy: Toy) -> None:
    async with connected(toy) as peer:
        peer.send("GET", "/things/one")
        peer.send("GET", "/things/two")
        assert [(await peer.answer())[1]["name"] for _ in range(2)] == ["one", "two"]


async def test_nothing_to_say_is_204(toy: Toy) -> None:
    async with connected(toy) as peer:
        assert await peer.ask("POST", "/things", b'{"size": 3, "words": ["a"]}') == (204, None)


@pytest.mark.parametrize(
    ("method", "target", "body", "status", "code", "says"),
    [
        ("GET", "/things/missing", b"", 404, "not-found", "there is no thing missing"),
        ("GET", "/nowhere", b"", 404, "not-found", "nothing at '/nowhere'"),
        ("PUT", "/things", b"", 400, "bad-request", "PUT is not possible"),
        ("GET", "/things/x?colour=red", b"", 400, "bad-request", "no parameter 'colour'"),
        ("GET", "/things/x?loud=perhaps", b"", 400, "bad-request", "$.loud"),
        ("GET", "/things/x?loud=true&loud=true", b"", 400, "bad-request", "twice"),
        ("GET", "/things/%ff", b"", 400, "bad-request", "cannot be read"),
        ("POST", "/things", b'{"sise": 1}', 400, "bad-request", "no parameter 'sise'"),
        ("POST", "/things", b'{"size": "1"}', 400, "bad-request", "$.size"),
        ("POST", "/things", b"[]", 400, "bad-request", "the request's body"),
        ("POST", "/things", b"{", 400, "bad-request", "the request's body"),
        ("POST", "/things", b'{"x":' + b"[" * 100_000, 400, "bad-request", "nested too deeply"),
        ("POST", "/things?size=1", b"", 400, "bad-request", "JSON object"),
        ("POST", "/things/x/talk", b"", 400, "bad-request", "upgraded connection"),
        ("POST", "/things/x/talk", b'{"name": "y"}', 400, "bad-request", "no parameter 'name'"),
    ],
)
async def test_what_cannot_be_meant_is_refused_by_name(toy: Toy, method: str, target: str, body: bytes, status: int, code: str, says: str) -> None:
    async with connected(toy) as peer:
        got, answer = await peer.ask(method, target, body)
        assert (got, answer["error"]["code"]) == (status, code)
        assert says in answer["error"]["message"]
        assert (await peer.ask("GET", "/things/still"))[0] == 200


async def test_an_unforeseen_failure_stays_in_the_log(toy: Toy, caplog: pytest.LogCaptureFixture) -> None:
    async with connected(toy) as peer:
        status, answer = await peer.ask("POST", "/things", b'{"size": 0}')
    assert (status, answer["error"]["code"]) == (500, "internal")
    assert "secret" not in json.dumps(answer)
    assert "a secret" in caplog.text


async def test_a_stream_is_lines_and_then_the_connection_goes_on(toy: Toy) -> None:
    async with connected(toy) as peer:
        peer.send("POST", "/things/watch")
        assert (await peer.head())[1]["content-type"] == "application/x-ndjson"
        assert [await peer.line() for _ in range(3)] == [{"event": {"stage": "look"}}, {"result": {"n": 1}}, None]
        assert (await peer.ask("GET", "/things/still"))[0] == 200


@pytest.mark.parametrize(("fail", "code"), [("wrong-state", "wrong-state"), ("oops", "internal")])
async def test_a_stream_that_fails_says_so_in_its_last_line(toy: Toy, fail: str, code: str) -> None:
    async with connected(toy) as peer:
        peer.send("POST", "/things/watch", json.dumps({"fail": fail}).encode())
        await peer.head()
        await peer.line()
        last = await peer.line()
        assert last["error"]["code"] == code
        assert "secret" not in last["error"]["message"]
        assert await peer.line() is None


@pytest.mark.parametrize("leave", ["close", "half"])
async def test_a_client_that_leaves_closes_the_stream_at_once(toy: Toy, leave: str) -> None:
    async with connected(toy) as peer:
        peer.send("POST", "/things/watch", b'{"endless": true}')
        await peer.head()
        await peer.line()
        await peer.line()
        peer.writer.close() if leave == "close" else peer.writer.write_eof()
        async with asyncio.timeout(SECONDS):
            await toy.closed.wait()


async def test_a_client_that_leaves_before_the_first_line_closes_the_stream_too(toy: Toy) -> None:
    async with connected(toy) as peer:
        peer.send("POST", "/things/watch", b'{"endless": true}')
        async with asyncio.timeout(SECONDS):
            await toy.begun.wait()
        peer.writer.transport.abort()
        async with asyncio.timeout(SECONDS):
            await toy.closed.wait()


async def frames_of(peer: Peer, count: int) -> list[Frame]:
    decoder, found = Decoder(1), []
    async with asyncio.timeout(SECONDS):
        while len(found) < count:
            found += decoder.feed(await peer.reader.read(65536))
    return found


UPGRADE = ("Connection: Upgrade", "Upgrade: banger-wire")


async def test_an_upgraded_connection_carries_frames_also_those_sent_ahead(toy: Toy) -> None:
    async with connected(toy) as peer:
        peer.send("POST", "/things/x/talk", b"", *UPGRADE)
        peer.writer.write(encode(DATA, 1, b"early", tag=1))
        status, headers = await peer.head()
        assert (status, headers["upgrade"]) == (101, "banger-wire")
        peer.writer.write(encode(DATA, 1, b"bye", tag=1))
        assert await frames_of(peer, 3) == [(DATA, 1, b"early"), (DATA, 1, b"bye"), (END, 1, b'{"ok":{}}')]
        assert await peer.end() == b""
        assert toy.duplex.closed.is_set()


@pytest.mark.parametrize("nonsense", [encode(OPEN, 1, b"{}", tag=1), encode(DATA, 2, b"x", tag=1), encode(DATA, 1, b"x", tag=9), b"\xff" * 64])
async def test_frames_that_are_not_for_a_client_end_the_conversation(toy: Toy, nonsense: bytes) -> None:
    async with connected(toy) as peer:
        peer.send("POST", "/things/x/talk", b"", *UPGRADE)
        await peer.head()
        peer.writer.write(nonsense)
        (end,) = await frames_of(peer, 1)
        assert json.loads(end.payload)["error"]["code"] == "bad-request"
        assert await peer.end() == b""
        assert toy.duplex.closed.is_set()


async def test_a_client_that_hangs_up_gives_the_guest_up(toy: Toy) -> None:
    async with connected(toy) as peer:
        peer.send("POST", "/things/x/talk", b"", *UPGRADE)
        await peer.head()
        peer.writer.transport.abort()
        async with asyncio.timeout(SECONDS):
            await toy.duplex.closed.wait()


async def test_a_conversation_that_cannot_begin_is_an_ordinary_error(toy: Toy) -> None:
    async with connected(toy) as peer:
        assert (await peer.ask("POST", "/things/missing/talk", b"", *UPGRADE))[0] == 404


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 70_000, 431),
        (b"POST /things HTTP/1.1\r\nHost: x\r\nContent-Length: 4194305\r\n\r\n" + b" " * 4_194_305, 413),
        (b"POST /things HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
    ],
)
async def test_what_is_no_request_is_answered_and_the_connection_closed(toy: Toy, request_bytes: bytes, status: int) -> None:
    async with connected(toy) as peer:
        peer.writer.write(request_bytes)
        got, answer = await peer.answer()
        assert (got, answer["error"]["code"]) == (status, "bad-request")
        assert await peer.end() == b""


async def test_a_request_that_never_completes_is_given_up(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talking, "REQUEST_SECONDS", 0.05)
    async with connected(toy) as peer:
        peer.writer.write(b"GET /things/x HT")
        assert (await peer.answer())[0] == 408


async def test_a_newer_client_makes_an_idle_daemon_step_down(toy: Toy) -> None:
    async with connected(toy, stale=lambda: True) as peer:
        status, answer = await peer.ask("GET", "/things/x", b"", "Banger-Build: 0.1.0+101")
        assert (status, answer["error"]["code"]) == (426, "daemon-stale")


@pytest.mark.parametrize(("theirs", "agrees"), [("0.1.0+101", False), ("0.1.0+100", True), ("0.0.9+900", True)])
async def test_a_busy_daemon_or_an_older_client_is_served_as_usual(toy: Toy, theirs: str, agrees: bool) -> None:
    async with connected(toy, stale=lambda: agrees) as peer:
        assert (await peer.ask("GET", "/things/x", b"", f"Banger-Build: {theirs}"))[0] == 200


@pytest.mark.parametrize("call", [("POST", "/things/hold"), ("POST", "/things/watch", b'{"endless": true}')], ids=["a call", "a stream"])
async def test_a_daemon_with_a_call_under_way_does_not_step_down_for_newer_code(toy: Toy, call: tuple[str, str, bytes]) -> None:
    service = Service(OPS, toy, "0.1.0+100", stale=lambda: not service.calls)
    newer = ("GET", "/things/x", b"", "Banger-Build: 0.1.0+101")
    async with connected(toy, service=service) as peer:
        async with connected(toy, service=service) as other:
            other.send(*call)
            async with asyncio.timeout(SECONDS):
                await toy.begun.wait()
            assert (await peer.ask(*newer))[0] == 200
            toy.go.set()
            assert (await other.head())[0] < 300
        async with asyncio.timeout(SECONDS):
            while service.calls:  # noqa: ASYNC110 (the other end has just gone)
                await asyncio.sleep(0)
        assert (await peer.ask(*newer))[0] == 426


async def test_a_build_that_cannot_be_read_is_refused(toy: Toy) -> None:
    async with connected(toy) as peer:
        assert (await peer.ask("GET", "/things/x", b"", "Banger-Build: new"))[0] == 400


async def test_openapi_describes_every_operation(toy: Toy) -> None:
    async with connected(toy) as peer:
        status, found = await peer.ask("GET", "/openapi.json")
        assert (status, found["openapi"]) == (200, "3.1.0")
        assert set(found["paths"]) == {op.path for op in OPS.values()}
        body = found["paths"]["/things"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert body["properties"]["size"] == {"type": "integer", "default": 1}
        assert found["paths"]["/things/{name}"]["get"]["summary"] == "Show a thing."


def test_the_real_operations_can_be_described() -> None:
    from banger.frontends.http.openapi import describe
    from banger.ops import every_op

    found = describe(every_op())
    assert {"VmStatus", "Failure", "Operation", "Event"} <= set(found["components"]["schemas"])
