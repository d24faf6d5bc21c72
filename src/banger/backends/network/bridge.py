"""A bridge on the host: the host reaches each machine at an address of its own, and what machines send leaves under the host's address (NAT).

A machine's address decides everything else: its MAC, and the name of its TAP, so a TAP can be ready before there is a machine for it. Machines do not
see each other. The first machine makes the bridge and the table in nftables, the last one takes them away, unless TAPs are kept ready (`tap_pool`):
those stay for the next machine and the next daemon. What somebody else has removed is made again, for all machines, when the next one is made or the
daemon starts. What packets do is said in host/nft.py, what links are in host/links.py.
Owns the bridge, its TAPs (`bgr-2` for the address that ends in 2) and the table. The bridge's alias names the state folder that it belongs to.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from banger.backends.jailing import tap_owner
from banger.host.nft import PACKAGE, Guest
from banger.model.errors import BadRequest, BangerError, HostLacks
from banger.model.event import report
from banger.model.finding import Finding, Level
from banger.model.parts import NicPart, PartStatus

if TYPE_CHECKING:
    from banger.backends.network import Network
    from banger.host import Host
    from banger.model.ids import VmId

log = logging.getLogger(__name__)
#: Whoever turned IPv4 forwarding on: nobody can know when nobody else needs it any more.
STAYS = "and banger never turns it off (net.ipv4.ip_forward)"
SUBJECT = "network bridge"
MOST_PORTS = 1000
MTU = 1500


def mac_for(address: ipaddress.IPv4Address) -> str:
    """The MAC that goes with an address: locally administered, unicast, and the same for whoever gets the address next."""
    return ":".join(f"{octet:02x}" for octet in (0x52, 0x42, *address.packed))


def tap_prefix(bridge: str) -> str:
    """What the names of a bridge's TAPs begin with; the rest is the place of the address in the subnet. With five letters and digits it still fits."""
    own = bridge.removeprefix("br-banger").removeprefix("-")
    return f"bgr-{own}-" if own else "bgr-"


def place_of(address: str) -> int:
    """The place of an address in its subnet, which is the number of its TAP: no two machines may have the same, also after a change of the subnet."""
    interface = ipaddress.IPv4Interface(address)
    return int(interface.ip) - int(interface.network.network_address)


@functools.lru_cache(maxsize=1024)
def _network(destination: str) -> ipaddress.IPv4Network:
    """Routes and addresses are the same ones again and again, and to read one takes as long as to ask the kernel for it."""
    return ipaddress.IPv4Network(destination)


@functools.lru_cache(maxsize=1024)
def _subnet_of(address: str) -> ipaddress.IPv4Network:
    return ipaddress.IPv4Interface(address).network


def guest_of(part: NicPart) -> Guest:
    """A machine as the table knows it."""
    return Guest(mac=part.mac, address=part.address.partition("/")[0], nat=part.nat)


