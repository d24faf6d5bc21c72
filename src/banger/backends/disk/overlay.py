"""The default disk: the image is shared and never written; what a machine writes goes to a sparse ext4 file of its own, which the agent lays over it.

An empty file system of each size is made once and kept in the cache; a new machine gets a sparse copy, so creating one starts no process.
Owns the machine's overlay file. What lies in the cache may be deleted at any time.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from banger.backends.disk import possible
from banger.model.errors import NoSpace
from banger.model.finding import Finding, Level
from banger.model.parts import DiskPart, PartStatus
from banger.model.sizes import show_size

if TYPE_CHECKING:
    from banger.backends.disk import Disk
    from banger.host import Host
    from banger.model.ids import VmId

#: What must stay free on the host beside a new, empty overlay.
RESERVE = 64 << 20


class Overlay:
    """The backend."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def plan(self, vm: VmId, *, base: Path, size: int, stamp: tuple[int, int] = (0, 0)) -> DiskPart:
        """See Disk."""
        return DiskPart(backend="overlay", vm=vm, base=str(base), size=possible(size), stamp=stamp)

    async def ensure(self, part: DiskPart) -> None:
        """See Disk."""
        files, target = self.host.files, self.host.paths.overlay(part.vm)
        if files.size(target) is not None:
            return
        folder = files.private_folder(target.parent)
        blank = await self._blank(part.size)
        self._require_space(folder, files.used_bytes(blank))
        fresh = target.with_suffix(".new")
        files.remove_tree(fresh)
        try:
            await asyncio.to_thread(files.copy_sparse, blank, fresh)
        except FileNotFoundError:
            await asyncio.to_thread(files.copy_sparse, await self._blank(part.size), fresh)
        files.replace(fresh, target)

    async def _blank(self, size: int) -> Path:
        """The empty file system in the cache; two that make it at once make the same thing, and the later one wins."""
        files, blank = self.host.files, self.host.paths.blank_overlay(size)
        if files.size(blank) == size:
            return blank
        self._require_space(files.private_folder(blank.parent), 0)
        fresh = blank.with_name(f".{blank.name}.{self.host.clock.random(6).hex()}.new")
        try:
            await self.host.ext4.make_blank(fresh, size)
            files.replace(fresh, blank)
        finally:
            files.remove_tree(fresh)
        return blank

    def _require_space(self, folder: Path, needed: int) -> None:
        free = self.host.files.free_bytes(folder)
        if free < needed + RESERVE:
            raise NoSpace(f"{folder} has {show_size(free)} left, a new disk needs {show_size(needed + RESERVE)}", hint="free some space")

    async def remove(self, part: DiskPart) -> None:
        """See Disk."""
        target = self.host.paths.overlay(part.vm)
        for path in (target, target.with_suffix(".new")):
            self.host.files.remove_tree(path)
        self.host.files.remove_if_empty(target.parent)

    def inspect(self, part: DiskPart) -> PartStatus:
        """See Disk."""
        target = self.host.paths.overlay(part.vm)
        if self.host.files.size(target) is None:
            return PartStatus(present=False)
        return PartStatus(present=True, used_bytes=self.host.files.used_bytes(target))

    async def usable(self) -> str:
        """See Disk."""
        return "" if self.host.proc.which("mkfs.ext4") else "mkfs.ext4 is not installed (package e2fsprogs)"

    async def check(self) -> list[Finding]:
        """See Disk."""
        if self.host.proc.which("mkfs.ext4") is None:
            return [Finding(level=Level.FAIL, subject="disk", message="mkfs.ext4 is not installed", packages=("e2fsprogs",))]
        free = self.host.files.free_bytes(self.host.paths.state)
        level = Level.PASS if free >= 4 << 30 else Level.WARN
        return [Finding(level=level, subject="disk", message=f"{show_size(free)} free below {self.host.paths.state}")]


def backend(host: Host) -> Disk:
    """Overlays on this host."""
    return Overlay(host)
