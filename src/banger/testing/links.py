"""Interfaces as a test wants them."""

from __future__ import annotations

import ipaddress

import msgspec

from banger.host.links import Link, Route, checked
from banger.model.errors import HostLacks


class FakeLinks:
    """A host with one card and a default route.

    `lacks` is what `usable` says, `table` the routes, `there` the interfaces by name; those in `broken` cannot be made.
    """

    def __init__(self) -> None:
        self.lacks = ""
        self.there = {"lo": Link(name="lo", up=True), "eth0": Link(name="eth0", up=True)}
        self.table = [Route(destination="0.0.0.0/0", link="eth0"), Route(destination="192.0.2.0/24", link="eth0")]
        self.mtus = {"lo": 65536, "eth0": 1500}
        self.forwards = False
        self.broken: set[str] = set()

    async def usable(self) -> str:
        """See Links."""
        return self.lacks

    def exists(self, name: str) -> bool:
        """See Links."""
        return name in self.there

    def names(self) -> list[str]:
        """See Links."""
        return list(self.there)

    def routes(self) -> list[Route]:
        """See Links."""
        return list(self.table)

    def mtu(self, name: str) -> int:
        """See Links."""
        return self.mtus.get(name, 1500 if name in self.there else 0)

    def forwarding(self) -> bool:
        """See Links."""
        return self.forwards

    async def forward(self) -> None:
        """See Links."""
        self.forwards = True

    async def find(self, name: str) -> Link | None:
        """See Links."""
        return self.there.get(name)

    async def bridge(self, name: str, *, address: str, mac: str, alias: str) -> None:
        """See Links."""
        found = self.there.get(checked(name))
        if found is not None and (found.kind, found.alias) != ("bridge", alias):
            raise HostLacks(f"the interface {name} is {found.alias or 'of somebody else'}")
        self.there[name] = Link(name=name, kind="bridge", up=True, alias=alias)
        route = Route(destination=str(ipaddress.IPv4Interface(address).network), link=name)
        self.table += [route] if route not in self.table else []

    async def tap(self, name: str, *, bridge: str, uid: int, mac: str, address: str) -> None:
        """See Links."""
        if bridge not in self.there or name in self.broken:
            raise HostLacks(f"the kernel refuses the TAP {name}: no such device")
        self.there[checked(name)] = Link(name=name, kind="tun", up=True, master=bridge, isolated=True, owner=uid)

    async def remove(self, name: str) -> None:
        """See Links; the ports of a bridge stay without it."""
        self.there.pop(name, None)
        self.table = [route for route in self.table if route.link != name]
        for port in [link for link in self.there.values() if link.master == name]:
            self.there[port.name] = msgspec.structs.replace(port, master="", isolated=False)
