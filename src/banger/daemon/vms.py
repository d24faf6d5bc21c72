"""Machines: every verb of `banger vm`. Owns the one lock per machine's use, the table of intent, and the watch over VMM processes."""

from __future__ import annotations

import asyncio
import difflib
import logging
import signal as signals
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, suppress

from banger.backends.network import Shared
from banger.daemon import plan as planning
from banger.daemon import preflight
from banger.daemon.boots import Boots
from banger.daemon.duplex import Duplex
from banger.daemon.guests import Conversation
from banger.daemon.images import Images, Kernels
from banger.daemon.leases import Leases
from banger.daemon.machine import Machine
from banger.daemon.names import Names
from banger.daemon.operations import Operations, Progress, failure_of
from banger.daemon.resources import Resources, lasting
from banger.daemon.ssh import KnownHosts
from banger.daemon.stalls import tend
from banger.daemon.store import Phase, Store, name_taken
from banger.host import Host
from banger.model.errors import BadRequest, BangerError, NoSpace, NotFound, WrongState
from banger.model.event import report, step
from banger.model.ids import VmId, new_name
from banger.model.operation import TargetResult, Text
from banger.model.vm import VmSpec, VmState, VmStatus

log = logging.getLogger(__name__)
MEET_TIMEOUT = 10.0
ROOM_TRIES, ROOM_POLL = 20, 0.1


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
        self.host, self.store, self.operations, self.images, self.kernels = host, store, operations, images, kernels
        self.resources, self.boots, self.names, self.tasks = resources, boots, names, tasks
        self.known = KnownHosts(host)
        self.machines: dict[VmId, Machine] = {}
        self.leases = Leases(resources, self.machines, host.settings.tap_pool)

    # -- seeing ---------------------------------------------------------------------------------------------------------------------------------

    def rows(self) -> list[VmStatus]:
        """All of them in the order of creation; touches no guest and no lock."""
        return [machine.status() for machine in self.machines.values()]

    def show(self, reference: str) -> VmStatus:
        """One of them."""
        return self.find(reference).status()

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

    async def logs(self, reference: str, *, follow: bool) -> AsyncIterator[Text]:
        """The console so far, then (follow) what comes until the machine stops."""
        machine = self.find(reference)
        if not follow:
            yield Text(text=self.host.consoles.read(machine.plan.id))
            return
        async with aclosing(self.host.consoles.watch(machine.plan.id)) as texts:
            async for text in texts:
                yield Text(text=text)

    async def open(self, reference: str, request: Mapping[str, object]) -> Duplex:
        """A stream to the guest's agent; WrongState when the machine does not run."""
        _, conversation = await self.talk(reference)
        return await conversation.open(request)

    async def talk(self, reference: str) -> tuple[Machine, Conversation]:
        """A machine and the conversation with its agent; WrongState when it does not run."""
        machine = self.find(reference)
        status = machine.status()
        if status.state is VmState.FROZEN:
            raise WrongState(f"machine {status.name} is frozen: its process is stopped", hint=f"run: banger vm kill --signal CONT {status.name}")
        if status.state is VmState.PAUSED:
            raise NoSpace(f"machine {status.name} is {machine.stalled}", hint="free some space, or delete what is not needed: banger vm prune")
        return machine, await machine.meet(MEET_TIMEOUT)

    # -- making ---------------------------------------------------------------------------------------------------------------------------------

    def create(self, spec: VmSpec, *, start: bool, wait: str) -> AsyncIterator[Progress[VmStatus]]:
        """Create (and start) a machine as an operation; what is wrong with the request is raised at once."""
        known_wait(wait)
        taken = frozenset(machine.plan.name for machine in self.machines.values())
        spare = new_name(int.from_bytes(self.host.clock.random(8), "big"), taken)
        size = planning.HostSize(cpus=self.host.facts.cpus(), memory_mib=self.host.facts.memory_mib())
        asked = planning.resolve(spec, self.host.settings, size, name=spare)
        planning.known("kind of disk", asked.disk, list(self.resources.disks))
        planning.known("network", asked.network, list(self.resources.networks))
        choice = preflight.choose(asked.vmm, asked.network, self.resources.vmms)
        backends = planning.Backends(
            vmm=self.resources.vmms[choice.name],
            disk=self.resources.disks[asked.disk],
            network=self.resources.networks[asked.network],
        )
        planning.check(asked, backends, self.leases.taken(asked.network))
        preflight.check(choice, backends, sources=self.images.check(asked.image), distribution=self.host.facts.distribution())
        if asked.name in taken:
            raise name_taken(asked.name)
        if asked.rm and not start:
            raise BadRequest("a machine that is not started cannot be one with --rm")
        running = self.operations.begin("vm.create", asked.name, lambda: self._create(asked, backends, start=start, wait=wait))
        if asked.rm:
            return self.operations.follow_bound(running, self._release)
        return self.operations.follow(running)

    async def _release(self, status: VmStatus) -> None:
        if status.id in self.machines:
            await self.delete(status.id)

    async def _create(self, asked: planning.Resolved, backends: planning.Backends, *, start: bool, wait: str) -> VmStatus:
        machine = await self._reserve(asked, backends)
        try:
            async with machine.lock, step("disk", "making the disk"):
                await self.resources.ensure(machine.plan.disk)
            if start:
                await self._up(machine, wait)
            self.store.mark(machine.plan.id, Phase.KEPT)
            machine.phase = Phase.KEPT
        except BaseException as error:
            await self._undo(machine, error)
            raise
        if start:
            self.watch(machine)
        return machine.status()

    async def _reserve(self, asked: planning.Resolved, backends: planning.Backends) -> Machine:
        """Make image and kernel present, decide, and save the intent; nothing of the machine is on the host yet."""
        async with step("image", asked.image):
            image = await self.images.need(asked.image)
        async with step("kernel", image.kernel):
            kernel = await self.kernels.need(image.kernel)
        async with step("plan", "deciding"):
            boot = planning.Boot(
                base=self.host.paths.image(image.name) / "rootfs.ext4",
                kernel=self.host.paths.kernel(kernel.name) / "vmlinux",
                initramfs=self.boots.initramfs(kernel),
            )
            plan = planning.decide(
                asked,
                boot,
                backends,
                vm=VmId(self.host.clock.random(6).hex()),
                now=self.host.clock.now(),
                image=image,
                machine_id=self.host.clock.random(16).hex(),
                taken=self.leases.taken(asked.network),
            )
            self.store.add(plan)
            machine = Machine(self.host, self.resources, self.known, self.tasks, plan, Phase.CREATING)
            self.machines[plan.id] = machine
            self.leases.touch()
            report(planning.spec_line(plan))
        return machine

    async def _undo(self, machine: Machine, error: BaseException) -> None:
        """Leave nothing behind, however often we are cancelled; what cannot be removed is noted on the error and removed at the daemon's next start."""
        work = asyncio.get_running_loop().create_task(self._destroy(machine))
        while not work.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([work])
        left = work.exception()
        if left is not None:
            error.add_note(f"left over: {left}")

    async def _destroy(self, machine: Machine) -> None:
        plan = machine.plan
        machine.phase = Phase.DELETING
        try:
            self.store.mark(plan.id, Phase.DELETING)
        except NoSpace as error:
            log.warning("%s is deleted without a note of it first, which makes room: %s", plan.name, error)
        await machine.down()
        async with machine.lock:
            await self.resources.remove_all(*lasting(plan))
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

    # -- changing -------------------------------------------------------------------------------------------------------------------------------

    def start(self, reference: str, *, wait: str) -> AsyncIterator[Progress[VmStatus]]:
        """Start a stopped machine as an operation; one that runs is returned as it is."""
        known_wait(wait)
        machine = self._kept(reference)
        return self.operations.follow(self.operations.begin("vm.start", machine.plan.name, lambda: self._start(machine, wait)))

    def restart(self, reference: str, *, wait: str) -> AsyncIterator[Progress[VmStatus]]:
        """Stop, then start, as one operation."""
        known_wait(wait)
        machine = self._kept(reference)

        async def work() -> VmStatus:
            async with step("stop", f"stopping {machine.plan.name}"):
                await self.stop(machine.plan.id, force=False)
            return await self._start(machine, wait)

        return self.operations.follow(self.operations.begin("vm.restart", machine.plan.name, work))

    async def _start(self, machine: Machine, wait: str) -> VmStatus:
        if machine.inspect().running:
            await machine.meet(MEET_TIMEOUT)
            return machine.status()
        machine.note = ""
        async with step("plan", planning.spec_line(machine.plan)):
            await self._up(machine, wait)
        self.watch(machine)
        return machine.status()

    async def _up(self, machine: Machine, wait: str) -> None:
        async with self.names.beside(machine, self.tasks):
            await machine.up(wait)

    async def stop(self, reference: str, *, force: bool) -> VmStatus:
        """Sync and power off within the time limit, then by force; a stopped one is left as it is."""
        machine = self._kept(reference)
        log.info("stopping %s", machine.plan.name)
        if machine.inspect().running and not force:
            await machine.power_off(self.host.settings.stop_timeout)
        await machine.down()
        self.leases.touch()
        machine.note = ""
        return machine.status()

    async def kill(self, reference: str, *, signal: str) -> VmStatus:
        """Signal the VMM's process; after KILL, returns once it is gone and cleaned up."""
        machine = self._kept(reference)
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
        machine = self._kept(reference)
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

    async def delete(self, reference: str) -> None:
        """Remove a machine and all it has written; one that is being created is cancelled first."""
        machine = self.find(reference)
        for running in self.operations.under_way("vm.", machine.plan.name):
            await self.operations.cancel(running)
        if machine.plan.id in self.machines:
            await self._destroy(machine)

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

    def _kept(self, reference: str) -> Machine:
        machine = self.find(reference)
        if machine.phase is not Phase.KEPT:
            raise WrongState(f"machine {machine.plan.name} is still {machine.phase}", hint="wait for it, or delete it")
        return machine

    # -- living through ends ----------------------------------------------------------------------------------------------------------------------

    def watch(self, machine: Machine) -> None:
        """Clean up as soon as the machine's VMM has ended, whoever ended it."""
        if machine.watcher is None or machine.watcher.done():
            machine.watcher = self.tasks.create_task(self._watch(machine), name=f"watch {machine.plan.name}")

    async def _watch(self, machine: Machine) -> None:
        try:
            await self._until_gone(machine)
            while not await machine.reap():
                await self._until_gone(machine)
            log.info("%s has ended", machine.plan.name)
            self.leases.touch()
            if machine.plan.rm and machine.phase is Phase.KEPT:
                await self._destroy(machine)
        except (BangerError, OSError) as error:
            machine.note = f"its process has ended, but something is left over: {error}"
            log.warning("%s: %s", machine.plan.name, machine.note)

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
        rows = self.store.load()
        self.known.load([plan.name for plan, _ in rows])
        for plan, phase in rows:
            self.machines[plan.id] = Machine(self.host, self.resources, self.known, self.tasks, plan, phase)
        await self.leases.settle()
        for machine in list(self.machines.values()):
            try:
                await self._adopt(machine)
            except (BangerError, OSError) as error:
                machine.note = f"could not be taken over: {error}"
                log.warning("%s: %s", machine.plan.name, machine.note)
        if self.leases.ready:
            self.leases.touch()
            self.tasks.create_task(self.leases.keep(), name="keep TAPs ready")

    async def _adopt(self, machine: Machine) -> None:
        plan = machine.plan
        if machine.phase is not Phase.KEPT or plan.rm:
            await self._destroy(machine)
        elif machine.inspect().running:
            log.info("taking over %s", plan.name)
            self.host.consoles.start(plan.id)
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


def known_wait(wait: str) -> None:
    """BadRequest unless it is something that can be waited for."""
    planning.known("thing to wait for", wait, planning.WAITS)
