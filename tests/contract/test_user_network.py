"""The user network as a hostile guest sees it: frames on the wire, real passt, a host and an internet in namespaces. No machine is needed."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import socket
import struct
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from banger.backends.network.user import User
from banger.host.proc import RealProc
from banger.model.ids import VmId
from banger.model.parts import NicPart
from banger.testing import FakeHost
from tests.internet import HOST, RESOLVER, WEB, Internet, missing

VM = VmId("0123456789ab")
GUEST, GATEWAY, DNS = "10.0.2.15", "10.0.2.2", "10.0.2.3"
MAC = bytes.fromhex("524201234567")
SILENCE = 0.5
QUESTION = b"\x12\x34\1\0\0\1\0\0\0\0\0\0\3www\7example\4test\0\0\1\0\1"

pytestmark = pytest.mark.skipif(bool(missing()) or not shutil.which("passt"), reason=missing() or "passt (package passt)")


class Datagram(NamedTuple):
    source: str
    protocol: int
    payload: bytes


class Card:
    """A network card at the other end of QEMU's stream protocol."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.gateway = b"\xff" * 6
        self.port = 40_000

    async def send(self, frame: bytes) -> None:
        self.writer.write(struct.pack(">I", len(frame)) + frame)
        await self.writer.drain()

    async def receive(self) -> bytes:
        (size,) = struct.unpack(">I", await self.reader.readexactly(4))
        return await self.reader.readexactly(size)

    async def find_gateway(self) -> str:
        request = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1) + MAC + socket.inet_aton(GUEST) + bytes(6) + socket.inet_aton(GATEWAY)
        await self.send(b"\xff" * 6 + MAC + b"\x08\x06" + request)
        while (frame := await self.receive())[12:14] != b"\x08\x06":
            pass
        self.gateway = frame[6:12]
        return self.gateway.hex(":")

    async def _send_ip(self, protocol: int, source: str, destination: str, payload: bytes) -> None:
        ends = socket.inet_aton(source) + socket.inet_aton(destination)
        header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0) + ends
        header = header[:10] + checksum(header) + header[12:]
        await self.send(self.gateway + MAC + b"\x08\x00" + header + payload)

    async def _answer(self, protocol: int, port: int) -> Datagram | None:
        try:
            async with asyncio.timeout(SILENCE):
                while True:
                    frame = await self.receive()
                    if frame[12:14] == b"\x08\x00" and frame[23] == protocol and frame[36:38] == struct.pack(">H", port):
                        return Datagram(socket.inet_ntoa(frame[26:30]), protocol, frame[34:])
        except TimeoutError:
            return None

    async def connects(self, destination: str, port: int, *, source: str = GUEST) -> bool:
        """Whether a SYN is answered by a SYN and ACK."""
        self.port += 1
        segment = struct.pack(">HHIIBBHHH", self.port, port, 1000, 0, 0x50, 2, 65535, 0, 0)
        pseudo = socket.inet_aton(source) + socket.inet_aton(destination) + struct.pack(">BBH", 0, 6, len(segment))
        await self._send_ip(6, source, destination, segment[:16] + checksum(pseudo + segment) + segment[18:])
        answer = await self._answer(6, self.port)
        return answer is not None and answer.payload[13] == 0x12

    async def resolves(self, destination: str, port: int = 53) -> bool:
        """Whether a question for an address is answered."""
        self.port += 1
        datagram = struct.pack(">HHHH", self.port, port, 8 + len(QUESTION), 0) + QUESTION
        pseudo = socket.inet_aton(GUEST) + socket.inet_aton(destination) + struct.pack(">BBH", 0, 17, len(datagram))
        await self._send_ip(17, GUEST, destination, datagram[:6] + checksum(pseudo + datagram) + datagram[8:])
        answer = await self._answer(17, self.port)
        return answer is not None and socket.inet_aton(WEB) in answer.payload


