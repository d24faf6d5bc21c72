"""The contract of disks: a writable root disk over a shared read-only image."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from banger.model.finding import Finding
from banger.model.ids import VmId
from banger.model.parts import DiskPart, PartStatus


class Disk(Protocol):
    """`ensure` keeps what a machine has written already; `remove` destroys it."""

    def plan(self, vm: VmId, *, base: Path, size: int) -> DiskPart:
        """Decide; BadRequest on an impossible size (bytes)."""

    async def ensure(self, part: DiskPart) -> None:
        """Make the machine's own file, empty, unless it is there; NoSpace when it cannot be."""

    async def remove(self, part: DiskPart) -> None:
        """Destroy what the machine wrote."""

    def inspect(self, part: DiskPart) -> PartStatus:
        """Whether it is there and what it takes; quick, never waits."""

    def usable(self) -> str:
        """Empty when this kind of disk can be made here, else what is missing, in one line."""

    def check(self) -> list[Finding]:
        """Whether this kind of disk can be made here."""
