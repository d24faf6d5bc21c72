"""The contract of disks: what a machine boots from and writes to. The image below is shared and never written."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from banger.model.errors import BadRequest
from banger.model.finding import Finding
from banger.model.ids import VmId
from banger.model.parts import DiskPart, PartStatus
from banger.model.sizes import show_size

BLOCK = 4096
LEAST, MOST = 64 << 20, 16 << 40


class Disk(Protocol):
    """`ensure` keeps what a machine has written already; `remove` destroys it. Where the VMM finds it: `model/drives.py`."""

    def plan(self, vm: VmId, *, base: Path, size: int, stamp: tuple[int, int] = (0, 0)) -> DiskPart:
        """Decide; BadRequest on an impossible size (bytes). `stamp`: see DiskPart."""

    async def ensure(self, part: DiskPart) -> None:
        """Make the machine's own file, empty, unless it is there; NoSpace when it cannot be."""

    async def remove(self, part: DiskPart) -> None:
        """Destroy what the machine wrote."""

    def inspect(self, part: DiskPart) -> PartStatus:
        """Whether it is there and what it takes; quick, never waits."""

    async def usable(self) -> str:
        """Empty when this kind of disk can be made here, else what is missing, in one line."""

    async def check(self) -> list[Finding]:
        """Whether this kind of disk can be made here."""


@runtime_checkable
class Attachable(Protocol):
    """A disk that the host's kernel has to show as a device while the machine runs; what the machine wrote outlives that, also the host's reboot."""

    async def attach(self, part: DiskPart) -> None:
        """Show it, before the VMM starts; twice is once. Corrupt when what the machine wrote is gone or unreadable."""

    async def detach(self, part: DiskPart) -> None:
        """Let go of it, after the VMM has ended; missing is success."""


def possible(size: int) -> int:
    """The size, if a disk can have it; BadRequest otherwise."""
    if not LEAST <= size <= MOST:
        raise BadRequest(f"a disk of {show_size(size) if size > 0 else size} is not possible", hint="choose 64M to 16T")
    if size % BLOCK:
        raise BadRequest(f"a disk of {size} bytes is not possible", hint=f"choose a multiple of {BLOCK}, such as {size - size % BLOCK}")
    return size
