"""What could not be cleaned up is tried again by itself: the privileged helper was not there, someone kept a disk open, a file system was full.

Nobody tells when the host does again what it has refused, so it is asked, ever more rarely. Owns a task for each machine of which something is left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from banger.daemon.machine import Machine
from banger.model.errors import BangerError
from banger.model.ids import VmId

log = logging.getLogger(__name__)
#: Seconds until it is tried again: at first, and at most; each pause is twice the one before.
FIRST, LONGEST = 1.0, 60.0


class Leftovers:
    """Machines of which something is left; `clean` makes one gone, or stopped, as it was meant."""

    def __init__(self, clean: Callable[[Machine], Awaitable[None]], tasks: asyncio.TaskGroup) -> None:
        self.clean, self.tasks = clean, tasks
        self.trying: dict[VmId, asyncio.Task[None]] = {}

    def add(self, machine: Machine, error: BaseException) -> None:
        """Something of it is left, for this reason."""
        machine.note = f"something of it is left over, which is tried again: {error}"
        log.warning("%s: %s", machine.plan.name, machine.note)
        if machine.plan.id not in self.trying:
            self.trying[machine.plan.id] = self.tasks.create_task(self._try(machine), name=f"clean up after {machine.plan.name}")

    async def _try(self, machine: Machine) -> None:
        pause = FIRST
        try:
            while True:
                await asyncio.sleep(pause)
                try:
                    await self.clean(machine)
                except (BangerError, OSError) as error:
                    log.info("%s is not cleaned up yet: %s", machine.plan.name, error)
                    pause = min(2 * pause, LONGEST)
                else:
                    log.info("%s is cleaned up", machine.plan.name)
                    return
        finally:
            self.trying.pop(machine.plan.id, None)
