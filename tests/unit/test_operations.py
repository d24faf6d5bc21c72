"""Operations: followed, left, cancelled, and bound to whoever follows."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator

import pytest

from banger.daemon.operations import Operations, failure_of
from banger.host.clock import RealClock
from banger.model.errors import Cancelled, NotFound, VmmFailed
from banger.model.event import Event, report, step
from banger.model.operation import Operation


@pytest.fixture
async def operations() -> AsyncIterator[Operations]:
    class Over(Exception):
        pass

    try:
        async with asyncio.TaskGroup() as tasks:
            yield Operations(RealClock(), tasks)
            raise Over
    except* Over:
        pass


async def work() -> str:
    async with step("disk", "making it"):
        report("half", done=1, total=2, unit="steps")
    return "made"


async def test_a_follower_sees_the_operation_its_events_and_its_result(operations: Operations) -> None:
    seen = [item async for item in operations.follow(operations.begin("vm.create", "otter", work))]
    first, *events, last = seen
    assert isinstance(first, Operation)
    assert events == [Event(stage="disk", detail="making it"), Event(stage="disk", detail="half", done=1, total=2, unit="steps")]
    assert last == "made"
    assert operations.running == {}
    assert operations.rows()[0].finished is not None


async def test_an_error_reaches_the_follower_with_its_stage(operations: Operations) -> None:
    async def fail() -> str:
        async with step("machine"):
            raise VmmFailed("it died")

    with pytest.raises(VmmFailed) as caught:
        async for _ in operations.follow(operations.begin("vm.create", "otter", fail)):
            pass
    assert caught.value.stage == "machine"
    failure = operations.rows()[0].failure
    assert failure is not None
    assert (failure.code, failure.stage) == ("vmm-failed", "machine")


async def test_cancelling_waits_for_the_clean_up(operations: Operations) -> None:
    cleaned = asyncio.Event()
    begun = asyncio.Event()

    async def endless() -> str:
        try:
            begun.set()
            await asyncio.get_running_loop().create_future()
            return "never"
        finally:
            await asyncio.sleep(0)
            cleaned.set()

    running = operations.begin("vm.create", "otter", endless)
    await begun.wait()
    ended = await operations.cancel(running.seen.id)
    assert cleaned.is_set()
    assert ended.failure is not None
    assert ended.failure.code == "cancelled"
    with pytest.raises(Cancelled):
        async for _ in operations.follow(running):
            pass


async def test_one_that_is_cancelled_before_it_began_is_over_too(operations: Operations) -> None:
    running = operations.begin("vm.create", "otter", work)
    ended = await operations.cancel(running.seen.id)
    await asyncio.sleep(0)
    assert operations.running == {}
    assert operations.show(ended.id).failure is not None


async def test_leaving_the_stream_leaves_the_operation_running(operations: Operations) -> None:
    go_on = asyncio.Event()

    async def patient() -> str:
        await go_on.wait()
        return "made"

    running = operations.begin("vm.create", "otter", patient)
    stream = operations.follow(running)
    await anext(stream)
    await stream.aclose()
    go_on.set()
    assert running.task is not None
    assert await running.task == "made"


async def test_leaving_a_bound_stream_cancels_what_is_under_way(operations: Operations) -> None:
    async def endless() -> str:
        await asyncio.get_running_loop().create_future()
        return "never"

    running = operations.begin("vm.create", "otter", endless)
    stream = operations.follow_bound(running, never)
    await anext(stream)
    await stream.aclose()
    assert running.task is not None
    assert running.task.cancelled()


async def test_leaving_a_bound_stream_before_its_first_line_cancels_too(operations: Operations) -> None:
    running = operations.begin("vm.create", "otter", asyncio.get_running_loop().create_future)
    await operations.follow_bound(running, never).aclose()
    assert running.task is not None
    assert running.task.cancelled()


async def never(_: object) -> None:
    raise AssertionError("nothing was made, so nothing is to be released")


async def test_leaving_a_bound_stream_releases_what_was_made(operations: Operations) -> None:
    released = []

    async def release(made: str) -> None:
        released.append(made)

    stream = operations.follow_bound(operations.begin("vm.create", "otter", work), release)
    while await anext(stream) != "made":
        pass
    assert released == []
    await stream.aclose()
    assert released == ["made"]


async def test_an_unknown_operation_is_not_found(operations: Operations) -> None:
    with pytest.raises(NotFound):
        operations.show("op-00000000")
    with pytest.raises(NotFound):
        await operations.cancel("op-00000000")


def test_a_full_disk_is_told_as_that_wherever_it_shows() -> None:
    failure = failure_of(OSError(errno.ENOSPC, "No space left on device", "/var/lib/x"))
    assert (failure.code, failure.message) == ("no-space", "no space left for /var/lib/x")
    assert failure_of(OSError(errno.EIO, "Input/output error")).code == "internal"
