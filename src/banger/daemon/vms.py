"""Machines: every verb of `banger vm`, in front of those who do the work: the roster of all machines, their making, their keeping."""

from __future__ import annotations

import asyncio
import logging
import signal as signals
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from pathlib import Path

from banger.backends.network import Shared
from banger.backends.vmm import Metered
from banger.daemon import plan as planning
from banger.daemon.boots import Boots
from banger.daemon.duplex import Duplex
from banger.daemon.guests import Conversation
from banger.daemon.images import Images, Kernels
from banger.daemon.keeping import MEET_TIMEOUT, Keeping
from banger.daemon.machine import Machine
from banger.daemon.making import Making
from banger.daemon.names import Names
from banger.daemon.operations import Operations, Progress, failure_of
from banger.daemon.resources import Resources
from banger.daemon.roster import Roster
from banger.daemon.store import Store
from banger.host import Host
from banger.model.commands import Asked, request
from banger.model.errors import BadRequest, BangerError, NoSpace, WrongState
from banger.model.event import step
from banger.model.metrics import Metrics
from banger.model.operation import TargetResult, Text
from banger.model.vm import VmSpec, VmState, VmStatus

log = logging.getLogger(__name__)


class Vms:
    """All machines of this user."""

    def __init__(
        self,
        host: Host,
        *,
        store: Store,
        operations: Operations,
        images: Images,
        kernels: Kernels,
        resources: Resources,
        boots: Boots,
        names: Names,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self.host, self.store, self.operations, self.resources = host, store, operations, resources
        self.roster = Roster(host, store=store, resources=resources, tasks=tasks)
        self.keeping = Keeping(host, self.roster, names=names, tasks=tasks)
        self.making = Making(host, self.roster, self.keeping, operations=operations, images=images, kernels=kernels, boots=boots)
        self.machines, self.known = self.roster.machines, self.roster.known

    async def adopt(self) -> None:
        """After a start of the daemon: see daemon/keeping.py."""
        await self.keeping.adopt()

    # -- seeing ---------------------------------------------------------------------------------------------------------------------------------

    def rows(self) -> list[VmStatus]:
        """All of them in the order of creation; touches no guest and no lock."""
        return self.roster.rows()

    def show(self, reference: str) -> VmStatus:
        """One of them."""
        return self.roster.find(reference).status()

    async def logs(self, reference: str, *, follow: bool) -> AsyncIterator[Text]:
        """The console so far, then (follow) what comes until the machine stops."""
        machine = self.roster.find(reference)
        if not follow:
            yield Text(text=self.host.consoles.read(machine.plan.id))
            return
        async with aclosing(self.host.consoles.watch(machine.plan.id)) as texts:
            async for text in texts:
                yield Text(text=text)

    async def metrics(self, reference: str) -> Metrics:
        """What its VMM has counted; WrongState when it does not run, or has a VMM that does not count."""
        machine = self.roster.find(reference)
        plan, seen = machine.plan, _thawed(machine)
        vmm = self.resources.vmm(plan)
        if not isinstance(vmm, Metered):
            raise WrongState(f"machine {plan.name} runs in {plan.machine.backend}, which counts nothing", hint="create it with --vmm firecracker")
        if not seen.pid:
            raise WrongState(f"machine {plan.name} is not running", hint=f"run: banger vm start {plan.name}")
        return await vmm.metrics(plan.machine)

    async def open(self, reference: str, wanted: Mapping[str, object]) -> Duplex:
        """A stream to the guest's agent; WrongState when the machine does not run."""
        _, conversation = await self.talk(reference)
        return await conversation.open(wanted)

    async def execute(self, reference: str, asked: Asked) -> Duplex:
        """A command in the guest, run as the machine's image says where nothing else is asked for."""
        machine, conversation = await self.talk(reference)
        return await conversation.open(request(asked, machine.plan.config, machine.plan.init))

    async def talk(self, reference: str) -> tuple[Machine, Conversation]:
        """A machine and the conversation with its agent; WrongState when it does not run."""
        machine = self.roster.find(reference)
        status = _thawed(machine)
        if status.state is VmState.PAUSED:
            raise NoSpace(f"machine {status.name} is {machine.stalled}", hint="free some space, or delete what is not needed: banger vm prune")
        return machine, await machine.meet(MEET_TIMEOUT)

    # -- coming and going -----------------------------------------------------------------------------------------------------------------------

    async def create(self, spec: VmSpec, *, start: bool, wait: str) -> AsyncIterator[Progress[VmStatus]]:
        """Create (and start) a machine as an operation; what is wrong with the request is raised at once."""
        return await self.making.create(spec, start=start, wait=wait)

    async def delete(self, reference: str) -> None:
        """Remove a machine and all it has written; one that is being created is cancelled first."""
        await self.making.delete(reference)

    async def prune(self) -> list[TargetResult]:
        """Delete all that are not running; what fails is told, the others go on."""
        results = []
        for machine in [machine for machine in self.machines.values() if machine.status().state is VmState.STOPPED]:
            try:
                await self.delete(machine.plan.id)
                results.append(TargetResult(target=machine.plan.name, ok=True))
            except (BangerError, OSError) as error:
                results.append(TargetResult(target=machine.plan.name, ok=False, failure=failure_of(error)))
        return results

    # -- changing -------------------------------------------------------------------------------------------------------------------------------

    def start(self, reference: str, *, wait: str) -> AsyncIterator[Progress[VmStatus]]:
        """Start a stopped machine as an operation; one that runs is returned as it is."""
        planning.known("thing to wait for", wait, planning.WAITS)
        machine = self.roster.kept(reference)
        return self.operations.follow(self.operations.begin("vm.start", machine.plan.name, lambda: self._start(machine, wait)))

    def restart(self, reference: str, *, wait: str) -> AsyncIterator[Progress[VmStatus]]:
        """Stop, then start, as one operation."""
        planning.known("thing to wait for", wait, planning.WAITS)
        machine = self.roster.kept(reference)

        async def work() -> VmStatus:
            async with step("stop", f"stopping {machine.plan.name}"):
                await self.stop(machine.plan.id, force=False)
            return await self._start(machine, wait)

        return self.operations.follow(self.operations.begin("vm.restart", machine.plan.name, work))

    async def _furnish(self, machine: Machine) -> None:
        """The cache may have been emptied since the machine was made: then what it boots with is made again, with the agent of today."""
        plan = machine.plan
        if self.host.files.size(Path(plan.machine.initramfs)) is not None:
            return
        async with machine.lock:
            image = self.making.images.shelf.local(plan.image)
            made = self.making.boots.initramfs(self.making.kernels.show(plan.kernel), image.filesystem if image is not None else "ext4")
            changed = planning.with_initramfs(plan, made)
            self.store.change(changed)
            machine.plan = changed

    async def _start(self, machine: Machine, wait: str) -> VmStatus:
        if machine.inspect().running:
            await machine.meet(MEET_TIMEOUT)
            return machine.status()
        machine.note = ""
        await self._furnish(machine)
        async with step("plan", planning.spec_line(machine.plan)):
            await self.keeping.up(machine, wait)
        self.keeping.watch(machine)
        return machine.status()

    async def stop(self, reference: str, *, force: bool) -> VmStatus:
        """Sync and power off within the time limit, then by force; a stopped one is left as it is."""
        machine = self.roster.kept(reference)
        log.info("stopping %s", machine.plan.name)
        if machine.inspect().running and not force:
            await machine.power_off(self.host.settings.stop_timeout)
        await machine.down()
        self.roster.leases.touch()
        machine.note = ""
        return machine.status()

    async def kill(self, reference: str, *, signal: str) -> VmStatus:
        """Signal the VMM's process; after KILL, returns once it is gone and cleaned up."""
        machine = self.roster.kept(reference)
        try:
            number = signals.Signals[f"SIG{signal.upper().removeprefix('SIG')}"]
        except KeyError:
            raise BadRequest(f"there is no signal {signal!r}", hint="give a name such as KILL, TERM, STOP or CONT") from None
        if number is signals.SIGKILL:
            machine.foretell()
        if not self.resources.vmm(machine.plan).signal(machine.plan.machine, number):
            raise WrongState(f"machine {machine.plan.name} is not running")
        if number is signals.SIGKILL:
            await machine.down()
        return machine.status()

    async def change(self, reference: str, *, nat: bool | None) -> VmStatus:
        """Change what can be changed while a machine runs; it is as changed after the next start, too."""
        machine = self.roster.kept(reference)
        if nat is None:
            raise BadRequest("nothing is to be changed", hint="give --nat or --no-nat")
        if not isinstance(self.resources.networks[machine.plan.nic.backend], Shared):
            raise BadRequest(f"machine {machine.plan.name} is on the network {machine.plan.nic.backend}, which has no NAT to be switched")
        async with machine.lock:
            changed = planning.with_nat(machine.plan, nat)
            self.store.change(changed)
            machine.plan = changed
            if machine.inspect().running:
                await self.resources.ensure(machine.plan.nic)
        return machine.status()


def _thawed(machine: Machine) -> VmStatus:
    """Its status, unless it could answer nothing: WrongState when its process is stopped by a signal."""
    status = machine.status()
    if status.state is VmState.FROZEN:
        raise WrongState(f"machine {status.name} is frozen: its process is stopped", hint=f"run: banger vm kill --signal CONT {status.name}")
    return status
