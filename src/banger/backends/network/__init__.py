"""The contract of networks: what a machine's interface is connected to."""

from __future__ import annotations

from typing import Protocol

from banger.model.finding import Finding
from banger.model.ids import VmId
from banger.model.parts import NicPart, PartStatus


class Network(Protocol):
    """A network lives as long as its machine's process: `ensure` before the VMM starts, `remove` after it has ended."""

    def plan(self, vm: VmId, *, host_access: bool) -> NicPart:
        """Decide addresses; BadRequest when `host_access` means nothing here."""

    async def ensure(self, part: NicPart) -> None:
        """Make it so; HostLacks or ToolFailed when it cannot be."""

    async def remove(self, part: NicPart) -> None:
        """End its process and remove its files."""

    def inspect(self, part: NicPart) -> PartStatus:
        """Whether it works; quick, never waits."""

    def check(self) -> list[Finding]:
        """Whether this kind of network can be had here."""
