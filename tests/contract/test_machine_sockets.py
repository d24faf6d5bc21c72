"""Streams, QMP and consoles: the same tests on the fakes and on real sockets."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import pytest

from banger.host.console import RealConsoles, older
from banger.host.qmp import RealQmp
from banger.host.stream import Dialer, RealDialer, RealStream, Stream
from banger.model.errors import GuestFailed, TimedOut, VmmFailed
from banger.model.ids import VmId
from banger.model.paths import Paths
from banger.testing import FakeHost
from banger.testing.qemu import answer_qmp
from banger.testing.stream import FakeDialer

VM = VmId("0123456789ab")
Server = Callable[[Stream], Awaitable[None]]


class Sockets(Protocol):
    """Where servers can be put, and a dialer that reaches them."""

    dialer: Dialer

    async def listen(self, path: Path, server: Server) -> None: ...
    async def aclose(self) -> None: ...


class Fake:
    """In memory."""

    def __init__(self) -> None:
        self.dialer = FakeDialer()

    async def listen(self, path: Path, server: Server) -> None:
        self.dialer.listen(path, server)

    async def aclose(self) -> None:
        await self.dialer.aclose()


class Real:
    """On Unix sockets, whose paths are too long for an address."""

    def __init__(self) -> None:
        self.dialer = RealDialer()
        self.servers: list[asyncio.Server] = []

    async def listen(self, path: Path, server: Server) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            stream = RealStream(reader, writer)
            try:
                await server(stream)
            except GuestFailed:
                pass
            finally:
                stream.close()

        short = Path("/tmp") / f"banger-{abs(hash(path)) % 10**8}.sock"
        self.servers.append(await asyncio.start_unix_server(serve, short))
        short.rename(path)

    async def aclose(self) -> None:
        for server in self.servers:
            server.close()


@pytest.fixture(params=[Fake, Real], ids=["fake", "real"])
async def sockets(request: pytest.FixtureRequest) -> AsyncIterator[Sockets]:
    made = request.param()
    yield made
    await made.aclose()


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    """A folder whose path is longer than a socket address holds."""
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    return folder


async def echo(stream: Stream) -> None:
    while data := await stream.read(1 << 16):
        await stream.write(data)


async def read_exactly(stream: Stream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = await stream.read(count - len(data))
        assert more, "the stream ended early"
        data += more
    return data


async def write_without_end(stream: Stream) -> None:
    for _ in range(1000):
        await stream.write(b"x" * 65536)


async def test_what_is_written_comes_back(sockets: Sockets, deep: Path) -> None:
    await sockets.listen(deep / "s", echo)
    stream = await sockets.dialer.unix(deep / "s")
    await stream.write(b"hello")
    async with asyncio.timeout(5):
        assert await read_exactly(stream, 5) == b"hello"
    stream.close()


async def test_the_peers_end_is_the_end_of_the_stream(sockets: Sockets, deep: Path) -> None:
    async def short(stream: Stream) -> None:
        await stream.write(b"bye")

    await sockets.listen(deep / "s", short)
    stream = await sockets.dialer.unix(deep / "s")
    async with asyncio.timeout(5):
        assert await read_exactly(stream, 3) == b"bye"
        assert await stream.read(10) == b""
    stream.close()


async def test_writing_to_nobody_fails_in_time(sockets: Sockets, deep: Path) -> None:
    async def leave(stream: Stream) -> None:
        return

    await sockets.listen(deep / "s", leave)
    stream = await sockets.dialer.unix(deep / "s")
    async with asyncio.timeout(5):
        assert await stream.read(1) == b""
        with pytest.raises(GuestFailed):
            await write_without_end(stream)


async def test_a_slow_reader_makes_the_writer_wait(sockets: Sockets, deep: Path) -> None:
    async def deaf(stream: Stream) -> None:
        await asyncio.Event().wait()

    await sockets.listen(deep / "s", deaf)
    stream = await sockets.dialer.unix(deep / "s")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(write_without_end(stream), 0.2)
    stream.close()


async def test_nobody_listening_is_an_error(sockets: Sockets, deep: Path) -> None:
    for path in (deep / "s", deep / "missing" / "s"):
        with pytest.raises(GuestFailed, match="cannot reach"):
            await sockets.dialer.unix(path)


# --- QMP


async def test_a_command_is_answered(sockets: Sockets, deep: Path) -> None:
    await sockets.listen(deep / "qmp", answer_qmp)
    assert await RealQmp(sockets.dialer).execute(deep / "qmp", "query-status", timeout=5) == {"status": "running"}


async def test_a_refused_command_says_why(sockets: Sockets, deep: Path) -> None:
    await sockets.listen(deep / "qmp", answer_qmp)
    with pytest.raises(VmmFailed, match="refused nonsense: The command nonsense has not been found"):
        await RealQmp(sockets.dialer).execute(deep / "qmp", "nonsense", {"a": 1}, timeout=5)


def saying(*pieces: bytes) -> Server:
    async def server(stream: Stream) -> None:
        for piece in pieces:
            await stream.write(piece)
        await stream.read(1 << 16)

    return server


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ((b"garbage\n",), "not JSON"),
        ((b"[]\n",), "not a JSON object"),
        ((b'{"hello": 1}\n',), "without a greeting"),
        ((b"x" * (1 << 20), b"x" * 10), "more than"),
        ((b'{"QMP": {}}\n',), "closed"),
        ((b'{"QMP"',), "closed"),
    ],
    ids=["garbage", "list", "no greeting", "endless", "silence after the greeting", "half"],
)
async def test_a_broken_control_connection_is_told(sockets: Sockets, deep: Path, said: tuple[bytes, ...], words: str) -> None:
    async def server(stream: Stream) -> None:
        if words == "closed":
            for piece in said:
                await stream.write(piece)
        else:
            await saying(*said)(stream)

    await sockets.listen(deep / "qmp", server)
    with pytest.raises((VmmFailed, GuestFailed), match=f"{words}|closed"):
        await RealQmp(sockets.dialer).execute(deep / "qmp", "query-status", timeout=5)


async def test_a_silent_control_connection_is_given_up_in_time(sockets: Sockets, deep: Path) -> None:
    async def silent(stream: Stream) -> None:
        await stream.read(1)
        await asyncio.Event().wait()

    await sockets.listen(deep / "qmp", silent)
    with pytest.raises(TimedOut, match=r"query-status within 0\.1 s"):
        await RealQmp(sockets.dialer).execute(deep / "qmp", "query-status", timeout=0.1)


async def test_events_between_answers_are_passed_over(sockets: Sockets, deep: Path) -> None:
    async def server(stream: Stream) -> None:
        await stream.write(b'{"QMP": {}}\n')
        for answer in ({}, {"n": 1}):
            await stream.read(1 << 16)
            await stream.write(b'{"event": "A"}\n{"event": "B"}\n' + json.dumps({"return": answer}).encode() + b"\n")

    await sockets.listen(deep / "qmp", server)
    assert await RealQmp(sockets.dialer).execute(deep / "qmp", "x", timeout=5) == {"n": 1}


# --- consoles


class Screen:
    """A console on which the test prints."""

    def __init__(self, root: Path, keep: int) -> None:
        self.paths = FakeHost(root).paths
        self.consoles = RealConsoles(self.paths, keep)
        self.writers: list[asyncio.StreamWriter] = []
        self.connected = asyncio.Event()

    async def serve(self, paths: Paths) -> asyncio.Server:
        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.writers.append(writer)
            self.connected.set()

        folder = paths.vm_run(VM)
        folder.mkdir(parents=True, exist_ok=True)
        return await asyncio.start_unix_server(take, folder / "console.sock")

    async def say(self, data: bytes) -> None:
        await self.connected.wait()
        self.writers[-1].write(data)
        await self.writers[-1].drain()

    async def until(self, text: str) -> str:
        """Wait until the log holds `text`."""
        async for _ in self.consoles.watch(VM):
            if text in self.consoles.read(VM):
                return self.consoles.read(VM)
        raise AssertionError(f"{text!r} was never printed: {self.consoles.read(VM)!r}")


@pytest.fixture
async def screen(short_path: Path) -> AsyncIterator[Screen]:
    made = Screen(short_path, 8192)
    async with await made.serve(made.paths):
        yield made
        made.consoles.stop(VM)
        for writer in made.writers:
            writer.close()


async def test_the_console_is_kept_and_shown_harmless(screen: Screen) -> None:
    assert screen.consoles.start(VM)
    assert screen.consoles.start(VM)
    await screen.say(b"\x1b[31mone\x1b[0m\r\ntwo\n")
    async with asyncio.timeout(5):
        assert await screen.until("two") == "one\ntwo\n"
    assert screen.consoles.tail(VM, 1) == ("two",)
    assert len(screen.writers) == 1


async def test_the_log_is_bounded_and_keeps_the_end(screen: Screen) -> None:
    screen.consoles.start(VM)
    async with asyncio.timeout(10):
        for number in range(2000):
            await screen.say(f"line {number}\n".encode())
        await screen.say(b"last\n")
        text = await screen.until("last")
    log = screen.paths.console_log(VM)
    assert log.stat().st_size + older(log).stat().st_size <= 8192
    assert 4096 <= len(text) <= 8192
    assert "line 1999\nlast\n" in text


async def test_a_watcher_sees_what_was_and_what_comes_until_the_end(screen: Screen) -> None:
    screen.consoles.start(VM)
    await screen.say(b"before\n")
    seen = ""
    async with asyncio.timeout(5):
        await screen.until("before")
        async for piece in screen.consoles.watch(VM):
            seen += piece
            if seen == "before\n":
                await screen.say(b"after\nrest")
                screen.writers[-1].close()
    assert seen == "before\nafter\nrest"


async def test_a_console_that_nobody_serves_is_no_error(short_path: Path) -> None:
    consoles = RealConsoles(FakeHost(short_path).paths, 8192)
    consoles.prepare(VM)
    assert not consoles.start(VM)
    assert consoles.tail(VM, 5) == ()
    assert [piece async for piece in consoles.watch(VM)] == []
    consoles.stop(VM)
    consoles.remove(VM)


async def test_after_a_restart_of_the_daemon_the_log_goes_on(screen: Screen) -> None:
    screen.consoles.start(VM)
    await screen.say(b"one\n")
    async with asyncio.timeout(5):
        await screen.until("one")
        screen.consoles.stop(VM)
        screen.connected.clear()
        screen.consoles = RealConsoles(screen.paths, 8192)
        screen.consoles.start(VM)
        await screen.say(b"two\n")
        assert await screen.until("two") == "one\ntwo\n"
    screen.consoles.remove(VM)
    assert not screen.paths.console_log(VM).exists()


async def test_a_console_in_a_pipe_is_kept_and_never_makes_the_vmm_wait(short_path: Path) -> None:
    paths = FakeHost(short_path).paths
    pipe = paths.vm_run(VM) / "console.pipe"
    pipe.parent.mkdir(parents=True)
    os.mkfifo(pipe, 0o600)
    vmm = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    os.write(vmm, b"before\n")
    with suppress(BlockingIOError):
        while True:  # until it is full
            os.write(vmm, b"x" * 4095 + b"\n")
    consoles = RealConsoles(paths, 1 << 20)
    assert consoles.start(VM)
    async with asyncio.timeout(5):
        async for text in consoles.watch(VM):
            if text.endswith("x\n"):
                break
        os.write(vmm, b"after\n")
        os.close(vmm)
        text = "".join([text async for text in consoles.watch(VM)])
    assert text.startswith("before\n")
    assert text.endswith("x\nafter\n")
    consoles.stop(VM)