def checksum(data: bytes) -> bytes:
    """RFC 1071."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return struct.pack(">H", ~(total + (total >> 16)) & 0xFFFF)


class Elsewhere(RealProc):
    """Runs commands in a namespace."""

    prefix: tuple[str, ...] = ()

    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        data: bytes = b"",
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> bytes:
        return await super().run([*self.prefix, *argv], timeout=timeout, data=data, cwd=cwd, env=env, on_line=on_line)


class Wire:
    """A network of the backend's on a real host, and a card plugged into it."""

    def __init__(self, root: Path) -> None:
        self.proc, self.paths = Elsewhere(os.environ["PATH"]), FakeHost(root).paths
        self.user = User(dataclasses.replace(FakeHost(root).host, proc=self.proc))

    async def plug(self, internet: Internet, *, host_access: bool = False) -> tuple[NicPart, Card]:
        part = self.user.plan(VM, host_access=host_access)
        self.proc.prefix = internet.prefix
        await self.user.ensure(part)
        return part, Card(*await asyncio.open_unix_connection(self.paths.vm_run(VM) / "passt.sock"))


@pytest.fixture
async def wire(short_path: Path) -> AsyncIterator[Wire]:
    made = Wire(short_path)
    yield made
    await made.user.remove(made.user.plan(VM, host_access=False))


async def test_the_internet_and_names_are_reached_and_the_hosts_loopback_is_not(wire: Wire) -> None:
    with Internet() as internet:
        _, card = await wire.plug(internet)
        assert await card.find_gateway() == "52:42:00:00:00:02"
        assert await card.connects(WEB, 8000)
        assert await card.resolves(DNS)
        assert await card.resolves(RESOLVER)
        for name in (GATEWAY, DNS, GUEST, "127.0.0.1", "127.0.0.2", "0.0.0.0", HOST):
            assert not await card.connects(name, 8080), f"the loopback was reached by {name}"
        assert not await card.connects("127.0.0.1", 8080, source="127.0.0.1")
        for name in (GATEWAY, "127.0.0.1", "0.0.0.0"):
            assert not await card.resolves(name, 5353), f"the loopback was reached by {name}"


async def test_a_resolver_on_the_hosts_loopback_answers_by_the_guests_name_server_only(wire: Wire) -> None:
    with Internet(nameserver="127.0.0.53") as internet:
        _, card = await wire.plug(internet)
        await card.find_gateway()
        assert await card.resolves(DNS)
        assert not await card.resolves("127.0.0.53")


async def test_with_access_the_gateway_leads_to_the_hosts_loopback(wire: Wire) -> None:
    with Internet() as internet:
        _, card = await wire.plug(internet, host_access=True)
        await card.find_gateway()
        assert await card.connects(GATEWAY, 8080)
        assert await card.connects(WEB, 8000)
        assert await card.resolves(DNS)


async def test_a_host_without_a_default_route_has_a_network_that_leads_nowhere(wire: Wire) -> None:
    with Internet(route=False) as internet:
        part, card = await wire.plug(internet)
        await card.find_gateway()
        assert wire.user.inspect(part).running
        assert not await card.connects(WEB, 8000)


async def test_the_network_ends_with_its_machine_and_is_made_again_for_the_next(wire: Wire) -> None:
    with Internet() as internet:
        part, card = await wire.plug(internet)
        first = wire.user.inspect(part).pid
        process = wire.proc.identify(first)
        assert process is not None
        card.writer.close()
        async with asyncio.timeout(10):
            await wire.proc.gone(process)
        assert not wire.user.inspect(part).present
        part, card = await wire.plug(internet)
        assert wire.user.inspect(part).pid != first
        assert await card.find_gateway()


async def test_a_stream_that_is_no_frames_ends_the_network_and_nothing_else(wire: Wire) -> None:
    with Internet() as internet:
        _, card = await wire.plug(internet)
        card.writer.write(b"\xff" * 1000)
        async with asyncio.timeout(10):
            assert await card.reader.read() == b""


async def test_what_a_removed_network_leaves_is_nothing(wire: Wire) -> None:
    with Internet() as internet:
        part, card = await wire.plug(internet)
        await card.find_gateway()
        await wire.user.remove(part)
        async with asyncio.timeout(10):
            assert await card.reader.read() == b""
        assert not wire.paths.vm_run(VM).exists()
