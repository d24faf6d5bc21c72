"""The bridge on a pretended host: which address is whose, what is made and taken away, what others have removed, and when there can be none."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from banger.backends.network.bridge import Bridge, tap_prefix
from banger.host.facts import parse_nameservers
from banger.host.links import LONGEST_NAME, Link, Route
from banger.host.nft import Guest, Refusal
from banger.model.config import Settings, load_settings
from banger.model.errors import BadRequest, HostLacks
from banger.model.event import Event, listening
from banger.model.finding import Level
from banger.model.ids import VmId
from banger.model.parts import NicPart
from banger.testing import FakeHost

VM = VmId("0123456789ab")
NAME = "br-banger"


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeHost]:
    async with FakeHost(tmp_path) as made:
        yield made


def bridge(fake: FakeHost, settings: Settings | None = None) -> Bridge:
    return Bridge(dataclasses.replace(fake.host, settings=settings or fake.host.settings))


def plan(made: Bridge, *taken: str, nat: bool | None = None) -> NicPart:
    return made.plan(VM, host_access=False, nat=nat, taken=frozenset(taken))


def links(fake: FakeHost) -> set[str]:
    return set(fake.links.names()) - {"lo", "eth0"}


# -- deciding


def test_an_address_decides_mac_and_tap(fake: FakeHost) -> None:
    part = plan(bridge(fake))
    assert (part.address, part.gateway, part.mac, part.tap) == ("172.30.0.2/24", "172.30.0.1", "52:42:ac:1e:00:02", "bgr-2")
    assert (part.reachable, part.nat, part.dns, part.mtu) == (True, True, ("192.0.2.53",), 1500)


def test_the_lowest_free_address_is_given(fake: FakeHost) -> None:
    made = bridge(fake)
    assert plan(made, "172.30.0.2/24", "172.30.0.4/24").address == "172.30.0.3/24"
    full = [f"172.30.0.{number}/24" for number in range(2, 255)]
    with pytest.raises(HostLacks, match=r"all addresses of 172\.30\.0\.0/24"):
        plan(made, *full)


def test_nat_is_on_unless_it_is_declined(fake: FakeHost) -> None:
    assert [plan(bridge(fake), nat=nat).nat for nat in (None, True, False)] == [True, True, False]


def test_the_hosts_loopback_cannot_be_had(fake: FakeHost) -> None:
    with pytest.raises(BadRequest, match="loopback"):
        bridge(fake).plan(VM, host_access=True)


def test_name_servers_and_mtu_are_the_hosts_or_what_is_set(fake: FakeHost) -> None:
    fake.links.mtus["eth0"] = 1380
    assert plan(bridge(fake)).mtu == 1380
    assert plan(bridge(fake, Settings(nameservers="9.9.9.9, 1.1.1.1"))).dns == ("9.9.9.9", "1.1.1.1")
    fake.links.table = []
    assert plan(bridge(fake)).mtu == 1500


def test_a_name_server_on_the_loopback_is_nobodys_in_a_guest() -> None:
    text = "search x\nnameserver 127.0.0.53\nnameserver ::1\n#nameserver 192.0.2.1\nnameserver 192.0.2.53\nnameserver\nnameserver 0.0.0.0\n"
    assert parse_nameservers(text) == ("192.0.2.53",)


@pytest.mark.parametrize("subnet", ["", "172.30.0.1/24", "172.30.0.0/8", "172.30.0.0/30", "8.8.8.0/24", "fd00::/64", "nonsense"])
def test_a_subnet_that_cannot_be_is_refused_by_its_setting(fake: FakeHost, subnet: str) -> None:
    with pytest.raises(BadRequest, match="the setting subnet"):
        plan(bridge(fake, Settings(subnet=subnet)))


@pytest.mark.parametrize("name", ["", "docker0", "br-banger-", "br-banger-toolong", "br-banger-X", "br-banger; x"])
def test_a_bridge_that_is_not_ours_by_its_name_is_refused(name: str) -> None:
    with pytest.raises(BadRequest, match="bridge"):
        load_settings(f'bridge = "{name}"', {})


def test_the_longest_names_fit() -> None:
    longest = load_settings('bridge = "br-banger-12345"\nsubnet = "10.0.0.0/16"', {})
    assert len(longest.bridge) == LONGEST_NAME
    assert len(f"{tap_prefix(longest.bridge)}999") <= LONGEST_NAME
    assert tap_prefix("br-banger") == "bgr-"


# -- making and taking away


async def test_what_the_first_machine_makes_the_last_one_takes_away(fake: FakeHost) -> None:
    made = bridge(fake)
    first = plan(made)
    second = plan(made, first.address, nat=False)
    for part in (first, second, first):
        await made.ensure(part)
    assert links(fake) == {NAME, "bgr-2", "bgr-3"}
    assert fake.links.there["bgr-3"] == Link(name="bgr-3", kind="tun", up=True, master=NAME, isolated=True, owner=1000)
    assert {guest.address: guest.nat for guest in await fake.nft.guests(NAME) or ()} == {"172.30.0.2": True, "172.30.0.3": False}
    assert made.inspect(first).running
    assert fake.links.forwards
    for part in (first, first):
        await made.remove(part)
    assert links(fake) == {NAME, "bgr-3"}
    await made.remove(second)
    assert links(fake) == set()
    assert fake.nft.tables == {}
    assert not made.inspect(first).present


async def test_without_nat_nothing_is_forwarded(fake: FakeHost) -> None:
    made = bridge(fake)
    await made.ensure(plan(made, nat=False))
    assert not fake.links.forwards


async def test_a_change_is_one_transaction(fake: FakeHost) -> None:
    made = bridge(fake)
    part = plan(made)
    await made.ensure(part)
    fake.nft.changes.clear()
    await made.ensure(msgspec.structs.replace(part, nat=False))
    assert fake.nft.changes == ["guest"]
    assert await fake.nft.guests(NAME) == [Guest(mac=part.mac, address="172.30.0.2", nat=False)]


async def test_a_table_that_was_removed_comes_back_for_everybody(fake: FakeHost) -> None:
    made = bridge(fake)
    first = plan(made)
    await made.ensure(first)
    fake.nft.tables.clear()
    await made.ensure(plan(made, first.address))
    assert {guest.address for guest in await fake.nft.guests(NAME) or ()} == {"172.30.0.2", "172.30.0.3"}


async def test_a_bridge_that_was_removed_comes_back_with_all_its_taps(fake: FakeHost) -> None:
    made = bridge(fake)
    first = plan(made)
    await made.ensure(first)
    await fake.links.remove(NAME)
    await made.ensure(plan(made, first.address))
    assert [fake.links.there[tap].master for tap in ("bgr-2", "bgr-3")] == [NAME, NAME]


async def test_what_is_gone_can_be_removed_also_without_privilege(fake: FakeHost) -> None:
    made = bridge(fake)
    fake.links.lacks = "networks on the host can be changed by root only"
    await made.remove(plan(made))
    assert fake.nft.changes == []


async def test_a_bridge_of_another_banger_and_what_hangs_on_it_is_left_alone(fake: FakeHost) -> None:
    await fake.links.bridge(NAME, address="172.30.0.1/24", mac="52:42:ac:1e:00:01", alias="banger at /elsewhere")
    await fake.links.tap("bgr-2", bridge=NAME, uid=0, mac="52:42:ac:1e:00:02", address="172.30.0.2")
    await fake.nft.renew(NAME, [Guest(mac="52:42:ac:1e:00:02", address="172.30.0.2", nat=True)])
    before = dict(fake.links.there)
    made = bridge(fake)
    part = plan(made)
    with pytest.raises(HostLacks, match="elsewhere"):
        await made.ensure(part)
    await made.remove(part)
    await made.settle([], [])
    assert fake.links.there == before
    assert len(await fake.nft.guests(NAME) or ()) == 1


# -- keeping


async def test_what_runs_is_put_right_and_what_is_stale_goes(fake: FakeHost) -> None:
    former = bridge(fake)
    live, stale = plan(former), plan(former, "172.30.0.2/24")
    await former.ensure(live)
    await former.ensure(stale)
    fake.nft.tables.clear()
    await fake.links.remove(NAME)
    made = bridge(fake)
    await made.settle([live], [])
    assert links(fake) == {NAME, "bgr-2"}
    assert fake.links.there["bgr-2"].master == NAME
    assert [guest.address for guest in await fake.nft.guests(NAME) or ()] == ["172.30.0.2"]
    await made.remove(live)
    assert links(fake) == set()


async def test_with_nothing_to_do_nothing_is_made(fake: FakeHost) -> None:
    await bridge(fake).settle([], [])
    assert links(fake) == set()
    assert fake.nft.changes == []


async def test_removing_a_leftover_first_does_not_take_the_bridge_from_those_who_run(fake: FakeHost) -> None:
    former = bridge(fake)
    live, half = plan(former), plan(former, "172.30.0.2/24")
    await former.ensure(live)
    await former.ensure(half)
    made = bridge(fake)
    await made.remove(half)
    assert links(fake) == {NAME, "bgr-2"}


async def test_after_a_change_of_the_subnet_what_was_ready_is_made_anew_and_no_tap_is_given_twice(fake: FakeHost) -> None:
    former = bridge(fake, Settings(tap_pool=2))
    live = plan(former)
    await former.ensure(live)
    ready = plan(former, live.address)
    await former.settle([live], [ready])
    removed = list[str]()
    real = fake.links.remove

    async def remove(name: str) -> None:
        removed.append(name)
        await real(name)

    fake.links.remove = remove  # type: ignore[method-assign]
    made = bridge(fake, Settings(tap_pool=2, subnet="10.9.0.0/24"))
    fresh = plan(made, live.address)
    assert (fresh.address, fresh.tap) == ("10.9.0.3/24", ready.tap)
    await made.settle([live], [fresh])
    assert removed == [ready.tap]
    assert links(fake) == {NAME, live.tap, fresh.tap}
    with pytest.raises(HostLacks, match=r"172\.30\.0\.2/24 is not of the subnet 10\.9\.0\.0/24"):
        await made.ensure(live)


async def test_one_tap_that_cannot_be_made_leaves_the_others_ready(fake: FakeHost) -> None:
    made = bridge(fake, Settings(tap_pool=2))
    fake.links.broken.add("bgr-2")
    first = plan(made)
    await made.settle([], [first, plan(made, first.address)])
    assert links(fake) == {NAME, "bgr-3"}


# -- when there can be none


async def test_a_subnet_that_the_host_has_a_route_for_is_refused_by_its_name(fake: FakeHost) -> None:
    fake.links.table.append(Route(destination="172.16.0.0/12", link="tun0"))
    made = bridge(fake)
    part = plan(made)
    with pytest.raises(HostLacks, match=r"172\.30\.0\.0/24 overlaps the host's route to 172\.16\.0\.0/12 on tun0"):
        await made.ensure(part)
    assert links(fake) == set()
    fake.links.table.pop()
    for _ in range(2):
        await made.ensure(part)  # the bridge's own route is no clash


@pytest.mark.parametrize("lack", ["links", "nft"])
async def test_what_is_missing_is_said_and_is_only_a_warning(fake: FakeHost, lack: str) -> None:
    (fake.links if lack == "links" else fake.nft).lacks = "it is not there"
    made = bridge(fake)
    assert await made.usable() == "it is not there"
    with pytest.raises(HostLacks, match="it is not there"):
        await made.ensure(plan(made))
    (row,) = await made.check()
    assert (row.level, row.message) == (Level.WARN, "it is not there")


async def test_a_firewall_that_refuses_is_told_when_a_machine_is_made_and_by_doctor(fake: FakeHost) -> None:
    fake.nft.foreign = [Refusal(chain="ip filter FORWARD", fix="iptables -I FORWARD -i br-banger -j ACCEPT")]
    made, heard = bridge(fake), list[Event]()
    with listening(heard.append):
        await made.ensure(plan(made))
    assert any("ip filter FORWARD" in event.detail and "iptables -I FORWARD" in event.detail for event in heard)
    rows = await made.check()
    assert [row.level for row in rows] == [Level.PASS, Level.WARN]
    assert rows[1].fix == "iptables -I FORWARD -i br-banger -j ACCEPT"


@pytest.mark.parametrize(("forwards", "says"), [(True, "is on, and banger never turns it off"), (False, "turns it on, and banger never turns it off")])
async def test_doctor_says_that_forwarding_stays_on(fake: FakeHost, forwards: bool, says: str) -> None:
    fake.links.forwards = forwards
    (row,) = await bridge(fake).check()
    assert says in row.message