class Bridge:
    """The backend. It remembers which machines it has connected, so that it can connect them again."""

    def __init__(self, host: Host) -> None:
        self.host, self.links, self.nft = host, host.links, host.nft
        self.name = host.settings.bridge
        self.held: dict[str, NicPart] = {}
        #: The subnet, once it was looked at: it is asked for several times on the way to each start.
        self.known: ipaddress.IPv4Network | None = None
        #: Held while the bridge and the table are made or taken away, and while one TAP is.
        self.base = asyncio.Lock()
        self.turn: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.alias = f"banger at {host.paths.state}"[:255]

    # -- deciding -------------------------------------------------------------------------------------------------------------------------------

    def subnet(self) -> ipaddress.IPv4Network:
        """The machines' network; BadRequest when the setting is none."""
        if self.known is None:
            self.known = self._subnet()
        return self.known

    def _subnet(self) -> ipaddress.IPv4Network:
        try:
            found = ipaddress.IPv4Network(self.host.settings.subnet)
        except ValueError as error:
            raise BadRequest(f"the setting subnet is no IPv4 network: {error}", hint="for example 172.30.0.0/24") from None
        if not found.is_private or not 16 <= found.prefixlen <= 29:
            raise BadRequest(f"the setting subnet cannot be {found}", hint="use a private network from /16 to /29, for example 172.30.0.0/24")
        return found

    async def usable(self) -> str:
        """See Network."""
        return await self.links.usable() or await self.nft.usable() or self._clash()

    def _clash(self) -> str:
        """What the subnet takes away from the host, unless it is our own bridge."""
        subnet = self.subnet()
        for route in self.links.routes():
            other = _network(route.destination)
            if other.prefixlen and route.link != self.name and other.overlaps(subnet):
                return f"the subnet {subnet} overlaps the host's route to {other} on {route.link}: choose another one by the setting subnet"
        return ""

    def plan(self, vm: VmId, *, host_access: bool, sockets: bool = True, nat: bool | None = None, taken: frozenset[str] = frozenset()) -> NicPart:
        """See Network: the lowest free address."""
        if host_access:
            hint = "what listens on all of the host's addresses is at the gateway's; for its loopback choose --network user"
            raise BadRequest("a machine on the bridge cannot have access to the host's loopback", hint=hint)
        subnet = self.subnet()
        places = {place_of(address) for address in taken}
        for place in range(2, min(subnet.num_addresses - 1, MOST_PORTS)):
            if place not in places:
                return NicPart(
                    backend="bridge",
                    vm=vm,
                    mac=mac_for(subnet[place]),
                    address=f"{subnet[place]}/{subnet.prefixlen}",
                    gateway=str(subnet[1]),
                    dns=self._nameservers(),
                    mtu=self._mtu(),
                    tap=f"{tap_prefix(self.name)}{place}",
                    reachable=True,
                    nat=nat is not False,
                )
        raise HostLacks(f"all addresses of {subnet} are taken", hint="delete machines that you do not need, or set a larger subnet")

    def _nameservers(self) -> tuple[str, ...]:
        return tuple(self.host.settings.nameservers.replace(",", " ").split()) or self.host.facts.nameservers()

    def _mtu(self) -> int:
        """No larger than what the way out can take, so that nothing rests on the news of that reaching the guest."""
        ways = sorted((route.metric, route.link) for route in self.links.routes() if route.destination == "0.0.0.0/0")
        return min(MTU, (self.links.mtu(ways[0][1]) if ways else 0) or MTU)

    # -- making ---------------------------------------------------------------------------------------------------------------------------------

    async def ensure(self, part: NicPart) -> None:
        """See Network."""
        await self._require()
        if _subnet_of(part.address) != self.subnet():
            message = f"the machine's address {part.address} is not of the subnet {self.subnet()}"
            raise HostLacks(message, hint="set the setting subnet to what it was, or delete the machine")
        self.held[part.tap] = part
        await self._make_base()
        await self._make_tap(part)
        async with self.base:
            if not await self.nft.guest(self.name, guest_of(part)):
                await self._renew()
        if part.nat:
            await self._make_way()

    async def _require(self) -> None:
        missing = await self.usable()
        if missing:
            raise HostLacks(missing, hint="run: banger doctor")

    async def _make_base(self) -> None:
        """The bridge; one that was removed has its TAPs put back on it."""
        async with self.base:
            known = self.links.exists(self.name)
            gateway = self.subnet()[1]
            address = f"{gateway}/{self.subnet().prefixlen}"
            await self.links.bridge(self.name, address=address, mac=mac_for(gateway), alias=self.alias)
        if not known:
            for part in [part for part in self.held.values() if self.links.exists(part.tap)]:
                await self._make_tap(part)

    async def _make_tap(self, part: NicPart) -> None:
        address = part.address.partition("/")[0]
        async with self.turn[part.tap]:
            await self.links.tap(part.tap, bridge=self.name, uid=tap_owner(self.host, part), mac=part.mac, address=address)

    async def _renew(self) -> None:
        await self.nft.renew(self.name, [guest_of(part) for part in self.held.values()])

    async def _make_way(self) -> None:
        """What leaves the bridge must be passed on. A host that did not do so does from now on; nobody can know when nobody else needs it any more."""
        if not self.links.forwarding():
            log.warning("IPv4 forwarding was off and is turned on (net.ipv4.ip_forward)")
            await self.links.forward()
        for refusal in await self.nft.refusals(self.name):
            text = f"warning: {refusal.chain} of the host's firewall refuses what machines send; as root: {refusal.fix}"
            log.warning("%s", text)
            report(text)

    # -- taking away ----------------------------------------------------------------------------------------------------------------------------

    async def remove(self, part: NicPart) -> None:
        """See Network. A TAP goes back to those that are kept ready, if any are."""
        if not self.links.exists(part.tap) and part.tap not in self.held and await self.links.usable():
            return
        if not await self._mine():
            self.held.pop(part.tap, None)
            return
        async with self.turn[part.tap]:
            async with self.base:
                if not await self.nft.usable():
                    await self.nft.forget(self.name, guest_of(part))
            if not self.host.settings.tap_pool:
                await self.links.remove(part.tap)
            self.held.pop(part.tap, None)
        await self._end()

    async def _end(self) -> None:
        """After the last machine, nothing stays."""
        async with self.base:
            if self.held or self.host.settings.tap_pool or self._ours():
                return
            if await self._mine():
                await self.nft.remove(self.name)
                await self.links.remove(self.name)

    async def _mine(self) -> bool:
        """Whether the bridge's name is ours to use: all else that we name hangs on it."""
        found = await self.links.find(self.name)
        return found is None or found.alias == self.alias

    # -- keeping --------------------------------------------------------------------------------------------------------------------------------

    async def settle(self, live: Sequence[NicPart], spare: Sequence[NicPart]) -> None:
        """See Shared."""
        ours = self._ours()
        if not (live or spare or ours or self.links.exists(self.name)) or await self.links.usable():
            return
        if not await self._mine():
            log.info("the interface %s is not ours and is left alone", self.name)
            return
        fresh = [part for part in live if part.tap not in self.held]
        self.held.update({part.tap: part for part in fresh})
        if not self._fits():
            await self._drop(ours)
            ours = self._ours()
        if self.held or spare:
            await self._restore([*fresh, *(part for part in spare if part.tap not in ours)])
        await self._drop(ours - {part.tap for part in spare})
        await self._end()

    def _fits(self) -> bool:
        """Whether the bridge is there for this subnet. If it was for another one, what is ready is locked to MACs of that."""
        return any((route.link, route.destination) == (self.name, str(self.subnet())) for route in self.links.routes())

    async def _drop(self, taps: set[str]) -> None:
        for tap in taps:
            async with self.turn[tap]:
                if tap not in self.held:
                    await self.links.remove(tap)

    def _ours(self) -> set[str]:
        """The TAPs that have a name of ours."""
        prefix = tap_prefix(self.name)
        return {name for name in self.links.names() if name.startswith(prefix) and name.removeprefix(prefix).isdecimal()}

    async def _restore(self, parts: Sequence[NicPart]) -> None:
        await self._make_base()
        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(self._try_tap(part))
        async with self.base:
            wanted = {guest_of(part) for part in self.held.values()}
            found = await self.nft.guests(self.name)
            if found is None or set(found) != wanted:
                await self._renew()
        if any(part.nat for part in self.held.values()) and not self.links.forwarding():
            await self.links.forward()

    async def _try_tap(self, part: NicPart) -> None:
        """One that cannot be made is no reason to leave out the others."""
        try:
            await self._make_tap(part)
        except (BangerError, OSError) as error:
            log.warning("%s: %s", part.tap, error)

    # -- looking --------------------------------------------------------------------------------------------------------------------------------

    def inspect(self, part: NicPart) -> PartStatus:
        """See Network."""
        there = self.links.exists(part.tap)
        return PartStatus(present=there, running=there and self.links.exists(self.name))

    async def check(self) -> list[Finding]:
        """See Network. What is missing is only a warning: the defaults do not need it."""
        lacks = await self.links.usable()
        if lacks:
            return [Finding(level=Level.WARN, subject=SUBJECT, message=lacks, fix="nothing needs to be done for the network user")]
        try:
            lacks = await self.nft.usable() or self._clash()
            refusals = [] if lacks else await self.nft.refusals(self.name)
        except BangerError as error:
            lacks = str(error)
        if lacks:
            packages = (PACKAGE,) if f"package {PACKAGE}" in lacks else ()
            return [Finding(level=Level.WARN, subject=SUBJECT, message=lacks, fix="see the guide's page on networks", packages=packages)]
        rows = [Finding(level=Level.WARN, subject=SUBJECT, message=f"{each.chain} refuses what machines send", fix=each.fix) for each in refusals]
        forwarding = f"is on, {STAYS}" if self.links.forwarding() else f"is off: the first machine with NAT turns it on, {STAYS}"
        message = f"{self.name} with {self.host.settings.subnet} can be had; IPv4 forwarding {forwarding}"
        return [Finding(level=Level.PASS, subject=SUBJECT, message=message), *rows]


def backend(host: Host) -> Network:
    """The bridge on this host."""
    return Bridge(host)
