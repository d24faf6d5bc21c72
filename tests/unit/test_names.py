"""Names of machines on a pretended host: they are there while a machine runs, whatever becomes of the port, the resolver and the daemon."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import dns.message
import msgspec
import pytest

from banger.backends.network.none import NoNetwork
from banger.daemon import naming
from banger.host.resolver import calls
from banger.model.errors import BangerError
from banger.model.finding import Finding, Level
from banger.model.ids import VmId
from banger.model.names import Routing
from banger.model.parts import NicPart
from banger.model.vm import VmSpec
from banger.testing import FakeHost, Mood
from tests.place import SETTINGS, Place, reach, result, until

AT = ("127.0.0.1", 42069)
ADDRESS = "172.30.0.7"


@pytest.fixture
async def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    """Machines that the host can reach."""
    plan = NoNetwork.plan

    def reachable(
        self: NoNetwork, vm: VmId, *, host_access: bool, sockets: bool = True, nat: bool | None = None, taken: frozenset[str] = frozenset()
    ) -> NicPart:
        return msgspec.structs.replace(plan(self, vm, host_access=host_access), address=f"{ADDRESS}/16", reachable=True)

    monkeypatch.setattr(NoNetwork, "plan", reachable)
    async with FakeHost(tmp_path, SETTINGS) as fake, AsyncExitStack() as stack:
        yield Place(fake, stack)


def resolve(place: Place, name: str) -> list[str]:
    """What the port of names answers."""
    query = dns.message.make_query(name, "PTR" if name.endswith(".arpa") else "A").to_wire()
    response = dns.message.from_wire(place.fake.nameservers.ports[AT](query, False))
    return [str(record) for rrset in response.answer for record in rrset]


def rows(place: Place) -> dict[str, Finding]:
    return {row.subject: row for row in naming.findings(place.host)}


async def test_a_name_is_there_as_long_as_its_machine_runs(place: Place) -> None:
    daemon = await place.daemon()
    assert resolve(place, "otter.vm") == []
    await result(await daemon.vms.create(VmSpec(name="otter"), start=True, wait="agent"))
    assert resolve(place, "otter.vm") == [ADDRESS]
    assert resolve(place, "7.0.30.172.in-addr.arpa") == ["otter.vm."]
    await daemon.vms.stop("otter", force=True)
    assert resolve(place, "otter.vm") == []
    await result(daemon.vms.start("otter", wait="agent"))
    assert resolve(place, "otter.vm") == [ADDRESS]
    place.fake.proc.processes[-1].end()
    assert resolve(place, "otter.vm") == []
    await daemon.vms.delete("otter")
    assert resolve(place, "otter.vm") == []


async def test_the_next_daemon_answers_for_what_runs(place: Place) -> None:
    former = await place.daemon()
    await result(await former.vms.create(VmSpec(name="otter"), start=True, wait="agent"))
    place.fake.nameservers.ports.clear()
    await place.daemon()
    assert resolve(place, "otter.vm") == [ADDRESS]


async def test_a_machine_that_the_host_cannot_reach_has_no_name(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    daemon = await place.daemon()
    await result(await daemon.vms.create(VmSpec(name="otter"), start=True, wait="agent"))
    assert resolve(place, "otter.vm") == []


async def test_a_taken_port_keeps_no_machine_from_starting_and_is_tried_again_with_the_next(place: Place) -> None:
    place.fake.nameservers.ports[AT] = lambda query, stream: b""
    daemon = await place.daemon()
    await result(await daemon.vms.create(VmSpec(name="otter"), start=True, wait="agent"))
    assert "taken" in daemon.names.summary()
    assert "taken" in rows(place)["names"].message
    assert rows(place)["names"].level is Level.WARN
    del place.fake.nameservers.ports[AT]
    await result(await daemon.vms.create(VmSpec(name="badger"), start=True, wait="agent"))
    assert resolve(place, "otter.vm") == [ADDRESS]
    assert daemon.names.summary() == "NAME.vm at 127.0.0.1:42069"
    assert rows(place)["names"].level is Level.PASS


async def test_without_a_port_nothing_is_answered(place: Place) -> None:
    place.host = dataclasses.replace(place.host, settings=msgspec.structs.replace(SETTINGS, dns_port=0))
    daemon = await place.daemon()
    await result(await daemon.vms.create(VmSpec(name="otter"), start=True, wait="agent"))
    assert place.fake.nameservers.ports == {}
    assert "off" in daemon.names.summary()
    assert [row.level for row in naming.findings(place.host)] == [Level.PASS]


async def test_the_resolver_is_told_once_and_untold_at_the_end(place: Place) -> None:
    resolver = place.fake.resolver
    resolver.missing = ""
    daemon = await place.daemon()
    assert resolver.routings == {}
    for name in ("otter", "badger"):
        await result(await daemon.vms.create(VmSpec(name=name), start=True, wait="agent"))
    assert resolver.routings == {"br-banger": Routing(link="br-banger", port=42069, domains=("vm", "30.172.in-addr.arpa"))}
    assert resolver.asks == 1
    assert "asks 127.0.0.1:42069" in rows(place)["resolver"].message
    await daemon.names.close()
    assert resolver.routings == {}
    assert place.fake.nameservers.ports == {}
    assert not place.host.paths.names.exists()


async def test_a_resolver_that_refuses_harms_no_machine_and_is_a_warning_with_its_words(place: Place) -> None:
    place.fake.resolver.missing, place.fake.resolver.refusal = "", "SetLinkDNSEx: Interactive authentication required."
    daemon = await place.daemon()
    await result(await daemon.vms.create(VmSpec(name="otter"), start=True, wait="agent"))
    assert resolve(place, "otter.vm") == [ADDRESS]
    row = rows(place)["resolver"]
    assert (row.level, "authentication required" in row.message, "polkit" in row.fix) == (Level.WARN, True, True)
    place.fake.resolver.refusal = ""
    await result(await daemon.vms.create(VmSpec(name="badger"), start=True, wait="agent"))
    assert rows(place)["resolver"].level is Level.PASS
    await daemon.names.close()


async def test_a_helper_that_fails_as_a_kernel_does_harms_neither_machine_nor_daemon(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    place.fake.resolver.missing = ""
    monkeypatch.setattr(place.fake.resolver, "route", broken)
    daemon = await place.daemon()
    for name in ("otter", "badger"):
        await result(await daemon.vms.create(VmSpec(name=name), start=True, wait="agent"))
    assert "Input/output error" in rows(place)["resolver"].message
    await daemon.names.close()


async def test_the_resolver_is_told_while_the_guest_boots_and_a_start_that_fails_leaves_no_task(place: Place) -> None:
    resolver = place.fake.resolver
    resolver.missing = ""
    daemon = await place.daemon()
    place.guests(Mood.SILENT)
    following = await daemon.vms.create(VmSpec(name="otter"), start=True, wait="agent")
    await reach(following, "agent")
    await until(lambda: resolver.asks == 1)
    with pytest.raises(BangerError):
        await result(following)
    assert daemon.vms.rows() == []
    await until(lambda: not [task for task in asyncio.all_tasks() if task.get_name().startswith("name ")])


async def test_the_next_daemon_tells_the_resolver_again(place: Place) -> None:
    place.fake.resolver.missing = ""
    former = await place.daemon()
    await result(await former.vms.create(VmSpec(name="otter"), start=True, wait="agent"))
    place.fake.nameservers.ports.clear()
    place.fake.resolver.routings.clear()
    await place.daemon()
    assert set(place.fake.resolver.routings) == {"br-banger"}


# --- doctor, without a daemon


def test_without_a_daemon_a_free_port_is_fine_and_a_taken_one_is_told(tmp_path: Path) -> None:
    fake = FakeHost(tmp_path)
    assert {row.subject: row.level for row in naming.findings(fake.host)} == {"names": Level.PASS, "resolver": Level.PASS}
    fake.facts.ports.add(42069)
    row = naming.findings(fake.host)[0]
    assert (row.level, "42069" in row.message, "dns_port" in row.fix) == (Level.WARN, True, True)


def test_a_resolver_that_nobody_asks_is_told(tmp_path: Path) -> None:
    fake = FakeHost(tmp_path)
    fake.resolver.missing, fake.resolver.consulted = "", False
    row = naming.findings(fake.host)[1]
    assert (row.level, "resolv.conf" in row.message) == (Level.WARN, True)


@pytest.mark.parametrize("text", [b"", b"{", b"{}", b'{"process": [1, 1], "naming": {"port": "x"}}', b'{"process": [1, 2], "naming": {"port": 42069}}'])
def test_what_a_daemon_has_left_or_another_has_written_means_nothing(tmp_path: Path, text: bytes) -> None:
    fake = FakeHost(tmp_path)
    fake.paths.run.mkdir()
    fake.paths.names.write_bytes(text)
    assert naming.read_naming(fake.host) is None


def test_commands_say_first_that_nothing_else_is_to_come_here() -> None:
    assert calls(Routing(link="br-banger", port=42069, domains=("vm", "30.172.in-addr.arpa")), 7) == [
        ("SetLinkDefaultRoute", "ib", [7, False]),
        ("SetLinkDNSSEC", "is", [7, "no"]),
        ("SetLinkDNSOverTLS", "is", [7, "no"]),
        ("SetLinkDomains", "ia(sb)", [7, [["vm", True], ["30.172.in-addr.arpa", True]]]),
        ("SetLinkDNSEx", "ia(iayqs)", [7, [[2, b"\x7f\0\0\1", 42069, ""]]]),
    ]
