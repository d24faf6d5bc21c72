"""Keeping machines: they are brought up, watched until their VMM ends, and taken over by the next daemon. Owns the watch over each VMM's process."""

from __future__ import annotations

import asyncio
import logging

from banger.daemon.machine import Machine
from banger.daemon.names import Names
from banger.daemon.roster import Roster
from banger.daemon.stalls import tend
from banger.daemon.store import Phase
from banger.daemon.turns import Turns
from banger.host import Host
from banger.model.errors import BangerError

log = logging.getLogger(__name__)
MEET_TIMEOUT = 10.0


class Keeping:
    """What lives, and what has ended."""

    def __init__(self, host: Host, roster: Roster, *, names: Names, tasks: asyncio.TaskGroup) -> None:
        self.host, self.roster, self.names, self.tasks = host, roster, names, tasks
        self.resources, self.leases = roster.resources, roster.leases
        self.turns = Turns(host.facts.cpus())

    async def up(self, machine: Machine, wait: str) -> None:
        """Bring it up, when it is its turn, and see meanwhile that its name leads to it."""
        try:
            async with self.turns.taken(), self.names.beside(machine, self.tasks):
                await machine.up(wait)
        except (BangerError, OSError) as error:
            if machine.dirty and machine.phase is Phase.KEPT:
                self.roster.leftovers.add(machine, error)
            raise

    def watch(self, machine: Machine) -> None:
        """Clean up as soon as the machine's VMM has ended, whoever ended it; unless the machine is going altogether, which others see to."""
        if machine.watcher is None or machine.watcher.done():
            machine.watcher = self.tasks.create_task(self._watch(machine), name=f"watch {machine.plan.name}")

    async def _watch(self, machine: Machine) -> None:
        try:
            await self._until_gone(machine)
            while machine.phase is not Phase.DELETING and not await machine.reap():
                await self._until_gone(machine)
            log.info("%s has ended", machine.plan.name)
            self.leases.touch()
            if machine.plan.rm and machine.phase is Phase.KEPT:
                await self.roster.destroy(machine)
        except (BangerError, OSError) as error:
            self.roster.leftovers.add(machine, error)

    async def _until_gone(self, machine: Machine) -> None:
        tending = asyncio.create_task(tend(machine))
        try:
            await self.resources.vmm(machine.plan).gone(machine.plan.machine)
        finally:
            tending.cancel()
            await asyncio.wait([tending])

    async def adopt(self) -> None:
        """After a start of the daemon: undo what was half made or half removed, take over what runs, clean up after what has ended meanwhile.

        What is half made in the cache has no row: it is known by its name.
        """
        for fresh in self.host.paths.cache.rglob("*.new"):
            self.host.files.remove_tree(fresh)
        self.roster.load()
        await self.leases.settle()
        for machine in list(self.roster.machines.values()):
            try:
                await self._adopt(machine)
            except (BangerError, OSError) as error:
                if machine.inspect().running:
                    machine.note = f"could not be taken over: {error}"
                    log.warning("%s: %s", machine.plan.name, machine.note)
                else:
                    self.roster.leftovers.add(machine, error)
        if self.leases.ready:
            self.leases.touch()
            self.tasks.create_task(self.leases.keep(), name="keep TAPs ready")

    async def _adopt(self, machine: Machine) -> None:
        plan = machine.plan
        if machine.phase is not Phase.KEPT or plan.rm:
            await self.roster.destroy(machine)
        elif machine.inspect().running:
            log.info("taking over %s", plan.name)
            self.host.consoles.start(plan.id)
            self.host.meters.start(plan.id)
            self.watch(machine)
            self.tasks.create_task(self._greet(machine), name=f"greet {plan.name}")
            await self.names.began(machine)
        else:
            await machine.down()

    async def _greet(self, machine: Machine) -> None:
        try:
            await machine.meet(MEET_TIMEOUT)
        except BangerError as error:
            machine.note = f"its agent does not answer: {error}"
            log.warning("%s: %s", machine.plan.name, machine.note)
