"""The privileged helper is killed before each change that it makes for a machine's network, and before each answer: nobody notices, nothing is left.

A second death while the same call is made again is told; then the same verb repeated succeeds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from banger.backends.network.bridge import Bridge
from banger.host.links import Links, RealLinks
from banger.host.nft import Nft
from banger.host.remote import Line, remote
from banger.model.errors import HostLacks, TimedOut
from banger.model.ids import VmId
from banger.model.parts import NicPart
from banger.testing import FakeHost
from tests.inventory import Inventory, take
from tests.mortal import Mortal
from tests.namespace import missing, private_network

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())
#: So many places there are at least on the way of a network: six changes make a bridge, seven a TAP, and each call is answered.
LEAST = 25
KINDS = ("links", "routes", "tables")


class Street:
    """A bridge by way of a helper that dies, and one machine's place on it."""

    def __init__(self, fake: FakeHost, helper: Mortal) -> None:
        fake.facts.uid = lambda: 0  # type: ignore[method-assign]
        line = Line(helper.path)
        links, nft = remote(Links, "links", line, here=RealLinks()), remote(Nft, "nft", line)
        self.host, self.helper, self.folder = dataclasses.replace(fake.host, links=links, nft=nft), helper, helper.root
        self.part = self.daemon().plan(VmId("0123456789ab"), host_access=False)

    def daemon(self) -> Bridge:
        """A bridge in the hands of a daemon that has just begun."""
        return Bridge(self.host)

    def seen(self) -> Inventory:
        """The network now. All else on the host is others' affair."""
        found = take(self.folder, whole=True)
        return Inventory(**{kind: getattr(found, kind) if kind in KINDS else frozenset() for kind in found.__struct_fields__})

    async def whole(self) -> Inventory:
        """The host with the machine's network, made by nobody who dies."""
        bridge = self.daemon()
        await bridge.ensure(self.part)
        found = self.seen()
        await bridge.remove(self.part)
        return found


@pytest.fixture
async def street(short_path: Path) -> AsyncIterator[Street]:
    with private_network(), Mortal(short_path) as helper:
        async with FakeHost(short_path) as fake:
            yield Street(fake, helper)


async def insisted(verb: Callable[[NicPart], Awaitable[None]], part: NicPart) -> int:
    """How often a verb fails until it is done."""
    failures = 0
    while True:
        try:
            await verb(part)
        except (HostLacks, TimedOut):
            failures += 1
            assert failures < 4
        else:
            return failures


@pytest.mark.parametrize(("step", "again"), [(1, ()), (3, (1,))], ids=["once", "twice"])
async def test_a_helper_that_dies_anywhere_leaves_a_network_that_can_be_made_and_removed(street: Street, step: int, again: tuple[int, ...]) -> None:
    before, whole = street.seen(), await street.whole()
    assert whole.changed(before) != {}
    place = 0
    while not street.helper.alive:
        place += step
        bridge = street.daemon()
        street.helper.die_at(place, *again)
        failures = await insisted(bridge.ensure, street.part)
        assert street.seen().changed(whole) == {}, f"made, place {place}"
        failures += await insisted(bridge.remove, street.part)
        assert street.seen().changed(before) == {}, f"removed, place {place}"
        assert failures <= len(again), f"place {place}"
    assert place > LEAST


async def test_a_daemon_that_begins_while_the_helper_dies_puts_everything_right(street: Street) -> None:
    before, whole = street.seen(), await street.whole()
    await street.daemon().ensure(street.part)
    place = 0
    while not street.helper.alive:
        place += 1
        for spoil in (RealLinks().remove(street.part.tap), remote(Nft, "nft", Line(street.helper.path)).remove("br-banger")):
            await spoil
        bridge = street.daemon()
        street.helper.die_at(place)
        await bridge.settle([street.part], [])
        assert street.seen().changed(whole) == {}, f"place {place}"
    await street.daemon().settle([], [])
    assert street.seen().changed(before) == {}
