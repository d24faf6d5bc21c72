"""Making machines, and unmaking them: from what was asked to a machine on the roster, as an operation, and back.

What is wrong with a request is told before anything is fetched.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec

from banger.daemon import plan as planning
from banger.daemon import preflight
from banger.daemon.boots import Boots
from banger.daemon.images import Images, Kernels
from banger.daemon.keeping import Keeping
from banger.daemon.machine import Machine
from banger.daemon.operations import Operations, Progress
from banger.daemon.roster import Roster
from banger.daemon.store import name_taken
from banger.host import Host
from banger.model.catalog import ImageConfig
from banger.model.errors import BadRequest
from banger.model.event import report, step
from banger.model.ids import VmId, new_name
from banger.model.parts import DiskPart
from banger.model.paths import Paths
from banger.model.vm import VmSpec, VmStatus

Seed = Callable[[Path], Awaitable[None]]
"""Lays what a machine is to have written already at the path of its disk's own file."""


class Making:
    """Creates and deletes machines."""

    def __init__(self, host: Host, roster: Roster, keeping: Keeping, *, operations: Operations, images: Images, kernels: Kernels, boots: Boots) -> None:
        self.host, self.roster, self.keeping = host, roster, keeping
        self.operations, self.images, self.kernels, self.boots = operations, images, kernels, boots
        self.resources, self.leases = roster.resources, roster.leases

    async def create(self, spec: VmSpec, *, start: bool, wait: str) -> AsyncIterator[Progress[VmStatus]]:
        """Create (and start) a machine as an operation; what is wrong with the request is raised at once."""
        planning.known("thing to wait for", wait, planning.WAITS)
        asked, backends = await self._judge(spec)
        if asked.rm and not start:
            raise BadRequest("a machine that is not started cannot be one with --rm")
        running = self.operations.begin("vm.create", asked.name, lambda: self._create(asked, backends, start=start, wait=wait))
        if asked.rm:
            return self.operations.follow_bound(running, self._release)
        return self.operations.follow(running)

    async def temporary(self, spec: VmSpec, *, seed: Seed | None = None) -> Machine:
        """A running machine for work of banger's own, within an operation that is under way: its agent is process 1, whatever the image has.

        `spec` has `rm`, so that it goes with its VMM and with a daemon that dies; whoever asked for it destroys it. With `seed` its disk is not new.
        """
        asked, backends = await self._judge(spec)
        return await self._make(asked, backends, start=True, wait="agent", seed=seed, bare=True)

    async def _judge(self, spec: VmSpec) -> tuple[planning.Resolved, planning.Backends]:
        """The request with all defaults, and the backends it names; raises what is wrong with it, or with the host."""
        taken = self.roster.names()
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
        await preflight.check(choice, backends, sources=self.images.check(asked.image), distribution=self.host.facts.distribution())
        if asked.name in taken:
            raise name_taken(asked.name)
        return asked, backends

    async def _release(self, status: VmStatus) -> None:
        if status.id in self.roster.machines:
            await self.delete(status.id)

    async def delete(self, reference: str) -> None:
        """Remove a machine and all it has written; one that is being created is cancelled first."""
        machine = self.roster.find(reference)
        for running in self.operations.under_way("vm.", machine.plan.name):
            await self.operations.cancel(running)
        if machine.plan.id in self.roster.machines:
            await self.roster.destroy(machine)

    async def _create(self, asked: planning.Resolved, backends: planning.Backends, *, start: bool, wait: str) -> VmStatus:
        return (await self._make(asked, backends, start=start, wait=wait)).status()

    async def _make(
        self, asked: planning.Resolved, backends: planning.Backends, *, start: bool, wait: str, seed: Seed | None = None, bare: bool = False
    ) -> Machine:
        await self.roster.make_way(asked.name)
        machine = await self._reserve(asked, backends, bare=bare)
        machine.attended = asked.attended and start
        try:
            async with machine.lock, step("disk", "making the disk"):
                if seed is not None:
                    await seed(own_file(self.host.paths, machine.plan.disk))
                await self.resources.ensure(machine.plan.disk)
            if start:
                await self.keeping.up(machine, wait)
            self.roster.keep(machine)
        except BaseException as error:
            await self.roster.undo(machine, error)
            raise
        if start:
            self.keeping.watch(machine)
        return machine

    async def _reserve(self, asked: planning.Resolved, backends: planning.Backends, *, bare: bool) -> Machine:
        """Make image and kernel present, decide, and save the intent; nothing of the machine is on the host yet."""
        async with step("image", asked.image):
            image = planning.fitting(await self.images.need(asked.image), self.host.facts.architecture(), asked)
        async with step("kernel", image.kernel):
            kernel = await self.kernels.need(image.kernel)
            self.images.require_still(image)  # nobody uses it before the machine is on the roster
        async with step("plan", "deciding"):
            boot = planning.Boot(
                base=self.images.base(image),
                stamp=image.stamp,
                kernel=self.host.paths.kernel(kernel.name) / "vmlinux",
                initramfs=self.boots.initramfs(kernel, image.filesystem),
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
            if bare:
                plan = msgspec.structs.replace(plan, init=(), config=ImageConfig(), entrypoint=False)
            planning.require_fit(plan, kernel)
            machine = self.roster.add(plan)
            report(planning.spec_line(plan))
        return machine


def own_file(paths: Paths, disk: DiskPart) -> Path:
    """What a machine writes to, by the kind of its disk."""
    places = {"overlay": paths.overlay, "reflink": paths.own_disk, "devmapper": paths.cow}
    if disk.backend not in places:
        raise BadRequest(f"a disk of kind {disk.backend} cannot be copied")
    return places[disk.backend](disk.vm)
