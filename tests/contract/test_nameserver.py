"""A name server's port: what is asked there is answered, by datagrams and streams; a taken one is told; nobody who misbehaves harms others."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import dns.message
import pytest

from banger.host import nameserver
from banger.host.facts import RealFacts
from banger.host.nameserver import Listening, NameServers, RealNameServers
from banger.model.errors import Busy, HostLacks
from banger.testing.names import FakeNameServers

LOOPBACK = "127.0.0.1"
PATIENCE = 5.0


def echo(query: bytes, stream: bool) -> bytes:
    """Answers every query but an empty one."""
    return b"answer to " + query if query else b""


def free_port() -> int:
    """A port that nobody has: a socket on it for datagrams can be bound, and one for streams."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        stream.bind((LOOPBACK, 0))
        port = int(stream.getsockname()[1])
        datagrams.bind((LOOPBACK, port))
    return port


@pytest.fixture(params=[FakeNameServers, RealNameServers], ids=["fake", "real"])
def servers(request: pytest.FixtureRequest) -> NameServers:
    made: Callable[[], NameServers] = request.param
    return made()


async def test_a_port_is_one_listeners_until_that_gives_it_up(servers: NameServers) -> None:
    port = free_port()
    first = await servers.listen(LOOPBACK, port, echo)
    with pytest.raises(Busy, match=f"port {port} of {LOOPBACK} is taken"):
        await servers.listen(LOOPBACK, port, echo)
    await first.close()
    second = await servers.listen(LOOPBACK, port, echo)
    await second.close()


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
async def test_a_port_of_which_another_has_half_is_taken_and_no_half_is_kept(kind: int) -> None:
    port = free_port()
    with socket.socket(socket.AF_INET, kind) as other:
        other.bind((LOOPBACK, port))
        if kind == socket.SOCK_STREAM:
            other.listen()
        assert RealFacts().taken(port)
        with pytest.raises(Busy):
            await RealNameServers().listen(LOOPBACK, port, echo)
    assert not RealFacts().taken(port)
    await (await RealNameServers().listen(LOOPBACK, port, echo)).close()


async def test_an_address_that_is_not_the_hosts_is_no_crash() -> None:
    with pytest.raises(HostLacks, match="cannot listen at port 9 of"):
        await RealNameServers().listen("192.0.2.1", 9, echo)


# --- real sockets only


@pytest.fixture
async def port() -> AsyncIterator[int]:
    number = free_port()
    listening: Listening = await RealNameServers().listen(LOOPBACK, number, echo)
    yield number
    await listening.close()


async def datagram(port: int, *queries: bytes) -> bytes:
    """Send them all; what comes back first."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.setblocking(False)
        for query in queries:
            await loop.sock_sendto(peer, query, (LOOPBACK, port))
        async with asyncio.timeout(PATIENCE):
            return await loop.sock_recv(peer, 4096)


async def stream(port: int, *queries: bytes) -> list[bytes]:
    """Send all at once over one stream; the answers, until the other end closes or all are there."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    for query in queries:
        writer.write(len(query).to_bytes(2, "big") + query)
    found = []
    async with asyncio.timeout(PATIENCE):
        while len(found) < len(queries) and (size := await reader.read(2)):
            found.append(await reader.readexactly(int.from_bytes(size, "big")))
    writer.close()
    return found


async def test_datagrams_and_streams_are_answered(port: int) -> None:
    assert await datagram(port, b"one") == b"answer to one"
    assert await stream(port, b"one", b"two") == [b"answer to one", b"answer to two"]


async def test_what_deserves_no_answer_gets_none_and_ends_a_stream(port: int) -> None:
    assert await datagram(port, b"", b"two") == b"answer to two"
    assert await stream(port, b"", b"two") == []


async def test_an_answer_that_cannot_be_made_harms_no_other_and_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def fragile(query: bytes, stream: bool) -> bytes:
        assert query != b"bad"
        return query

    number = free_port()
    listening = await RealNameServers().listen(LOOPBACK, number, fragile)
    assert await datagram(number, b"bad", b"good") == b"good"
    assert await stream(number, b"bad") == []
    assert await stream(number, b"good") == [b"good"]
    await listening.close()
    assert caplog.text.count(f"no answer to {b'bad'.hex()}") == 2


async def test_who_is_silent_on_a_stream_is_cut_off(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nameserver, "SILENCE_SECONDS", 0.05)
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    writer.write(b"\0")
    async with asyncio.timeout(PATIENCE):
        assert await reader.read(1) == b""
    writer.close()


async def test_who_opens_many_streams_keeps_nobody_from_asking_by_datagram(port: int) -> None:
    crowd = [await asyncio.open_connection(LOOPBACK, port) for _ in range(nameserver.MOST_STREAMS + 1)]
    async with asyncio.timeout(PATIENCE):
        assert await crowd[-1][0].read(1) == b""
    assert await datagram(port, b"one") == b"answer to one"
    for _, writer in crowd:
        writer.close()


async def test_closing_cuts_off_who_is_in_the_middle() -> None:
    number = free_port()
    listening = await RealNameServers().listen(LOOPBACK, number, echo)
    reader, writer = await asyncio.open_connection(LOOPBACK, number)
    writer.write(b"\0\3one")
    assert await reader.readexactly(15) == b"\0\x0danswer to one"
    await listening.close()
    async with asyncio.timeout(PATIENCE):
        assert await reader.read(1) == b""
    writer.close()
    assert not RealFacts().taken(number)


def test_a_host_without_ipv6_has_ports_too(tmp_path: Path) -> None:
    from banger.host.facts import _bound

    assert not _bound(tmp_path / "udp6", 53)


ASK = """
import sys
from ipaddress import IPv4Interface
from banger.daemon.names import _reader
reply = _reader()
before = set(sys.modules)
for query in sys.argv[1:]:
    assert reply(bytes.fromhex(query), {"otter": IPv4Interface("172.30.0.7/16")}, False)
print(*sorted(set(sys.modules) - before))
"""


def test_no_query_has_to_wait_for_an_import() -> None:
    asked = [("otter.vm", kind) for kind in ("A", "AAAA", "ANY")] + [("vm", kind) for kind in ("SOA", "NS", "ANY", "A")]
    asked += [("7.0.30.172.in-addr.arpa", "PTR"), ("badger.vm", "A"), ("example.org", "A")]
    queries = [dns.message.make_query(name, kind, use_edns=edns).to_wire().hex() for name, kind in asked for edns in (False, 0)]
    done = subprocess.run([sys.executable, "-P", "-c", ASK, *queries], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
