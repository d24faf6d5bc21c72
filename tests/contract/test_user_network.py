"""The user network as a hostile guest sees it: frames on the wire, real passt, a host and an internet in namespaces. No machine is needed."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from banger.backends.network.user import User
from banger.host import sieve, unshare
from banger.host.detached import recorded
from banger.host.proc import RealProc
from banger.model.errors import HostLacks, ToolFailed
from banger.model.ids import VmId
from banger.model.parts import NicPart
from banger.testing import FakeHost
from tests.contract import cable
from tests.internet import HOST, RESOLVER, WEB, Internet, missing
from tests.world import alive, until

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
    """A network card at the other end of QEMU's stream protocol, which a cable to a TAP speaks too."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.gateway = b"\xff" * 6
        self.port = 40_000
        #: Between the addresses and the type of each packet's frame.
        self.tag = b""

    async def send(self, frame: bytes) -> None:
        self.writer.write(struct.pack(">I", len(frame)) + frame)
        await self.writer.drain()

    async def receive(self) -> bytes:
        (size,) = struct.unpack(">I", await self.reader.readexactly(4))
        return await self.reader.readexactly(size)

    async def find_gateway(self) -> str:
        request = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1) + MAC + socket.inet_aton(GUEST) + bytes(6) + socket.inet_aton(GATEWAY)
        await self.send(b"\xff" * 6 + MAC + b"\x08\x06" + request)
        async with asyncio.timeout(10):
            while (frame := await self.receive())[12:14] != b"\x08\x06":
                pass
        self.gateway = frame[6:12]
        return self.gateway.hex(":")

    async def _send_ip(self, protocol: int, source: str, destination: str, payload: bytes) -> None:
        ends = socket.inet_aton(source) + socket.inet_aton(destination)
        header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0) + ends
        header = header[:10] + checksum(header) + header[12:]
        await self.send(self.gateway + MAC + self.tag + b"\x08\x00" + header + payload)

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


def pids(name: str) -> list[int]:
    """The processes whose command is that."""
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if folder.name.isdigit() and alive(int(folder.name)) and (folder / "comm").read_text().startswith(name):
                found.append(int(folder.name))
    return found


def network_of(pid: int) -> str:
    """Its network namespace."""
    with suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/net")
    return ""


def passts(internet: Internet) -> list[int]:
    """Those that run on this host."""
    return [pid for pid in pids("passt") if network_of(pid) == network_of(internet.servers[1].pid)]


def checksum(data: bytes) -> bytes:
    """RFC 1071."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return struct.pack(">H", ~(total + (total >> 16)) & 0xFFFF)


def as_ordinary(mode: str = "666") -> tuple[str, ...]:
    """The prefix that makes a command an ordinary user's, with a /dev/net/tun of that mode where it runs and nowhere else; distributions have 666."""
    script = f'mount -t tmpfs tmpfs /dev/net && mknod -m {mode} /dev/net/tun c 10 200 && exec "$@"'
    return (
        "unshare",
        "--mount",
        "--",
        "sh",
        "-c",
        script,
        "sh",
        *("setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", "--inh-caps=-all", "--"),
    )


class Elsewhere(RealProc):
    """Runs commands in a namespace, and Python's so that an ordinary user could."""

    prefix: tuple[str, ...] = ()
    public: Path

    def translated(self, argv: Sequence[str]) -> list[str]:
        """With the system's interpreter, and its file where everybody may read it."""
        if argv[0] != sys.executable:
            return list(argv)
        place = self.public / "sieve.py"
        shutil.copy(sieve.__file__, place)
        return ["/usr/bin/python3", *(str(place) if word == sieve.__file__ else word for word in argv[1:])]

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
        return await super().run([*self.prefix, *self.translated(argv)], timeout=timeout, data=data, cwd=cwd, env=env, on_line=on_line)


class Wire:
    """A network of the backend's on a real host, and a card plugged into it: by a socket, or by a TAP."""

    def __init__(self, root: Path, *, sockets: bool, user: tuple[str, ...] = ()) -> None:
        self.proc, self.paths, self.sockets, self.as_user = Elsewhere(os.environ["PATH"]), FakeHost(root).paths, sockets, user
        self.proc.public = root
        root.chmod(0o755)
        self.user = User(dataclasses.replace(FakeHost(root).host, proc=self.proc))
        self.cables: list[asyncio.subprocess.Process] = []

    def plan(self, *, host_access: bool = False) -> NicPart:
        return self.user.plan(VM, host_access=host_access, sockets=self.sockets)

    async def plug(self, internet: Internet, *, host_access: bool = False) -> tuple[NicPart, Card]:
        part = self.plan(host_access=host_access)
        self.proc.prefix = (*internet.prefix, *self.as_user)
        await self.user.ensure(part)
        if part.tap:
            return part, await self._cable(part)
        return part, Card(*await asyncio.open_unix_connection(self.paths.vm_run(VM) / "passt.sock"))

    async def _cable(self, part: NicPart) -> Card:
        """Into the network's namespaces by the same prefix that a VMM is started with."""
        network = recorded(self.proc, self.user.host.files, self.paths.network_process(VM))
        assert network is not None
        shutil.copy(cable.__file__, self.proc.public / "cable.py")
        command = [*self.as_user, *unshare.beside(network.pid), "/usr/bin/python3", "-I", "-S", str(self.proc.public / "cable.py"), part.tap]
        made = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
        self.cables.append(made)
        assert made.stdout is not None
        assert made.stdin is not None
        return Card(made.stdout, made.stdin)

    async def close(self) -> None:
        await self.user.remove(self.plan())
        for made in self.cables:
            with suppress(ProcessLookupError):
                made.kill()
            await made.communicate()


