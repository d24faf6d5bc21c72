"""The contract of networks: what a machine's interface is connected to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from banger.model.finding import Finding
from banger.model.ids import VmId
from banger.model.parts import NicPart, PartStatus


class Network(Protocol):
    """A network lives as long as its machine's process: `ensure` before the VMM starts, `remove` after it has ended."""

    async def usable(self) -> str:
        """Empty when it can be had here, else what is missing, in one line."""

    def plan(self, vm: VmId, *, host_access: bool, sockets: bool = True, nat: bool | None = None, taken: frozenset[str] = frozenset()) -> NicPart:
        """Decide addresses, none of them in `taken` where machines have addresses of their own; `nat` None: what is usual here.

        `sockets`: which kind of end the VMM looks for (see Vmm). BadRequest when `host_access` or `nat` means nothing here, HostLacks when there is no
        free address.
        """

    async def ensure(self, part: NicPart) -> None:
        """Make it so; HostLacks or ToolFailed when it cannot be."""

    async def remove(self, part: NicPart) -> None:
        """End its process and remove its files."""

    def inspect(self, part: NicPart) -> PartStatus:
        """Whether it works; quick, never waits."""

    async def check(self) -> list[Finding]:
        """Whether this kind of network can be had here."""


@runtime_checkable
class Shared(Protocol):
    """A network whose machines have something on the host in common, and which a machine's `ensure` can change while the machine runs (`nat`)."""

    async def settle(self, live: Sequence[NicPart], spare: Sequence[NicPart]) -> None:
        """Make everything so for machines that run and for addresses that are to be ready; what else there is of ours goes. Twice is once."""
