"""What cannot be cleaned up is tried again by itself, and is in nobody's way meanwhile."""

from __future__ import annotations

import pytest

from banger.backends.network import Network
from banger.daemon import Daemon, leftovers
from banger.daemon.store import Phase
from banger.model.errors import GuestFailed, HostLacks
from banger.model.parts import NicPart
from banger.model.vm import VmState
from banger.testing import Mood
from tests.place import OTTER, Place, result, until

GONE = "the privileged helper does not answer"


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again soon."""
    monkeypatch.setattr(leftovers, "FIRST", 0.01)


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not tried again in a test's time."""
    monkeypatch.setattr(leftovers, "FIRST", 1000.0)


class Helper:
    """Stands between a daemon and its machines' networks; while it is away, nothing of them is made or removed."""

    def __init__(self, daemon: Daemon) -> None:
        self.away = False
        network = daemon.vms.resources.networks["none"]
        ensure, remove = network.ensure, network.remove

        async def made(part: object) -> None:
            self.require()
            await ensure(part)  # type: ignore[arg-type]

        async def removed(part: object) -> None:
            self.require()
            await remove(part)  # type: ignore[arg-type]

        network.ensure, network.remove = made, removed  # type: ignore[method-assign,assignment]

    def require(self) -> None:
        if self.away:
            raise HostLacks(GONE)


async def test_what_a_failed_creation_leaves_goes_by_itself(place: Place, hasty: None) -> None:
    daemon = await place.daemon()
    helper = Helper(daemon)
    helper.away = True
    with pytest.raises(HostLacks, match=GONE):
        await result(await daemon.vms.create(OTTER, start=True, wait="agent"))
    (row,) = daemon.vms.rows()
    assert "is tried again" in row.note
    helper.away = False
    await until(lambda: daemon.vms.rows() == [])
    assert place.clean()
    assert daemon.vms.store.load() == []


async def test_the_same_command_repeated_does_not_wait_for_that(place: Place, never: None) -> None:
    daemon = await place.daemon()
    helper = Helper(daemon)
    helper.away = True
    for _ in range(2):
        with pytest.raises(HostLacks, match=GONE):
            await result(await daemon.vms.create(OTTER, start=True, wait="agent"))
        assert len(daemon.vms.rows()) == 1
    helper.away = False
    assert (await result(await daemon.vms.create(OTTER, start=True, wait="agent"))).state is VmState.RUNNING
    assert len(daemon.vms.rows()) == 1


async def test_what_is_tried_again_later_does_not_harm_the_next_of_that_name(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "FIRST", 0.3)
    daemon = await place.daemon()
    helper = Helper(daemon)
    helper.away = True
    with pytest.raises(HostLacks):
        await result(await daemon.vms.create(OTTER, start=True, wait="agent"))
    helper.away = False
    await result(await daemon.vms.create(OTTER, start=True, wait="agent"))
    await until(lambda: not daemon.vms.roster.leftovers.trying)
    assert daemon.vms.show("otter").state is VmState.RUNNING


async def test_a_machine_that_cannot_be_stopped_to_the_end_is_stopped_starts_and_is_cleaned_up(place: Place, hasty: None) -> None:
    daemon = await place.daemon()
    await result(await daemon.vms.create(OTTER, start=True, wait="agent"))
    helper = Helper(daemon)
    helper.away = True
    with pytest.raises(HostLacks, match=GONE):
        await daemon.vms.stop("otter", force=True)
    assert daemon.vms.show("otter").state is VmState.STOPPED
    await until(lambda: "is tried again" in daemon.vms.show("otter").note)
    helper.away = False
    await until(lambda: daemon.vms.show("otter").note == "")
    assert (await result(daemon.vms.start("otter", wait="agent"))).state is VmState.RUNNING


async def test_why_a_start_failed_is_told_although_what_it_made_is_left_over(place: Place, hasty: None) -> None:
    daemon = await place.daemon()
    await result(await daemon.vms.create(OTTER, start=False, wait="agent"))
    helper = Helper(daemon)
    place.guests(Mood.GARBAGE)
    network, removed = daemon.vms.resources.networks["none"], daemon.vms.resources.networks["none"].remove

    async def late(part: object) -> None:
        helper.away = True
        await removed(part)  # type: ignore[arg-type]

    network.remove = late  # type: ignore[method-assign,assignment]
    with pytest.raises(GuestFailed, match="left over: the privileged helper"):
        await result(daemon.vms.start("otter", wait="agent"))
    network.remove, helper.away = removed, False  # type: ignore[method-assign]
    await until(lambda: daemon.vms.show("otter").note == "")
    place.guests(Mood.GOOD)
    assert (await result(daemon.vms.start("otter", wait="agent"))).state is VmState.RUNNING


async def test_a_daemon_that_begins_while_nothing_can_be_cleaned_up_does_it_later(place: Place, hasty: None, monkeypatch: pytest.MonkeyPatch) -> None:
    former = await place.daemon()
    await result(await former.vms.create(OTTER, start=False, wait="agent"))
    former.vms.store.mark(former.vms.show("otter").id, Phase.DELETING)
    network, away = type(former.vms.resources.networks["none"]), True
    removed = network.remove

    async def sometimes(self: Network, part: NicPart) -> None:
        if away:
            raise HostLacks(GONE)
        await removed(self, part)

    monkeypatch.setattr(network, "remove", sometimes)
    later = await place.daemon()
    assert "is tried again" in later.vms.show("otter").note
    away = False
    await until(lambda: later.vms.rows() == [])
    assert place.clean()
