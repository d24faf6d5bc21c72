"""The privileged helper as a process: who is served, what it keeps of root, how it ends and comes back, and what hostile callers get."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from banger.daemon import Daemon
from banger.host.dm import Dm
from banger.host.links import Links
from banger.host.nft import Nft
from banger.host.privilege import KEPT, Means, Privilege
from banger.host.remote import Line, remote, request
from banger.model.errors import HostLacks, TimedOut
from banger.model.vm import VmSpec, VmStatus
from banger.testing import FakeHost
from tests.place import SETTINGS, Place, result
from tests.privileged import OWNER, Privileged, as_user, exchange
from tests.world import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="root is needed")
STANDING = request("privilege", "standing", b"{}")


@pytest.fixture
def helper(short_path: Path) -> Iterator[Privileged]:
    short_path.chmod(0o711)
    made = Privileged(short_path)
    yield made
    assert made.close() == 0


@pytest.fixture
def own(short_path: Path) -> Iterator[Privileged]:
    """One that serves the user of the tests."""
    made = Privileged(short_path, owner=0)
    yield made
    made.close()


def served(helper: Privileged) -> bool:
    """Whether the owner gets an answer."""
    return b'"means":"helper"' in as_user(OWNER, lambda: exchange(helper.path, STANDING))


def status(pid: int) -> dict[str, str]:
    """proc(5), status."""
    return dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)


def test_the_owner_is_served_and_nobody_else_not_even_root(helper: Privileged) -> None:
    assert served(helper)
    assert b"serves another user" in exchange(helper.path, STANDING)
    assert as_user(OWNER + 1, lambda: exchange(helper.path, STANDING)) == b"PermissionError"
    helper.path.chmod(0o666)
    assert b"serves another user" in as_user(OWNER + 1, lambda: exchange(helper.path, STANDING))


def test_it_keeps_no_capability_that_it_does_not_need_and_can_get_none(helper: Privileged) -> None:
    assert served(helper)
    mask = sum(1 << number for number in KEPT.values())
    found = status(helper.process.pid)
    assert {int(found[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")} == {mask}
    assert int(found["CapAmb"], 16) == int(found["CapInh"], 16) == 0
    assert found["NoNewPrivs"] == "1"


def test_each_call_is_logged_with_its_operation(helper: Privileged) -> None:
    message = STANDING.replace(b'"op":""', b'"op":"op-0123abcd"')
    assert b"helper" in as_user(OWNER, lambda: exchange(helper.path, message))
    assert "op-0123abcd Privilege.standing {}" in helper.log()


async def test_calls_go_through_as_if_the_thing_were_here(own: Privileged) -> None:
    found = await remote(Privilege, "privilege", Line(own.path)).standing()
    assert (found.means, found.pid, found.owner, found.roots) == (Means.HELPER, own.process.pid, 0, (str(own.root),))


async def test_a_call_that_is_made_while_the_helper_is_dead_is_answered_by_the_next(own: Privileged) -> None:
    right = remote(Privilege, "privilege", Line(own.path))
    first = (await right.standing()).pid
    own.kill()
    own.start()
    assert (await right.standing()).pid == own.process.pid != first


async def test_without_a_helper_the_hint_is_to_install_it(short_path: Path) -> None:
    with pytest.raises(HostLacks, match="not installed") as lacks:
        await remote(Privilege, "privilege", Line(short_path / "none")).standing()
    assert "banger system install" in lacks.value.hint


async def test_a_helper_that_hangs_is_not_waited_for_for_long(own: Privileged) -> None:
    right, hasty = (remote(Privilege, "privilege", Line(own.path, quick=seconds)) for seconds in (20.0, 0.2))
    await right.standing()
    own.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(TimedOut):
            await hasty.standing()
    finally:
        own.process.send_signal(signal.SIGCONT)
    await right.standing()


@pytest.fixture
async def daemon(own: Privileged, tmp_path: Path) -> AsyncIterator[Daemon]:
    """A daemon on a pretended host, whose privilege is the helper's."""
    line = Line(own.path)
    async with FakeHost(tmp_path, SETTINGS) as fake, asyncio.timeout(60), AsyncExitStack() as stack:
        place = Place(fake, stack)
        place.host = dataclasses.replace(
            place.host,
            links=remote(Links, "links", line, here=fake.links),
            nft=remote(Nft, "nft", line),
            dm=remote(Dm, "dm", line),
            privilege=remote(Privilege, "privilege", line),
        )
        yield await place.daemon()


