"""Consoles without sockets: a test, or a fake machine, says what is printed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from banger.host.console import harmless
from banger.model.ids import VmId


class FakeConsoles:
    """What was printed on each console is kept in memory, also what is printed while nobody is attached."""

    def __init__(self) -> None:
        self.printed: dict[VmId, bytes] = {}
        self.attached: set[VmId] = set()
        self.changed = asyncio.Condition()

    async def say(self, vm: VmId, data: bytes) -> None:
        """The machine prints something."""
        async with self.changed:
            self.printed[vm] = self.printed.get(vm, b"") + data
            self.changed.notify_all()

    async def end(self, vm: VmId) -> None:
        """The machine ends."""
        async with self.changed:
            self.attached.discard(vm)
            self.changed.notify_all()

    def prepare(self, vm: VmId) -> None:
        """See Consoles."""

    def start(self, vm: VmId) -> bool:
        """See Consoles."""
        self.attached.add(vm)
        return True

    def stop(self, vm: VmId) -> None:
        """See Consoles."""
        self.attached.discard(vm)

    def read(self, vm: VmId) -> str:
        """See Consoles."""
        return harmless(self.printed.get(vm, b""))

    def tail(self, vm: VmId, lines: int) -> tuple[str, ...]:
        """See Consoles."""
        found = [line.rstrip() for line in self.read(vm).split("\n") if line.strip()]
        return tuple(found[-lines:]) if lines > 0 else ()

    async def watch(self, vm: VmId) -> AsyncGenerator[str, None]:
        """See Consoles."""
        seen = 0
        while True:
            data = self.printed.get(vm, b"")
            if len(data) > seen:
                yield harmless(data[seen:])
                seen = len(data)
            elif vm not in self.attached:
                return
            else:
                async with self.changed:
                    await self.changed.wait()

    def remove(self, vm: VmId) -> None:
        """See Consoles."""
        self.stop(vm)
        self.printed.pop(vm, None)
