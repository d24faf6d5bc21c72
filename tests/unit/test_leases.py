"""Who has which address on the bridge, and what is kept ready, over the lives of machines and daemons. All but the host is real."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest

from banger.daemon import Daemon
from banger.host.nft import table_of
from banger.model.errors import BadRequest, HostLacks, NoSpace
from banger.model.vm import VmSpec, VmState
from banger.testing import FakeHost, Mood
from tests.place import SETTINGS, Place, result

BRIDGED = msgspec.structs.replace(SETTINGS, network="bridge")
NAME = "br-banger"


@pytest.fixture
async def place(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    settings = msgspec.structs.replace(BRIDGED, tap_pool=getattr(request, "param", 0))
    async with FakeHost(tmp_path, settings) as fake, asyncio.timeout(20), AsyncExitStack() as stack:
        yield Place(fake, stack)


pooled = pytest.mark.parametrize("place", [3], indirect=True)


async def create(daemon: Daemon, name: str, *, start: bool = True, nat: bool | None = None) -> str:
    """The new machine's address."""
    status = await result(await daemon.vms.create(VmSpec(name=name, nat=nat), start=start, wait="agent"))
    return status.address


def taps(place: Place) -> set[str]:
    return {name for name in place.fake.links.names() if name.startswith("bgr-")}


async def come(place: Place, wanted: set[str]) -> None:
    """The task that keeps TAPs ready says nothing; the fixture bounds the wait."""
    while taps(place) != wanted:  # noqa: ASYNC110
        await asyncio.sleep(0)


def guests(place: Place) -> dict[str, bool]:
    return {guest.address: guest.nat for guest in place.fake.nft.tables.get(table_of(NAME), {}).values()}


async def test_machines_made_at_once_have_addresses_of_their_own(place: Place) -> None:
    daemon = await place.daemon()
    found = await asyncio.gather(*(create(daemon, f"vm{number}") for number in range(8)))
    assert sorted(found) == sorted(f"172.30.0.{number}/24" for number in range(2, 10))
    await asyncio.gather(*(daemon.vms.delete(f"vm{number}") for number in range(8)))
    assert taps(place) == set()
    assert not place.fake.links.exists(NAME)
    assert place.fake.nft.tables == {}


async def test_an_address_is_a_machines_until_it_is_deleted(place: Place) -> None:
    daemon = await place.daemon()
    assert await create(daemon, "otter", start=False) == "172.30.0.2/24"
    assert await create(daemon, "wren") == "172.30.0.3/24"
    await daemon.vms.stop("wren", force=True)
    assert taps(place) == set()
    again = await place.daemon()
    assert await create(again, "lynx", start=False) == "172.30.0.4/24"
    await again.vms.delete("otter")
    assert await create(again, "mole", start=False) == "172.30.0.2/24"


async def test_a_failed_create_gives_its_address_back(place: Place) -> None:
    place.guests(Mood.SILENT)
    daemon = await place.daemon()
    with pytest.raises(Exception, match="did not answer"):
        await create(daemon, "otter")
    assert (taps(place), place.fake.links.exists(NAME)) == (set(), False)
    assert await create(daemon, "wren", start=False) == "172.30.0.2/24"


async def test_without_privilege_a_request_ends_before_anything_is_made(place: Place) -> None:
    place.fake.links.lacks = "networks on the host can be changed by root only"
    daemon = await place.daemon()
    with pytest.raises(HostLacks, match="by root only"):
        await create(daemon, "otter")
    assert daemon.vms.rows() == []


async def test_nat_is_changed_while_a_machine_runs_and_lasts(place: Place) -> None:
    daemon = await place.daemon()
    await create(daemon, "otter", nat=False)
    assert guests(place) == {"172.30.0.2": False}
    for _ in range(2):
        assert (await daemon.vms.change("otter", nat=True)).nat
        assert guests(place) == {"172.30.0.2": True}
    again = await place.daemon()
    assert again.vms.show("otter").nat
    await again.vms.change("otter", nat=False)
    assert guests(place) == {"172.30.0.2": False}


async def test_nat_of_a_stopped_machine_is_changed_for_its_next_start(place: Place) -> None:
    daemon = await place.daemon()
    await create(daemon, "otter", start=False)
    assert not (await daemon.vms.change("otter", nat=False)).nat
    assert guests(place) == {}
    await result(daemon.vms.start("otter", wait="agent"))
    assert guests(place) == {"172.30.0.2": False}


