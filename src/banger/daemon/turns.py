"""Turns: how many machines boot at once. Those beyond it wait, and go in the order in which they came.

A boot keeps a processor busy from its first moment to its last. More at once than there are processors end no sooner all together: each one only ends
later, all in the same crowd, and what they take from each other (caches, the processor's time while the daemon looks whether they are there) is lost.
A guest that hangs does not keep its place: after `LONGEST` seconds it counts no more. Owns nothing on the host.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

from banger.model.event import step

#: Also where there is one processor, two boot at once: one may wait for its disk.
LEAST = 2
LONGEST = 20.0


class Turns:
    """As many places as there are processors."""

    def __init__(self, processors: int, longest: float = LONGEST) -> None:
        self.free, self.longest = asyncio.Semaphore(max(LEAST, processors)), longest

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """In between there is a place for one that boots, for at most `longest` seconds."""
        if self.free.locked():
            async with step("turn", "waiting until other machines have booted"):
                await self.free.acquire()
        else:
            await self.free.acquire()
        place = ExitStack()
        place.callback(self.free.release)
        late = asyncio.get_running_loop().call_later(self.longest, place.close)
        try:
            yield
        finally:
            late.cancel()
            place.close()
