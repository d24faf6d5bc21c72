"""Decide: the daemon's services, one file each, and the record that joins them. It owns state and tasks and touches the machine only through `Host`.

Imports of services are lazy where operations need types only; `Daemon` is what every operation gets as its first argument.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

from banger import __version__
from banger.model.errors import Busy
from banger.model.finding import Finding
from banger.model.operation import DaemonStatus

if TYPE_CHECKING:
    from banger.daemon.artefacts import Shelf
    from banger.daemon.builds import Builds
    from banger.daemon.bundles import Bundles
    from banger.daemon.catalogs import Catalogs
    from banger.daemon.housekeeping import Housekeeping
    from banger.daemon.images import Images, Kernels
    from banger.daemon.names import Names
    from banger.daemon.operations import Operations
    from banger.daemon.releases import Releases
    from banger.daemon.ssh import Ssh
    from banger.daemon.vms import Vms
    from banger.host import Host
    from banger.host.sqlite import Databases
    from banger.model.catalog import ImageEntry, ImageManifest, ImagePart, KernelEntry, KernelManifest, KernelPart


class Daemon:
    """All services, and the daemon's own life."""

    def __init__(
        self,
        host: Host,
        *,
        databases: Databases,
        build: str,
        shipped: Path,
        operations: Operations,
        images: Images,
        kernels: Kernels,
        housekeeping: Housekeeping,
        bundles: Bundles,
        catalogs: Catalogs,
        builds: Builds,
        vms: Vms,
        releases: Releases,
        names: Names,
        ssh: Ssh,
    ) -> None:
        self.host, self.databases, self.build, self.shipped = host, databases, build, shipped
        self.operations, self.images, self.kernels, self.vms = operations, images, kernels, vms
        self.housekeeping, self.bundles, self.catalogs, self.builds = housekeeping, bundles, catalogs, builds
        self.releases, self.names, self.ssh = releases, names, ssh
        self.started = host.clock.now()
        self.stopping = asyncio.Event()

    def status(self) -> DaemonStatus:
        """The daemon as a row."""
        return DaemonStatus(
            pid=os.getpid(),
            version=__version__,
            build=self.build,
            socket=str(self.host.paths.socket),
            log=str(self.host.paths.log),
            state=str(self.host.paths.state),
            started=self.started,
            machines=len(self.vms.machines),
            operations=len(self.operations.running),
            names=self.names.summary(),
        )

    async def stop(self, *, force: bool) -> None:
        """Step down; Busy while an operation is under way, unless forced: then those are cancelled and clean up first."""
        if self.operations.running and not force:
            raise Busy(f"{len(self.operations.running)} operations are under way", hint="wait for them, or use --force to cancel them")
        for running in list(self.operations.running):
            await self.operations.cancel(running)
        self.stopping.set()

    def step_down(self, calls: int) -> bool:
        """Make room for newer code, unless an operation or a call is under way. The socket goes first, so that nobody comes to us any more."""
        if self.operations.running or calls:
            return False
        self.host.paths.socket.unlink(missing_ok=True)
        self.stopping.set()
        return True

    async def doctor(self) -> list[Finding]:
        """See daemon/doctor.py."""
        from banger.daemon.doctor import diagnose

        return await diagnose(self.host, self.databases, self.shipped)


def compose(host: Host, *, databases: Databases, build: str, agent: Path, catalogs: Path, tasks: asyncio.TaskGroup) -> Daemon:
    """Join the services; opens the database, touches nothing else."""
    from banger.daemon.boots import Boots
    from banger.daemon.builds import Builds
    from banger.daemon.bundles import Bundles
    from banger.daemon.catalogs import Catalogs
    from banger.daemon.housekeeping import Housekeeping
    from banger.daemon.images import Images, Kernels, evict
    from banger.daemon.names import Names
    from banger.daemon.offers import base
    from banger.daemon.operations import Operations
    from banger.daemon.releases import Releases
    from banger.daemon.resources import Resources
    from banger.daemon.ssh import Ssh
    from banger.daemon.store import MIGRATIONS, Store
    from banger.daemon.vms import Vms

    kernel_shelf, image_shelf = _shelves(host)
    operations = Operations(host.clock, tasks)
    kernels = Kernels(kernel_shelf, operations, lambda name: kernel_users(vms, image_shelf, name))
    images = Images(
        image_shelf,
        operations,
        kernels,
        lambda name: [row.name for row in vms.rows() if row.image == name],
        lambda name: evict(vms.rows(), vms.delete, name),
    )
    names = Names(host, lambda: vms.machines.values())
    vms = Vms(
        host,
        store=Store(databases.open(host.paths.database, MIGRATIONS)),
        operations=operations,
        images=images,
        kernels=kernels,
        resources=Resources(host),
        boots=Boots(host, agent),
        names=names,
        tasks=tasks,
    )

    return Daemon(
        host,
        databases=databases,
        build=build,
        shipped=catalogs,
        operations=operations,
        images=images,
        kernels=kernels,
        bundles=Bundles(host, operations, images, kernels),
        catalogs=Catalogs(host, operations, base(host, catalogs), image_shelf, kernel_shelf),
        builds=Builds(host, operations, images, vms),
        housekeeping=Housekeeping(host, operations, images, kernels, lambda: [machine.plan for machine in vms.machines.values()]),
        vms=vms,
        releases=Releases(host, operations),
        names=names,
        ssh=Ssh(host, vms),
    )


def kernel_users(vms: Vms, images: Shelf[ImageEntry, ImageManifest, ImagePart], kernel: str) -> list[str]:
    """What a kernel is used by, as people call it."""
    machines = [f"machine {row.name}" for row in vms.rows() if row.kernel == kernel]
    return machines + [f"image {image.name}" for image in images.every() if image.kernel == kernel]


def _shelves(host: Host) -> tuple[Shelf[KernelEntry, KernelManifest, KernelPart], Shelf[ImageEntry, ImageManifest, ImagePart]]:
    """Where kernels and images are kept, and how more of them are made; what is on offer the catalogs' service says."""
    from banger.backends import load
    from banger.daemon.artefacts import Shelf
    from banger.model.catalog import ImageManifest, KernelManifest

    kernels: Shelf[KernelEntry, KernelManifest, KernelPart] = Shelf(
        "kernel",
        host=host,
        folder=host.paths.kernels,
        catalog={},
        manifest=KernelManifest,
        source=lambda name: load("kernel", name, host),
    )
    images: Shelf[ImageEntry, ImageManifest, ImagePart] = Shelf(
        "image",
        host=host,
        folder=host.paths.images,
        catalog={},
        manifest=ImageManifest,
        source=lambda name: load("image", name, host),
    )
    return kernels, images
