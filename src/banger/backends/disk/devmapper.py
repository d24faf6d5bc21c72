"""A disk by device-mapper: a snapshot of the image's file that keeps changed blocks in a file of the machine's own. For root, or through the helper.

The machine has one writable ext4 of the size that was asked for, which the guest grows at its first boot. The host never looks into it: what a kill
left undone, the guest's kernel finishes from the journal, so nothing has to be checked here before it is started again. What changed is kept by block
number, so it means something only over the very image that it was made over; images that machines use are not replaced.
Owns the machine's `disk.cow` (lasting), and while the machine runs two maps and a node (see host/dm.py), all named after the machine.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from banger.backends.bases import require_base
from banger.backends.disk import possible
from banger.host.dm import Mapping, given_up, revived
from banger.model.errors import BadRequest, Corrupt, HostLacks, NoSpace
from banger.model.event import report
from banger.model.finding import Finding, Level
from banger.model.parts import DiskPart, PartStatus
from banger.model.sizes import show_size

if TYPE_CHECKING:
    from banger.backends.disk import Disk
    from banger.host import Host
    from banger.model.ids import VmId

log = logging.getLogger(__name__)
#: What must be free on the host for a machine to start: the kernel gives up a disk at the first write that finds no room.
RESERVE = 64 << 20
#: What is told of such a machine.
GIVEN_UP = "its disk cannot be read or written any more since the host's was full: make room, then stop --force and start it; what was synced is kept"
#: The kernel's book-keeping in the file: a block for the head, and 16 bytes for each block of 4096, by areas of 256.
HEAD, BOOK = 1 << 20, 256


def cow_bytes(size: int) -> int:
    """How long the file is that a disk of `size` bytes may fill: all of its blocks changed, and the books."""
    return size + size // BOOK + HEAD


class DeviceMapper:
    """The backend."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def plan(self, vm: VmId, *, base: Path, size: int, stamp: tuple[int, int] = (0, 0)) -> DiskPart:
        """See Disk."""
        return DiskPart(backend="devmapper", vm=vm, base=str(base), size=possible(size), stamp=stamp)

    async def ensure(self, part: DiskPart) -> None:
        """See Disk."""
        files, target = self.host.files, self.host.paths.cow(part.vm)
        if files.size(target) is not None:
            return
        missing = await self.usable()
        if missing:
            raise HostLacks(missing, hint="run: banger doctor")
        self._require_reach(part)
        require_base(self.host, part)
        self._require_space(files.private_folder(target.parent), "a new disk")
        files.make_sparse(target, cow_bytes(part.size))

    def _require_reach(self, part: DiskPart) -> None:
        """The helper maps files in banger's own folders only, whatever the user has elsewhere."""
        paths = self.host.paths
        if not self.host.facts.root() and not any(Path(part.base).is_relative_to(root) for root in (paths.images, paths.state)):
            raise BadRequest(
                f"a disk of kind devmapper is made by the helper, which does not reach {part.base}",
                hint="take a copy among banger's images: banger image promote NAME; or choose --disk overlay",
            )

    def _require_space(self, folder: Path, what: str) -> None:
        free = self.host.files.free_bytes(folder)
        if free < RESERVE:
            raise NoSpace(f"{folder} has {show_size(free)} left, {what} needs {show_size(RESERVE)}", hint="free some space")

    async def attach(self, part: DiskPart) -> None:
        """See Attachable."""
        cow = self.host.paths.cow(part.vm)
        if self.host.files.size(cow) is None:
            raise Corrupt(f"{cow} is missing: what the machine wrote is lost", hint="delete the machine")
        self._require_space(cow.parent, "a mapped disk")
        if given_up(cow):
            await self.detach(part)  # a map that was left over would stay what it is
            revived(cow)
            log.warning("%s: the host's disk had been full; what the machine wrote then is lost", part.vm)
            report("warning: the host's disk had been full; what the machine wrote then is lost, what it had synced before is there")
        await self.host.dm.make(Mapping(name=self._name(part.vm), base=part.base, cow=str(cow), size=part.size))

    async def detach(self, part: DiskPart) -> None:
        """See Attachable."""
        await self.host.dm.remove(self._name(part.vm))

    def _name(self, vm: VmId) -> str:
        return self.host.paths.snapshot(vm).name

    async def remove(self, part: DiskPart) -> None:
        """See Disk."""
        await self.detach(part)
        target = self.host.paths.cow(part.vm)
        for path in (target, target.with_name(f"{target.name}.new")):
            self.host.files.remove_tree(path)
        self.host.files.remove_if_empty(target.parent)

    def inspect(self, part: DiskPart) -> PartStatus:
        """See Disk."""
        target = self.host.paths.cow(part.vm)
        if self.host.files.size(target) is None:
            return PartStatus(present=False)
        return PartStatus(present=True, used_bytes=self.host.files.used_bytes(target), detail=GIVEN_UP if given_up(target) else "")

    async def usable(self) -> str:
        """See Disk."""
        return await self.host.dm.trouble()

    async def check(self) -> list[Finding]:
        """See Disk."""
        missing = await self.usable()
        if missing:
            return [
                Finding(
                    level=Level.WARN, subject="disk devmapper", message=missing, fix="the other kinds of disk do without it; nothing needs to be done"
                )
            ]
        return [Finding(level=Level.PASS, subject="disk devmapper", message="the kernel has device-mapper, and we may use it")]


def backend(host: Host) -> Disk:
    """Snapshots on this host."""
    return DeviceMapper(host)
