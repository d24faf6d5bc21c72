"""The processes that machines live by, of one kind: found by their record, looked at, waited for, and ended. What backends with a process share.

One `Lives` for each kind (a VMM, a network's process), made by its backend. Owns the records in the machines' run folders, and for a VMM the stream
to each agent; `end` takes both away.
"""

from __future__ import annotations

import signal as signals
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from banger.host.detached import Detached
from banger.host.proc import Life, ProcessId
from banger.model.parts import PartStatus

if TYPE_CHECKING:
    from banger.host import Host
    from banger.host.stream import Stream
    from banger.model.ids import VmId

ABSENT = PartStatus(present=False)


class Lives:
    """`record` says where a machine's record is; `mark` gives the words by which a machine's process is found that was not written down.

    `owner` tells whose process it is when it is not ours (see Proc.find).
    """

    def __init__(
        self, host: Host, record: Callable[[VmId], Path], mark: Callable[[VmId], tuple[str, ...]], owner: Callable[[VmId], int] = lambda vm: -1
    ) -> None:
        self.host, self.record, self.mark, self.owner = host, record, mark, owner
        #: Kept because a listing of a thousand machines asks for each; they hold no state but a path.
        self.known: dict[VmId, Detached] = {}
        #: The agent's stream of each machine: a new one takes the former's place, and whichever is left is closed at the end.
        self.streams: dict[VmId, Stream] = {}

    def _of(self, vm: VmId) -> Detached:
        found = self.known.get(vm)
        if found is None:
            found = self.known[vm] = Detached(self.host.proc, self.host.files, self.record(vm), self.mark(vm), lambda: self.owner(vm))
        return found

    def find(self, vm: VmId) -> ProcessId | None:
        """The machine's process if it lives, frozen or not."""
        return self._of(vm).find()

    async def start(self, vm: VmId, spawn: Callable[[], Awaitable[ProcessId]]) -> ProcessId:
        """Start it by `spawn`, unless it lives; a failed start leaves no record."""
        return await self._of(vm).start(spawn)

    async def end(self, vm: VmId) -> None:
        """Kill it, wait until it is gone, hang up, and forget it; missing is success."""
        try:
            await self._of(vm).end()
        finally:
            self.hang_up(vm)
        self.known.pop(vm, None)

    def inspect(self, vm: VmId) -> PartStatus:
        """Whether it lives; never waits."""
        process = self.find(vm)
        if process is None:
            return ABSENT
        return PartStatus(present=True, running=True, frozen=self.host.proc.look(process) is Life.FROZEN, pid=process.pid)

    async def gone(self, vm: VmId) -> None:
        """Return once it has ended (at once when there is none)."""
        process = self.find(vm)
        if process is not None:
            await self.host.proc.gone(process)

    def signal(self, vm: VmId, number: int) -> bool:
        """Send it a signal; False when there is none."""
        process = self.find(vm)
        return process is not None and self.host.proc.signal(process, signals.Signals(number))

    def hang_up(self, vm: VmId) -> None:
        """Close the stream to the machine's agent, if there is one."""
        former = self.streams.pop(vm, None)
        if former is not None:
            former.close()

    async def call(self, vm: VmId, dial: Awaitable[Stream]) -> Stream:
        """The stream to the machine's agent that `dial` makes. The former is closed first: some VMMs serve one peer at a time."""
        self.hang_up(vm)
        stream = await dial
        self.streams[vm] = stream
        return stream