async def test_while_the_helper_hangs_machines_are_listed_at_once(own: Privileged, daemon: Daemon) -> None:

    async def create(spec: VmSpec) -> VmStatus:
        return await result(await daemon.vms.create(spec, start=False, wait="agent"))

    await create(VmSpec(name="otter"))
    loop = asyncio.get_running_loop()
    own.process.send_signal(signal.SIGSTOP)
    asking = [
        asyncio.ensure_future(daemon.doctor()),
        asyncio.ensure_future(create(VmSpec(name="wren", network="bridge"))),
        asyncio.ensure_future(daemon.vms.resources.disks["devmapper"].usable()),
    ]
    try:
        began = loop.time()
        for _ in range(20):
            await asyncio.sleep(0.01)
            assert [row.name for row in daemon.vms.rows()] == ["otter"]
        assert loop.time() - began < 3
        assert not any(each.done() for each in asking)
    finally:
        own.process.send_signal(signal.SIGCONT)
    findings, *_ = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(findings, list)
    assert "the helper takes no file in" in " ".join(finding.message for finding in findings)


def test_what_listens_there_but_is_not_roots_is_not_believed(short_path: Path) -> None:
    short_path.chmod(0o777)
    path = short_path / "helper.sock"

    def pretend() -> bytes:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(path))
            listener.listen()
            listener.settimeout(10)
            listener.accept()
        return b""

    async def ask() -> None:
        pretending = asyncio.create_task(asyncio.to_thread(as_user, OWNER, pretend))
        await asyncio.to_thread(until, path.exists, "the socket")
        with pytest.raises(HostLacks, match="not root's"):
            await remote(Privilege, "privilege", Line(path)).standing()
        await pretending

    asyncio.run(ask())


@pytest.mark.parametrize("before", [b"", b"a message that is taken and not answered"], ids=["at once", "after the message"])
def test_a_helper_that_ends_in_the_midst_of_a_call_is_called_once_more(short_path: Path, before: bytes) -> None:
    path = short_path / "helper.sock"
    answer = b'{"result": {"means": "helper", "pid": 1, "build": "", "owner": 0, "roots": []}}'

    def serve(listener: socket.socket) -> None:
        first, _ = listener.accept()
        if before:
            first.recv(1 << 17)
        first.close()
        second, _ = listener.accept()
        second.recv(1 << 17)
        second.send(answer)
        second.close()

    async def ask() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(path))
            listener.listen()
            serving = asyncio.create_task(asyncio.to_thread(serve, listener))
            right = remote(Privilege, "privilege", Line(path))
            assert (await right.standing()).pid == 1
            await serving

    asyncio.run(ask())


def test_slow_callers_do_not_keep_the_owner_waiting(helper: Privileged) -> None:
    def hold() -> bytes:
        idle = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(100)]
        for sock in idle:
            sock.connect(str(helper.path))
        begun = time.monotonic()
        answer = exchange(helper.path, STANDING)
        assert time.monotonic() - begun < 8
        return answer

    assert b'"means":"helper"' in as_user(OWNER, hold)
    until(lambda: "too slow" in helper.log(), "the end of the slow ones")
    assert served(helper)


def test_a_message_with_descriptors_leaves_none_of_them_open(helper: Privileged) -> None:
    assert served(helper)
    until(lambda: len(os.listdir(f"/proc/{helper.process.pid}/fd")) <= 8, "its idle state")
    before = len(os.listdir(f"/proc/{helper.process.pid}/fd"))

    def send() -> bytes:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock, open("/dev/null") as null:
            sock.connect(str(helper.path))
            socket.send_fds(sock, [STANDING], [null.fileno()] * 16)
            return sock.recv(1 << 16)

    assert b'"means":"helper"' in as_user(OWNER, send)
    until(lambda: len(os.listdir(f"/proc/{helper.process.pid}/fd")) == before, "its idle state")


def test_who_hangs_up_at_once_does_no_harm(helper: Privileged) -> None:
    def hang_up() -> bytes:
        for _ in range(50):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.connect(str(helper.path))
                sock.send(STANDING)
        return b""

    assert as_user(OWNER, hang_up) == b""
    assert served(helper)


def test_too_much_at_once_is_refused(helper: Privileged) -> None:
    answer = as_user(OWNER, lambda: exchange(helper.path, STANDING + b" " * (1 << 17)))
    assert b"more than 131072 bytes" in answer
    assert served(helper)


def test_it_does_not_start_by_hand(short_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "banger.helper", "--owner", "1:1", "--root", str(short_path)], capture_output=True, timeout=20, check=False
    )
    assert done.returncode == 1
    assert b"started by systemd" in done.stderr
