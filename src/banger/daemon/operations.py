"""Operations: work that takes long, runs in a task of its own, tells its progress, and can be cancelled by anyone who knows its id.

Whoever began one may follow it as a stream: the operation, its events, its result. Leaving that stream leaves the operation running, unless it is
*bound* to the stream (machines with `rm`): then leaving cancels it, or, once it is done, releases what it made.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, TypeAlias, TypeVar

import msgspec

from banger.host.clock import Clock
from banger.model.errors import BangerError, Cancelled, NotFound, foreseen
from banger.model.event import Event, listening, operation
from banger.model.ids import OperationId
from banger.model.operation import Failure, Operation

log = logging.getLogger(__name__)
T = TypeVar("T")
Progress: TypeAlias = Operation | Event | T
KEEP_FINISHED = 64
KEEP_EVENTS = 1024


def failure_of(error: BaseException) -> Failure:
    """An error as it travels; one that banger did not raise on purpose is `internal` and named by its type."""
    told = foreseen(error)
    if told is not None:
        return Failure(code=told.code, message=str(told), hint=told.hint, stage=told.stage, tail=told.tail)
    return Failure(code="internal", message=f"{type(error).__name__}: {error}", hint="the daemon's log has the details: banger daemon status")


class Running(Generic[T]):
    """One operation: what is seen of it, its task, and the events that its follower has not yet taken."""

    def __init__(self, seen: Operation) -> None:
        self.seen = seen
        self.events: deque[Event] = deque(maxlen=KEEP_EVENTS)
        self.changed = asyncio.Event()
        self.task: asyncio.Task[T] | None = None

    def hear(self, event: Event) -> None:
        """A listener for model.event."""
        self.seen = msgspec.structs.replace(self.seen, stage=event.stage, detail=event.detail.rpartition("\n")[2])
        self.events.append(event)
        self.changed.set()


class Operations:
    """All operations of this daemon: those under way, and the last 64 that ended."""

    def __init__(self, clock: Clock, tasks: asyncio.TaskGroup) -> None:
        self.clock, self.tasks = clock, tasks
        self.running: dict[OperationId, Running[object]] = {}
        self.finished: deque[Operation] = deque(maxlen=KEEP_FINISHED)

    def begin(self, name: str, subject: str, work: Callable[[], Awaitable[T]]) -> Running[T]:
        """Start `work` in a task; its errors are kept for whoever follows, and logged."""
        identity = OperationId(f"op-{self.clock.random(4).hex()}")
        running: Running[T] = Running(Operation(id=identity, name=name, subject=subject, stage="", detail="", started=self.clock.now()))
        running.task = asyncio.get_running_loop().create_task(self._run(running, work), name=f"{identity} {name} {subject}")
        self.running[identity] = running  # type: ignore[assignment]  # the registry forgets the result's type; only `begin`'s caller needs it
        running.task.add_done_callback(lambda _: self._ended(running, Cancelled(f"{name} was cancelled before it began")))
        self.tasks.create_task(_settled(running.task))
        return running

    async def _run(self, running: Running[T], work: Callable[[], Awaitable[T]]) -> T:
        log.info("%s %s %s: begins", running.seen.id, running.seen.name, running.seen.subject)
        error: BaseException | None = None
        operation.set(running.seen.id)
        try:
            with listening(running.hear):
                return await work()
        except asyncio.CancelledError:
            error = Cancelled(f"{running.seen.name} was cancelled")
            raise
        except Exception as raised:
            error = raised
            raise
        finally:
            self._ended(running, error)

    def _ended(self, running: Running[T], error: BaseException | None) -> None:
        """The last thing that an operation's task does, so that whoever sees the task done sees the operation ended; twice is once."""
        if running.seen.id not in self.running:
            return
        if error is not None and not isinstance(error, BangerError):
            log.error("%s failed", running.seen.id, exc_info=error)
        log.info("%s %s %s: %s", running.seen.id, running.seen.name, running.seen.subject, "done" if error is None else f"failed: {error}")
        failure = None if error is None else failure_of(error)
        running.seen = msgspec.structs.replace(running.seen, finished=self.clock.now(), failure=failure)
        del self.running[running.seen.id]
        self.finished.append(running.seen)
        running.changed.set()

    async def follow(self, running: Running[T]) -> AsyncIterator[Progress[T]]:
        """The operation, its events as they come, then its result; raises what it raised (Cancelled when it was taken back)."""
        assert running.task is not None
        yield running.seen
        while not running.task.done() or running.events:
            while running.events:
                yield running.events.popleft()
            running.changed.clear()
            if not running.task.done():
                await running.changed.wait()
        if running.task.cancelled():
            raise Cancelled(f"{running.seen.name} was cancelled", stage=running.seen.stage)
        yield running.task.result()

    def follow_bound(self, running: Running[T], release: Callable[[T], Awaitable[None]]) -> Bound[T]:
        """Like `follow`, then stays open; when the follower leaves, the operation is cancelled or what it made released."""
        items = self.follow(running)
        return Bound(running, items, release)

    def rows(self) -> list[Operation]:
        """Those under way first, then the ended ones, latest first."""
        return [running.seen for running in self.running.values()] + list(reversed(self.finished))

    def under_way(self, kind: str, subject: str) -> tuple[str, ...]:
        """The ids of the operations on a subject whose names begin so, and that have not ended."""
        return tuple(each.seen.id for each in self.running.values() if each.seen.subject == subject and each.seen.name.startswith(kind))

    def show(self, operation: str) -> Operation:
        """One of them, or NotFound."""
        for seen in self.rows():
            if seen.id == operation:
                return seen
        raise NotFound(f"there is no operation {operation}", hint="run: banger daemon operations")

    async def cancel(self, operation: str) -> Operation:
        """Cancel it and wait until it has cleaned up; one that has ended is returned as it is."""
        running = self.running.get(OperationId(operation))
        if running is None or running.task is None:
            return self.show(operation)
        running.task.cancel()
        await asyncio.wait([running.task])
        return running.seen


class Bound(Generic[T]):
    """The stream of an operation that goes with its follower. No generator: closing one that was never begun would do nothing, and a follower may
    leave before it has asked for the first line."""

    def __init__(self, running: Running[T], items: AsyncIterator[Progress[T]], release: Callable[[T], Awaitable[None]]) -> None:
        self.running, self.items, self.release = running, items, release

    def __aiter__(self) -> Bound[T]:
        return self

    async def __anext__(self) -> Progress[T]:
        async for item in self.items:
            return item
        forever: asyncio.Future[Progress[T]] = asyncio.get_running_loop().create_future()
        return await forever

    async def aclose(self) -> None:
        """The follower leaves."""
        task = self.running.task
        assert task is not None
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and task.exception() is None:
            await self.release(task.result())


async def _settled(task: asyncio.Task[T]) -> None:
    """Tie an operation's task to the daemon's task group without letting its failure end the group."""
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait([task])
        raise