@pytest.fixture(params=[True, False], ids=["socket", "tap"])
async def wire(request: pytest.FixtureRequest, short_path: Path) -> AsyncIterator[Wire]:
    made = Wire(short_path, sockets=request.param)
    yield made
    await made.close()


@pytest.fixture
async def plain(short_path: Path) -> AsyncIterator[Wire]:
    """For what holds for a socket alone."""
    made = Wire(short_path, sockets=True)
    yield made
    await made.close()


@pytest.fixture
async def tap(short_path: Path) -> AsyncIterator[Wire]:
    """For what holds for a TAP alone, and as an ordinary user, to whom /dev/net/tun is open."""
    made = Wire(short_path, sockets=False, user=as_ordinary())
    yield made
    await made.close()


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


async def test_a_stream_that_is_no_frames_ends_the_network_and_nothing_else(plain: Wire) -> None:
    with Internet() as internet:
        _, card = await plain.plug(internet)
        card.writer.write(b"\xff" * 1000)
        async with asyncio.timeout(10):
            assert await card.reader.read() == b""


async def test_the_connection_of_a_removed_network_ends(plain: Wire) -> None:
    with Internet() as internet:
        part, card = await plain.plug(internet)
        await card.find_gateway()
        await plain.user.remove(part)
        async with asyncio.timeout(10):
            assert await card.reader.read() == b""


async def test_what_a_removed_network_leaves_is_nothing(wire: Wire) -> None:
    with Internet() as internet:
        part, card = await wire.plug(internet)
        await card.find_gateway()
        await wire.user.remove(part)
        until(lambda: passts(internet) == [], "the end of passt")
        assert not wire.user.inspect(part).present
        assert not wire.paths.vm_run(VM).exists()


async def test_an_ordinary_user_has_the_same_by_a_tap(tap: Wire) -> None:
    with Internet() as internet:
        _, card = await tap.plug(internet)
        assert await card.find_gateway() == "52:42:00:00:00:02"
        assert await card.connects(WEB, 8000)
        assert await card.resolves(DNS)
        for name in (GATEWAY, DNS, GUEST, "127.0.0.1", "0.0.0.0", HOST):
            assert not await card.connects(name, 8080), f"the loopback was reached by {name}"


async def test_whoever_opens_the_tap_has_no_privilege(tap: Wire) -> None:
    with Internet() as internet:
        _, card = await tap.plug(internet)
        await card.find_gateway()
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{tap.cables[0].pid}/status").read_text().splitlines())
        assert [int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [0, 0, 0, 0]
        assert status["NoNewPrivs"] == "1"
        assert set(status["Uid"].split()) == {"54321"}


async def test_a_tag_on_a_frame_opens_nothing(tap: Wire) -> None:
    with Internet() as internet:
        _, card = await tap.plug(internet)
        await card.find_gateway()
        card.tag = b"\x81\x00\x00\x07"
        assert not await card.connects("127.0.0.1", 8080)


async def test_nobody_else_is_on_the_tap(tap: Wire) -> None:
    with Internet() as internet:
        _, card = await tap.plug(internet)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2):
                raise AssertionError(f"somebody says {(await card.receive()).hex()}")


@pytest.mark.parametrize("which", ["sieve", "passt"])
async def test_a_network_whose_process_is_killed_is_made_again_and_leaves_none(wire: Wire, which: str) -> None:
    with Internet() as internet:
        part, card = await wire.plug(internet)
        await card.find_gateway()
        process = wire.proc.identify(wire.user.inspect(part).pid)
        assert process is not None
        (passt,) = passts(internet)
        os.kill(process.pid if which == "sieve" else passt, signal.SIGKILL)
        async with asyncio.timeout(10):
            await wire.proc.gone(process)
        until(lambda: passts(internet) == [], "the end of passt")
        card.writer.close()
        assert not wire.user.inspect(part).present
        _, card = await wire.plug(internet)
        assert await card.find_gateway()
        assert await card.connects(WEB, 8000)


async def test_where_taps_cannot_be_made_it_is_said_at_once(tmp_path: Path) -> None:
    async with FakeHost(tmp_path) as fake:
        fake.facts.no_tun = "/dev/net/tun is not accessible to this user"
        user = User(fake.host)
        with pytest.raises(HostLacks, match="not accessible"):
            await user.ensure(user.plan(VM, host_access=False, sockets=False))
        assert fake.proc.log == []


async def test_a_tap_that_is_refused_is_an_error_and_leaves_no_process(short_path: Path) -> None:
    made = Wire(short_path, sockets=False, user=as_ordinary(mode="600"))
    with Internet() as internet:
        with pytest.raises(ToolFailed, match=r"^a TAP in a namespace cannot be made: Permission denied \(/dev/net/tun\)"):
            await made.plug(internet)
        until(lambda: passts(internet) == [], "the end of passt")
        assert not made.user.inspect(made.plan()).present
