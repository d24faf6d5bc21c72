"""The host's privileged interfaces as the helper has them: what no name can tell is looked up before anything is changed.

A name of ours may belong to another banger on the same host, root's for instance: a bridge says in its alias whose it is, a TAP has an owner, and a
map has files below it. A subnet must not take away what the host has other routes for, and a guest's address must be of its bridge's subnet. Between
the look and the deed only root or this helper could change anything, and the helper does one thing at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import msgspec

from banger.host.dm import Mapping, RealDm
from banger.host.files import Files
from banger.host.links import Link, Links, RealLinks
from banger.host.loop import SYSFS
from banger.host.nft import Guest, RealNft
from banger.host.pinned import pinned
from banger.host.resolver import RealResolver
from banger.model.errors import BadRequest, HostLacks, NotFound
from banger.model.names import Routing
from banger.model.rules import Owner, beneath, owners_bridge


def whose(link: Link, owner: Owner) -> str:
    """Why an interface is not the owner's; empty when it is."""
    if link.kind == "bridge":
        return owners_bridge(link.alias, owner) and f"the bridge {link.name} is not the user's"
    if link.kind == "tun":
        return "" if link.owner == owner.uid else f"the interface {link.name} is another user's"
    return f"the interface {link.name} is not banger's"


def clash(links: Links, name: str, network: IPv4Network) -> str:
    """What an address on `name` would take away from the host; empty when nothing."""
    for route in links.routes():
        other = IPv4Network(route.destination)
        if other.prefixlen and route.link != name and other.overlaps(network):
            return f"the subnet {network} overlaps the host's route to {other} on {route.link}"
    return ""


def subnets(links: Links, bridge: str) -> list[IPv4Network]:
    """The networks that a bridge is the way to."""
    return [IPv4Network(route.destination) for route in links.routes() if route.link == bridge]


class OwnedLinks(RealLinks):
    """Interfaces of the one owner."""

    def __init__(self, owner: Owner) -> None:
        super().__init__()
        self.of = owner

    async def require(self, name: str, *, there: bool = False) -> None:
        """BadRequest unless the interface is the owner's or is not there; NotFound if it is not `there`."""
        found = await self.find(name)
        if found is None and there:
            raise NotFound(f"there is no interface {name}")
        if found is not None and (trouble := whose(found, self.of)):
            raise BadRequest(trouble)

    async def bridge(self, name: str, *, address: str, mac: str, alias: str) -> None:
        """See Links."""
        await self.require(name)
        if trouble := clash(self, name, IPv4Interface(address).network):
            raise HostLacks(trouble, hint="choose another one by the setting subnet")
        await super().bridge(name, address=address, mac=mac, alias=alias)

    async def tap(self, name: str, *, bridge: str, uid: int, mac: str, address: str) -> None:
        """See Links."""
        await self.require(name)
        await self.require(bridge, there=True)
        require_within(self, bridge, address)
        await super().tap(name, bridge=bridge, uid=uid, mac=mac, address=address)

    async def remove(self, name: str) -> None:
        """See Links."""
        await self.require(name)
        await super().remove(name)


def require_within(links: Links, bridge: str, address: str) -> None:
    """BadRequest when an address is not of the bridge's subnet."""
    if not any(IPv4Address(address) in network for network in subnets(links, bridge)):
        raise BadRequest(f"{address} is not of the subnet of {bridge}")


class OwnedNft(RealNft):
    """The tables of the one owner's bridges. A table whose bridge has gone is nobody's, and may be taken away."""

    def __init__(self, links: OwnedLinks) -> None:
        super().__init__()
        self.links = links

    async def renew(self, bridge: str, guests: Sequence[Guest]) -> None:
        """See Nft."""
        await self.links.require(bridge, there=True)
        for guest in guests:
            require_within(self.links, bridge, guest.address)
        await super().renew(bridge, guests)

    async def guest(self, bridge: str, guest: Guest) -> bool:
        """See Nft."""
        await self.links.require(bridge, there=True)
        require_within(self.links, bridge, guest.address)
        return await super().guest(bridge, guest)

    async def forget(self, bridge: str, guest: Guest) -> None:
        """See Nft."""
        await self.links.require(bridge)
        await super().forget(bridge, guest)

    async def remove(self, bridge: str) -> None:
        """See Nft."""
        await self.links.require(bridge)
        await super().remove(bridge)


class OwnedResolver(RealResolver):
    """Names of machines behind the one owner's bridges."""

    def __init__(self, files: Files, links: OwnedLinks) -> None:
        super().__init__(files)
        self.links = links

    async def route(self, routing: Routing) -> None:
        """See Resolver."""
        await self.links.require(routing.link, there=True)
        await super().route(routing)

    async def revert(self, link: str) -> None:
        """See Resolver."""
        await self.links.require(link)
        await super().revert(link)


def files_below(name: str, sysfs: Path = SYSFS) -> Iterator[str]:
    """The files that a mapped disk's loop devices lie over, of both its maps; none for a map that was only begun."""
    for place in sysfs.glob("dm-*/dm/name"):
        if place.read_text().strip() in (name, f"{name}-base"):
            for backing in place.parent.parent.glob("slaves/loop*/loop/backing_file"):
                yield backing.read_text().rstrip("\n")


class OwnedDm(RealDm):
    """Mapped disks over the one owner's files."""

    def __init__(self, owner: Owner) -> None:
        super().__init__(owner.uid)
        self.of = owner

    def _require(self, name: str) -> None:
        foreign = [file for file in files_below(name) if beneath(file.removesuffix(" (deleted)"), self.of)]
        if foreign:
            raise BadRequest(f"the mapped disk {name} is another user's")

    def _make(self, mapping: Mapping) -> None:
        """In the thread that works, so that the descriptors stay open as long as it does."""
        self._require(mapping.name)
        with pinned(Path(mapping.base), self.of) as base, pinned(Path(mapping.cow), self.of) as cow:
            super()._make(msgspec.structs.replace(mapping, base=str(base), cow=str(cow)))

    def _remove(self, name: str) -> None:
        self._require(name)
        super()._remove(name)
