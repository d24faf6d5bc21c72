"""Turns: who boots, who waits, and who does not keep others waiting. On a pretended host with two processors' places."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import msgspec
import pytest

from banger.daemon.turns import Turns
from banger.model.errors import Cancelled
from banger.model.vm import VmSpec, VmState
from banger.testing import Mood
from tests.place import Place, reach, result

#: Longer than any test.
PATIENT = 60.0
SPECS = [VmSpec(name=name, network="none") for name in ("otter", "wren", "lynx", "stoat")]


async def places(turns: Turns) -> int:
    """How many are free."""
    async with AsyncExitStack() as stack:
        for found in range(100):
            if turns.free.locked():
                return found
            await stack.enter_async_context(turns.taken())
    raise AssertionError("there are too many places")


async def test_as_many_go_as_there_are_places_and_the_others_in_the_order_of_their_coming() -> None:
    turns, began, go_on = Turns(3), list[int](), asyncio.Event()

    async def boot(number: int) -> None:
        async with turns.taken():
            began.append(number)
            await go_on.wait()

    async with asyncio.TaskGroup() as group:
        for number in range(6):
            group.create_task(boot(number))
        await asyncio.sleep(0)
        assert began == [0, 1, 2]
        go_on.set()
    assert began == list(range(6))
    assert await places(turns) == 3


async def test_one_that_hangs_keeps_its_place_for_a_while_only() -> None:
    turns = Turns(1, longest=0.01)
    async with turns.taken(), turns.taken(), asyncio.timeout(5), turns.taken(), turns.taken():
        pass
    assert await places(turns) == 2


async def test_who_gives_up_waiting_takes_no_place() -> None:
    turns = Turns(1)
    async with turns.taken(), turns.taken():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), turns.taken():
                raise AssertionError("there was no place")
    assert await places(turns) == 2


async def test_a_machine_beyond_the_places_waits_and_says_so(place: Place) -> None:
    place.fake.facts.count = 2
    object.__setattr__(place.host, "settings", msgspec.structs.replace(place.host.settings, boot_timeout=PATIENT))
    daemon = await place.daemon()
    place.guests(Mood.SILENT)
    booting = [await daemon.vms.create(spec, start=True, wait="agent") for spec in SPECS[:2]]
    for each in booting:
        await reach(each, "agent")
    place.guests(Mood.GOOD)
    waiting, other = [await daemon.vms.create(spec, start=True, wait="agent") for spec in SPECS[2:]]
    for each in (waiting, other):
        await reach(each, "turn")
    assert [row.state for row in daemon.vms.rows()] == [VmState.CREATING] * 4
    await daemon.vms.delete("lynx")
    with pytest.raises(Cancelled):
        await result(waiting)
    await daemon.vms.delete("otter")
    assert (await result(other)).state is VmState.RUNNING
    for name in ("wren", "stoat"):
        await daemon.vms.delete(name)
    for each in booting:
        with pytest.raises(Cancelled):
            await result(each)
    assert place.clean()
