"""The parts of a plan and their backends: make them in order, remove them in reverse, and say what is left over when that fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from banger.backends import load, names
from banger.backends.bases import require_unchanged
from banger.backends.disk import Attachable, Disk
from banger.backends.network import Network
from banger.backends.vmm import Vmm
from banger.host import Host
from banger.model.errors import BangerError
from banger.model.parts import DiskPart, MachinePart, NicPart, Part
from banger.model.vm import VmPlan

log = logging.getLogger(__name__)
P = TypeVar("P", bound=Part)


class Resources:
    """Every backend that a machine's parts can name, made once."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.vmms: dict[str, Vmm] = {name: load("vmm", name, host) for name in names("vmm")}
        self.disks: dict[str, Disk] = {name: load("disk", name, host) for name in names("disk")}
        self.networks: dict[str, Network] = {name: load("network", name, host) for name in names("network")}

    def vmm(self, plan: VmPlan) -> Vmm:
        """The machine's VMM."""
        return self.vmms[plan.machine.backend]

    async def ensure(self, part: Part) -> None:
        """Make a part so; twice is once."""
        match part:
            case DiskPart():
                await self.disks[part.backend].ensure(part)
            case NicPart():
                await self.networks[part.backend].ensure(part)
            case MachinePart():
                await self.vmms[part.backend].ensure(part)

    async def remove(self, part: Part) -> None:
        """Make a part gone; missing is success."""
        match part:
            case DiskPart():
                await self.disks[part.backend].remove(part)
            case NicPart():
                await self.networks[part.backend].remove(part)
            case MachinePart():
                await self.vmms[part.backend].remove(part)

    async def attach(self, part: DiskPart) -> None:
        """Let the host's kernel show a disk that needs it; twice is once. WrongState when what it lies over has changed."""
        require_unchanged(self.host, part)
        disk = self.disks[part.backend]
        if isinstance(disk, Attachable):
            await disk.attach(part)

    async def detach(self, part: DiskPart) -> None:
        """Let it let go of the disk, which stays; missing is success."""
        disk = self.disks[part.backend]
        if isinstance(disk, Attachable):
            await disk.detach(part)

    async def remove_volatile(self, plan: VmPlan) -> None:
        """Remove what lives as long as the VMM's process, whatever fails on the way; then raise the first failure, with the others as its notes.

        First the VMM; then its network, and the host's hold on its disk, at the same time: each waits for the kernel, and none for the other.
        """
        failures = [await self._failure(plan.machine, self.remove)]
        failures += await asyncio.gather(self._failure(plan.nic, self.remove), self._failure(plan.disk, self.detach))
        left = [error for error in failures if error is not None]
        for other in left[1:]:
            left[0].add_note(f"also left over: {other}")
        if left:
            raise left[0]

    async def _failure(self, part: P, removal: Callable[[P], Awaitable[None]]) -> BangerError | OSError | None:
        """Why a part cannot be removed; None when it is."""
        try:
            await removal(part)
        except (BangerError, OSError) as error:
            log.warning("%s of %s is left over: %s", part.backend, part.vm, error)
            return error
        return None
