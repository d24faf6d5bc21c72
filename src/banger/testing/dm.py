"""Mapped disks that are only remembered."""

from __future__ import annotations

from pathlib import Path

from banger.host.dm import Mapping
from banger.model.errors import Busy, HostLacks


class FakeDm:
    """Every disk can be mapped unless `lacks` says why not; a name in `held` is kept open by someone."""

    def __init__(self) -> None:
        self.maps: dict[str, Mapping] = {}
        self.held: set[str] = set()
        self.lacks = ""

    async def trouble(self) -> str:
        """See Dm."""
        return self.lacks

    async def make(self, mapping: Mapping) -> None:
        """See Dm."""
        if self.lacks:
            raise HostLacks(self.lacks)
        for path in (mapping.base, mapping.cow):
            if not Path(path).is_file():
                raise HostLacks(f"the disk {mapping.name} cannot be mapped: {path} is missing")
        self.maps.setdefault(mapping.name, mapping)

    async def remove(self, name: str) -> None:
        """See Dm."""
        if name in self.held:
            raise Busy(f"the mapped disk {name} is kept open by someone")
        self.maps.pop(name, None)

    async def names(self) -> list[str]:
        """See Dm."""
        return sorted(each for name in self.maps for each in (name, f"{name}-base"))
