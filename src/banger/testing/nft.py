"""nftables in memory: who is in which table."""

from __future__ import annotations

from collections.abc import Sequence

from banger.host.nft import Guest, Refusal, entry, table_of


class FakeNft:
    """`tables` are the guests by the name of the table and the address; `foreign` is what `refusals` finds, `lacks` what `usable` says."""

    def __init__(self) -> None:
        self.lacks = ""
        self.tables: dict[str, dict[str, Guest]] = {}
        self.foreign: list[Refusal] = []
        #: Every change, by its kind: what a create costs is counted here.
        self.changes: list[str] = []

    async def usable(self) -> str:
        """See Nft."""
        return self.lacks

    async def renew(self, bridge: str, guests: Sequence[Guest]) -> None:
        """See Nft."""
        self.changes.append("renew")
        self.tables[table_of(bridge)] = {guest.address: guest for guest in guests}

    async def guest(self, bridge: str, guest: Guest) -> bool:
        """See Nft."""
        entry(bridge, guest)
        table = self.tables.get(table_of(bridge))
        if table is None:
            return False
        self.changes.append("guest")
        table[guest.address] = guest
        return True

    async def forget(self, bridge: str, guest: Guest) -> None:
        """See Nft."""
        self.changes.append("forget")
        self.tables.get(table_of(bridge), {}).pop(guest.address, None)

    async def remove(self, bridge: str) -> None:
        """See Nft."""
        self.tables.pop(table_of(bridge), None)

    async def guests(self, bridge: str) -> list[Guest] | None:
        """See Nft."""
        table = self.tables.get(table_of(bridge))
        return None if table is None else list(table.values())

    async def refusals(self, bridge: str) -> list[Refusal]:
        """See Nft."""
        return list(self.foreign)
