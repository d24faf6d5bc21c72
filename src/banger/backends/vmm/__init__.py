"""The contract of virtual machine monitors (VMMs), and the one stream to the agent that each must offer."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol, runtime_checkable

from banger.host.stream import Stream
from banger.model.finding import Finding
from banger.model.ids import VmId
from banger.model.metrics import Metrics
from banger.model.parts import DiskPart, MachinePart, NicPart, PartStatus


class Vmm(Protocol):
    """A VMM process outlives the daemon. Nothing here waits for the guest; only `ensure` waits, boundedly, for the VMM itself."""

    def usable(self) -> str:
        """Empty when it can run here, else what is missing, in one line."""

    def unfit(self, network: str) -> str:
        """Empty when it can connect a machine to that kind of network here, else why not, in one line."""

    def sockets(self) -> bool:
        """Whether the other end of its network cards can be a Unix socket (QEMU's stream protocol); else it is a TAP, opened by its name."""

    def plan(self, vm: VmId, *, vcpu: int, memory_mib: int, kernel: str, initramfs: str, disk: DiskPart, nic: NicPart) -> MachinePart:
        """Decide, with accelerator and reason; BadRequest on impossible counts or sizes, or a network it cannot use."""

    async def ensure(self, part: MachinePart) -> None:
        """Start it unless it runs; VmmFailed with the end of its output when it ends at once, HostLacks when it is not installed."""

    async def remove(self, part: MachinePart) -> None:
        """End the process for good and remove its volatile files; what the guest has synced stays on its disk."""

    def inspect(self, part: MachinePart) -> PartStatus:
        """Whether its process lives; quick, never waits, not even for a stopped process."""

    async def gone(self, part: MachinePart) -> None:
        """Return once its process has ended (at once when there is none)."""

    def signal(self, part: MachinePart, number: int) -> bool:
        """Send a signal to its process; False when there is none."""

    async def dial(self, part: MachinePart, *, timeout: float) -> Stream:
        """A byte stream to the guest's agent; a new one replaces the former. GuestFailed when the VMM does not take the connection.

        Where a VMM connects only to a guest that listens, this waits for it; TimedOut after `timeout` seconds.
        """

    def check(self) -> list[Finding]:
        """Whether it can run here, how fast, and what is missing."""


@runtime_checkable
class Stalling(Protocol):
    """A VMM that halts a guest whose disk the host has no room for, instead of failing its writes."""

    def stalls(self, part: MachinePart) -> AsyncGenerator[bool, None]:
        """Whether the guest is halted for that, now and whenever it changes; ends with the process."""

    async def proceed(self, part: MachinePart) -> None:
        """Let the guest go on: what could not be written is tried again. Nothing happens where it was not halted."""


@runtime_checkable
class Metered(Protocol):
    """A VMM that counts what its guest does."""

    async def metrics(self, part: MachinePart) -> Metrics:
        """What it has counted up to now; WrongState when this one was started without, VmmFailed or TimedOut when it does not say."""
