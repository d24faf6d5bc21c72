"""A disk of the machine's own: a clone of the image's file, which shares its blocks until either is written. Needs a file system that can (btrfs, XFS).

The machine has one writable ext4 of the size that was asked for, which the guest grows at its first boot; cloning takes no time and no room.
Owns the machine's `disk.ext4`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from banger.backends.bases import require_base
from banger.backends.disk import possible
from banger.model.errors import NoSpace
from banger.model.finding import Finding, Level
from banger.model.parts import DiskPart, PartStatus
from banger.model.sizes import show_size

if TYPE_CHECKING:
    from banger.backends.disk import Disk
    from banger.host import Host
    from banger.model.ids import VmId

#: Those whose files may share blocks, though not each of them does (XFS from before 2018, ZFS before 2.2): cloning itself tells.
ABLE = ("btrfs", "xfs", "bcachefs", "ocfs2", "zfs")
#: What must stay free on the host beside a new disk.
RESERVE = 64 << 20


class Reflink:
    """The backend."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def plan(self, vm: VmId, *, base: Path, size: int, stamp: tuple[int, int] = (0, 0)) -> DiskPart:
        """See Disk."""
        return DiskPart(backend="reflink", vm=vm, base=str(base), size=possible(size), stamp=stamp)

    async def ensure(self, part: DiskPart) -> None:
        """See Disk."""
        files, target = self.host.files, self.host.paths.own_disk(part.vm)
        if files.size(target) is not None:
            return
        require_base(self.host, part)
        folder = files.private_folder(target.parent)
        free = files.free_bytes(folder)
        if free < RESERVE:
            raise NoSpace(f"{folder} has {show_size(free)} left, a new disk needs {show_size(RESERVE)}", hint="free some space")
        await asyncio.to_thread(files.clone, Path(part.base), target, part.size)

    async def remove(self, part: DiskPart) -> None:
        """See Disk."""
        target = self.host.paths.own_disk(part.vm)
        for path in (target, target.with_name(f"{target.name}.new")):
            self.host.files.remove_tree(path)
        self.host.files.remove_if_empty(target.parent)

    def inspect(self, part: DiskPart) -> PartStatus:
        """See Disk. What it takes counts blocks that are still shared with the image."""
        target = self.host.paths.own_disk(part.vm)
        if self.host.files.size(target) is None:
            return PartStatus(present=False)
        return PartStatus(present=True, used_bytes=self.host.files.used_bytes(target))

    async def usable(self) -> str:
        """See Disk."""
        kind = self.host.files.kind(self.host.paths.machines)
        return "" if kind in ABLE else f"{kind} at {self.host.paths.machines} cannot clone files (btrfs and XFS can)"

    async def check(self) -> list[Finding]:
        """See Disk."""
        missing = await self.usable()
        if missing:
            return [
                Finding(
                    level=Level.WARN, subject="disk reflink", message=missing, fix="the other kinds of disk do without it; nothing needs to be done"
                )
            ]
        kind = self.host.files.kind(self.host.paths.machines)
        return [Finding(level=Level.PASS, subject="disk reflink", message=f"{kind} at {self.host.paths.machines} clones files")]


def backend(host: Host) -> Disk:
    """Clones on this host."""
    return Reflink(host)
