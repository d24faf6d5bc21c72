"""Firecracker's two sockets as others see them: its API, and the way to a port of the guest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from banger.host import fcapi, vsock
from banger.host.stream import Stream
from banger.model.errors import GuestFailed, TimedOut, VmmFailed
from banger.testing.stream import FakeDialer, Server

HERE = Path("/run/vm/a.sock")
INFO = b'{"id":"a","state":"Running","vmm_version":"1.12.1","app_name":"Firecracker"}'


@pytest.fixture
async def dialer() -> AsyncIterator[FakeDialer]:
    made = FakeDialer()
    yield made
    await made.aclose()


def answering(answer: bytes, heard: list[bytes] | None = None) -> Server:
    """Hears a request and says this."""

    async def serve(stream: Stream) -> None:
        data = await stream.read(1 << 16)
        if heard is not None:
            heard.append(data)
        await stream.write(answer)

    return serve


def http(status: str, body: bytes = b"") -> bytes:
    return f"HTTP/1.1 {status}\r\nServer: Firecracker API\r\nConnection: keep-alive\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def info(dialer: FakeDialer, timeout: float = 5) -> fcapi.InstanceInfo:
    return await fcapi.get(dialer, HERE, "/", fcapi.InstanceInfo, timeout=timeout)


async def test_what_is_asked_is_answered_and_what_is_new_ignored(dialer: FakeDialer) -> None:
    heard: list[bytes] = []
    dialer.listen(HERE, answering(http("200 ", INFO), heard))
    found = await info(dialer)
    assert (found.state, found.vmm_version) == ("Running", "1.12.1")
    assert heard[0].startswith(b"GET / HTTP/1.1\r\n")


async def test_a_body_is_sent_as_json(dialer: FakeDialer) -> None:
    heard: list[bytes] = []
    dialer.listen(HERE, answering(b"HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n", heard))
    await fcapi.send(dialer, HERE, "PUT", "/machine-config", fcapi.MachineConfig(vcpu_count=1, mem_size_mib=128), timeout=5)
    head, _, body = heard[0].partition(b"\r\n\r\n")
    assert head.startswith(b"PUT /machine-config HTTP/1.1")
    assert body == b'{"vcpu_count":1,"mem_size_mib":128}'


async def test_a_refusal_says_why(dialer: FakeDialer) -> None:
    dialer.listen(HERE, answering(http("400 Bad Request", b'{"fault_message":"no such drive"}')))
    with pytest.raises(VmmFailed, match="refused GET /: no such drive"):
        await info(dialer)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"garbage\r\n\r\n",
        http("200 OK", b"[]"),
        http("200 OK", b'{"id":'),
        http("200 OK", INFO)[:-5],
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * (1 << 20),
    ],
    ids=["nothing", "garbage", "list", "half json", "half", "endless head"],
)
async def test_an_answer_that_makes_no_sense_is_told(dialer: FakeDialer, answer: bytes) -> None:
    dialer.listen(HERE, answering(answer))
    with pytest.raises(VmmFailed, match="Firecracker"):
        await info(dialer)


async def test_a_body_without_end_is_not_kept(dialer: FakeDialer) -> None:
    dialer.listen(HERE, answering(http("200 OK", b"x" * ((1 << 20) + 1))))
    with pytest.raises(VmmFailed, match="more than"):
        await info(dialer)


async def test_silence_is_given_up_in_time(dialer: FakeDialer) -> None:
    async def silent(stream: Stream) -> None:
        await asyncio.Event().wait()

    dialer.listen(HERE, silent)
    with pytest.raises(TimedOut, match="did not answer GET /"):
        await info(dialer, timeout=0.05)
    with pytest.raises(TimedOut, match="nobody listens at port 7"):
        await vsock.dial(dialer, HERE, 7, timeout=0.05)


async def test_nobody_at_the_api_is_told_at_once(dialer: FakeDialer) -> None:
    with pytest.raises(GuestFailed, match="cannot reach"):
        await info(dialer)


async def test_a_port_of_the_guest_is_reached_once_it_listens_and_no_byte_of_it_is_lost(dialer: FakeDialer) -> None:
    heard: list[bytes] = []
    answers = [b"", b"", b"OK 1073741824\nhello"]

    async def serve(stream: Stream) -> None:
        heard.append(await stream.read(100))
        await stream.write(answers.pop(0))

    dialer.listen(HERE, serve)
    stream = await vsock.dial(dialer, HERE, 1024, timeout=5)
    assert await stream.read(100) == b"hello"
    assert heard == [b"CONNECT 1024\n"] * 3
    stream.close()


@pytest.mark.parametrize("answer", [b"NO\n", b"OK", b"x" * 100, b"\n"])
async def test_any_other_answer_is_no_connection(dialer: FakeDialer, answer: bytes) -> None:
    dialer.listen(HERE, answering(answer))
    with pytest.raises(TimedOut):
        await vsock.dial(dialer, HERE, 1024, timeout=0.05)
