"""The roster: the machines that there are, in memory and in the table of intent, and how one is entered and struck off.

Striking off is the one way in which a machine goes, whoever wants it gone: its maker, who failed; its user; the daemon at its start. Owns what is left
of a machine that does not run: its row, its folders, its place in the known hosts.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
from contextlib import suppress

from banger.daemon.leases import Leases
from banger.daemon.leftovers import Leftovers
from banger.daemon.machine import Machine
from banger.daemon.resources import Resources
from banger.daemon.ssh import KnownHosts
from banger.daemon.store import Phase, Store
from banger.host import Host
from banger.model.errors import BadRequest, BangerError, NoSpace, NotFound, WrongState
from banger.model.ids import VmId
from banger.model.vm import VmPlan, VmStatus

log = logging.getLogger(__name__)
ROOM_TRIES, ROOM_POLL = 20, 0.1


class Roster:
    """All machines of this user."""

    def __init__(self, host: Host, *, store: Store, resources: Resources, tasks: asyncio.TaskGroup) -> None:
        self.host, self.store, self.resources, self.tasks = host, store, resources, tasks
        self.known = KnownHosts(host)
        self.machines: dict[VmId, Machine] = {}
        self.leases = Leases(resources, self.machines, host.settings.tap_pool)
        self.leftovers = Leftovers(self._clean, tasks)

    def rows(self) -> list[VmStatus]:
        """All of them in the order of creation; touches no guest and no lock."""
        return [machine.status() for machine in self.machines.values()]

    def find(self, reference: str) -> Machine:
        """By name, id, or unique beginning of an id; NotFound with close matches, BadRequest when several fit."""
        by_name = next((machine for machine in self.machines.values() if machine.plan.name == reference), None)
        if by_name is not None:
            return by_name
        fitting = [machine for vm, machine in self.machines.items() if reference and vm.startswith(reference)]
        if len(fitting) > 1:
            raise BadRequest(f"{reference!r} fits {len(fitting)} machines", hint="give more of the id, or the name")
        if not fitting:
            names = [machine.plan.name for machine in self.machines.values()]
            close = difflib.get_close_matches(reference, names, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(close)}?" if close else "run: banger vm list"
            raise NotFound(f"there is no machine {reference!r}", hint=hint)
        return fitting[0]

    def kept(self, reference: str) -> Machine:
        """The same; WrongState while it is being made or deleted."""
        machine = self.find(reference)
        if machine.phase is not Phase.KEPT:
            raise WrongState(f"machine {machine.plan.name} is still {machine.phase}", hint="wait for it, or delete it")
        return machine

    def names(self) -> frozenset[str]:
        """The names that are taken; those of machines that are going can be had once they have gone (see `make_way`)."""
        return frozenset(machine.plan.name for machine in self.machines.values() if machine.phase is not Phase.DELETING)

    async def make_way(self, name: str) -> None:
        """See a machine of that name off that is going; raises what keeps it."""
        for machine in [each for each in self.machines.values() if each.plan.name == name and each.phase is Phase.DELETING]:
            await self.destroy(machine)

    def load(self) -> None:
        """After a start of the daemon: the machines of the table."""
        rows = self.store.load()
        self.known.load([plan.name for plan, _ in rows])
        for plan, phase in rows:
            self._enter(plan, phase)

    def add(self, plan: VmPlan) -> Machine:
        """Save the intent to make a machine; nothing of it is on the host yet."""
        self.store.add(plan)
        machine = self._enter(plan, Phase.CREATING)
        self.leases.touch()
        return machine

    def _enter(self, plan: VmPlan, phase: Phase) -> Machine:
        machine = self.machines[plan.id] = Machine(self.host, self.resources, self.known, self.tasks, plan, phase)
        return machine

    def keep(self, machine: Machine) -> None:
        """It is made."""
        self.store.mark(machine.plan.id, Phase.KEPT)
        machine.phase = Phase.KEPT

    async def undo(self, machine: Machine, error: BaseException) -> None:
        """Leave nothing behind, however often we are cancelled; what cannot be removed is noted on the error, and tried again."""
        work = asyncio.get_running_loop().create_task(self.destroy(machine))
        while not work.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([work])
        left = work.exception()
        if left is not None:
            error.add_note(f"left over: {left}")

    async def destroy(self, machine: Machine) -> None:
        """Remove a machine and all it has written; what fails leaves it on the roster, may be repeated, and is by itself."""
        try:
            await self._destroy(machine)
        except (BangerError, OSError) as error:
            self.leftovers.add(machine, error)
            raise

    async def _clean(self, machine: Machine) -> None:
        """See Leftovers: as it was meant, unless it has gone or runs again meanwhile."""
        if machine.plan.id not in self.machines:
            return
        if machine.phase is Phase.DELETING or machine.plan.rm:
            await self._destroy(machine)
        elif await machine.reap():
            machine.note = ""
            self.leases.touch()

    async def _destroy(self, machine: Machine) -> None:
        """Its VMM is told to end before that is written down, and ends meanwhile: who dies in between leaves a machine that has stopped."""
        plan = machine.plan
        machine.phase = Phase.DELETING
        machine.end()
        try:
            self.store.mark(plan.id, Phase.DELETING)
        except NoSpace as error:
            log.warning("%s is deleted without a note of it first, which makes room: %s", plan.name, error)
        await machine.down()
        async with machine.lock:
            if plan.id not in self.machines:
                return  # somebody else was quicker, and its name may be another's now
            await self.resources.remove(plan.disk)
            self.host.consoles.remove(plan.id)
            self.host.files.remove_tree(self.host.paths.vm_run(plan.id))
            self.host.files.remove_tree(self.host.paths.vm_state(plan.id))
            self.known.forget(plan.name)
            await self._forget(plan.id)
            self.machines.pop(plan.id, None)
        self.leases.touch()

    async def _forget(self, vm: VmId) -> None:
        """On a full disk there is room again once the machine's files have gone; the kernel may take a moment to give it back."""
        for _ in range(ROOM_TRIES):
            try:
                self.store.drop(vm)
                return
            except NoSpace:
                await asyncio.sleep(ROOM_POLL)
        self.store.drop(vm)