async def test_a_change_that_failed_is_made_by_the_same_request_again(place: Place) -> None:
    daemon = await place.daemon()
    await create(daemon, "otter")
    place.fake.links.lacks = "the helper is away"
    with pytest.raises(HostLacks):
        await daemon.vms.change("otter", nat=False)
    place.fake.links.lacks = ""
    await daemon.vms.change("otter", nat=False)
    assert guests(place) == {"172.30.0.2": False}


async def test_a_change_that_cannot_be_saved_changes_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object) -> None:
        raise NoSpace("no space left for the database")

    daemon = await place.daemon()
    await create(daemon, "otter")
    monkeypatch.setattr(daemon.vms.store, "change", full)
    with pytest.raises(NoSpace):
        await daemon.vms.change("otter", nat=False)
    assert daemon.vms.show("otter").nat
    assert guests(place) == {"172.30.0.2": True}


async def test_what_cannot_be_changed_is_refused(place: Place) -> None:
    daemon = await place.daemon()
    await result(await daemon.vms.create(VmSpec(name="otter", network="none"), start=False, wait="agent"))
    with pytest.raises(BadRequest, match="otter is on the network none"):
        await daemon.vms.change("otter", nat=True)
    with pytest.raises(BadRequest, match="nothing is to be changed"):
        await daemon.vms.change("otter", nat=None)
    for network, nat in (("none", True), ("user", False)):
        with pytest.raises(BadRequest):
            await result(await daemon.vms.create(VmSpec(network=network, nat=nat), start=False, wait="agent"))


async def test_the_next_daemon_puts_right_what_was_removed_meanwhile(place: Place) -> None:
    daemon = await place.daemon()
    await create(daemon, "otter")
    await place.fake.links.remove(NAME)
    place.fake.nft.tables.clear()
    await place.daemon()
    assert place.fake.links.there["bgr-2"].master == NAME
    assert guests(place) == {"172.30.0.2": True}


@pooled
async def test_the_next_machines_taps_are_ready_and_made_anew_as_they_are_used(place: Place) -> None:
    daemon = await place.daemon()
    await come(place, {"bgr-2", "bgr-3", "bgr-4"})
    assert guests(place) == {}
    await create(daemon, "otter")
    await come(place, {"bgr-2", "bgr-3", "bgr-4", "bgr-5"})
    await daemon.vms.delete("otter")
    await come(place, {"bgr-2", "bgr-3", "bgr-4"})


@pooled
async def test_with_a_tap_ready_a_machine_costs_no_link_and_one_transaction(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = await place.daemon()
    await come(place, {"bgr-2", "bgr-3", "bgr-4"})
    fresh = list[str]()
    real = place.fake.links.tap

    async def tap(name: str, *, bridge: str, uid: int, mac: str, address: str) -> None:
        fresh.extend([name] if not place.fake.links.exists(name) else [])
        await real(name, bridge=bridge, uid=uid, mac=mac, address=address)

    monkeypatch.setattr(place.fake.links, "tap", tap)
    place.fake.nft.changes.clear()
    await create(daemon, "otter")
    assert "bgr-2" not in fresh
    assert place.fake.nft.changes == ["guest"]


@pooled
async def test_what_is_ready_survives_daemons_and_a_smaller_pool(place: Place) -> None:
    await place.daemon()
    await come(place, {"bgr-2", "bgr-3", "bgr-4"})
    again = await place.daemon()
    assert await create(again, "otter") == "172.30.0.2/24"
    await come(place, {"bgr-2", "bgr-3", "bgr-4", "bgr-5"})
    object.__setattr__(place.host, "settings", msgspec.structs.replace(place.host.settings, tap_pool=0))
    last = await place.daemon()
    assert taps(place) == {"bgr-2"}
    await last.vms.delete("otter")
    assert (taps(place), place.fake.links.exists(NAME)) == (set(), False)


@pooled
async def test_a_burst_beyond_what_is_ready_is_served(place: Place) -> None:
    daemon = await place.daemon()
    await asyncio.gather(*(create(daemon, f"vm{number}") for number in range(7)))
    await come(place, {f"bgr-{number}" for number in range(2, 12)})
    assert all(row.state is VmState.RUNNING for row in daemon.vms.rows())
    await asyncio.gather(*(daemon.vms.delete(f"vm{number}") for number in range(7)))
    await come(place, {"bgr-2", "bgr-3", "bgr-4"})
    assert guests(place) == {}
