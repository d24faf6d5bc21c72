"""Links: the host's network interfaces, by netlink; what makes or changes one needs root (CAP_NET_ADMIN), looking does not.

A bridge here joins TAPs that must not see each other: every port is isolated from the others, and takes frames only from the one MAC address that is
bound to it, whatever the guest behind it sends (`isolated` and `locked` in bridge(8); before Linux 5.18 `locked` is not there and not missed). The
bridge knows the guest's MAC and address for good, so no answer to ARP can turn its traffic elsewhere. IPv6 is off on all of them.
pyroute2 takes 0.2 s and 20 MiB to import, so it is imported by the first change; who only looks asks the kernel by hand (host/rtnetlink.py).
Owns nothing: links stay until `remove`, also without any process.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import ipaddress
import logging
import os
import socket
import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from banger.host import rtnetlink
from banger.model.errors import BadRequest, HostLacks

if TYPE_CHECKING:
    from pyroute2 import AsyncIPRoute

log = logging.getLogger(__name__)
#: Longest name of an interface: IFNAMSIZ in linux/if.h, less the final zero.
LONGEST_NAME = 15
UP = 1
#: linux/neighbour.h: NUD_NOARP, which to a bridge is "stays as it is" (`static`; its NUD_PERMANENT means the host's own), and NUD_PERMANENT.
STATIC, PERMANENT = 0x40, 0x80
CAP_NET_ADMIN = 12
#: linux/if_tun.h.
TUNSETIFF, TUNSETOWNER, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x400454CC, 0x0002, 0x1000


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """An interface. `kind` is as in `ip -details link`: `bridge`, `tun` (TAPs too), `veth`; empty for hardware. `owner` is a TAP's uid, else -1."""

    name: str
    kind: str = ""
    up: bool = False
    master: str = ""
    isolated: bool = False
    owner: int = -1
    alias: str = ""


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """An IPv4 route of the main table; the default route's `destination` is 0.0.0.0/0."""

    destination: str
    link: str
    metric: int = 0


class Links(Protocol):
    """Looking is quick and needs no privilege. Names are at most 15 bytes, else BadRequest; what the kernel refuses is HostLacks."""

    async def usable(self) -> str:
        """Empty when links can be changed, else what is missing, in one line."""

    def exists(self, name: str) -> bool:
        """Whether there is an interface of that name."""

    def names(self) -> list[str]:
        """All interfaces' names."""

    def routes(self) -> list[Route]:
        """The host's IPv4 routes, those to its own networks too."""

    def mtu(self, name: str) -> int:
        """Bytes in the largest packet of an interface; 0 when there is none of that name."""

    def forwarding(self) -> bool:
        """Whether the host passes on IPv4 packets between its interfaces."""

    async def forward(self) -> None:
        """Let it do so, until the host's next start."""

    async def find(self, name: str) -> Link | None:
        """One of them."""

    async def bridge(self, name: str, *, address: str, mac: str, alias: str) -> None:
        """Make a bridge so: up, with this address (CIDR) and MAC; one that is there gets what it lacks. HostLacks when it has another alias."""

    async def tap(self, name: str, *, bridge: str, uid: int, mac: str, address: str) -> None:
        """Make a persistent TAP so: the user's, up, on the bridge, isolated, for the one guest with this MAC and IPv4 address."""

    async def remove(self, name: str) -> None:
        """Remove a bridge or TAP; missing is success."""


def checked(name: str) -> str:
    """The name itself if an interface can have it, else BadRequest."""
    if not 0 < len(name.encode()) <= LONGEST_NAME or any(character in "/: \t\n" for character in name):
        raise BadRequest(f"{name!r} cannot be an interface's name", hint=f"use at most {LONGEST_NAME} letters, digits and '-'")
    return name


def unfinished(name: str) -> str:
    """What a bridge is called until it says whose it is."""
    return f"bng{zlib.crc32(name.encode()):08x}"


def parse_routes(text: str) -> list[Route]:
    """The content of /proc/net/route: addresses are hexadecimal in the host's (little-endian) order."""
    found = []
    for line in text.splitlines()[1:]:
        link, destination, _, _, _, _, metric, mask, *_ = line.split()
        network = socket.inet_ntoa(int(destination, 16).to_bytes(4, "little"))
        found.append(Route(destination=f"{network}/{int(mask, 16).bit_count()}", link=link, metric=int(metric)))
    return found


class RealLinks:
    """The interfaces of this network namespace. What this process may do does not change while it lives, and is asked once."""

    def __init__(self) -> None:
        self._may_change: bool | None = None

    async def usable(self) -> str:
        """See Links."""
        if self._may_change is None:
            self._may_change = _may_change()
        if not self._may_change:
            return "networks on the host can be changed by root only"
        return "" if os.access("/dev/net/tun", os.R_OK | os.W_OK) else "/dev/net/tun is missing (kernel module tun)"

    def exists(self, name: str) -> bool:
        """See Links."""
        try:
            return socket.if_nametoindex(name) > 0
        except OSError:
            return False

    def names(self) -> list[str]:
        """See Links."""
        return [name for _, name in socket.if_nameindex()]

    def routes(self) -> list[Route]:
        """See Links."""
        with open("/proc/thread-self/net/route") as file:
            return parse_routes(file.read())

    def mtu(self, name: str) -> int:
        """See Links; SIOCGIFMTU of netdevice(7)."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
            try:
                answer = fcntl.ioctl(asker, 0x8921, struct.pack("16s16x8x", checked(name).encode()))
            except OSError:
                return 0
        return int(struct.unpack_from("i", answer, 16)[0])

    def forwarding(self) -> bool:
        """See Links."""
        with open("/proc/sys/net/ipv4/ip_forward") as file:
            return file.read().strip() != "0"

    async def forward(self) -> None:
        """See Links."""
        _write_sysctl("ipv4/ip_forward", "1")

    async def find(self, name: str) -> Link | None:
        """See Links."""
        return look(name)

    async def bridge(self, name: str, *, address: str, mac: str, alias: str) -> None:
        """See Links."""
        interface, found = ipaddress.IPv4Interface(address), look(name)
        if found is not None and (found.kind, found.alias) != ("bridge", alias):
            whose = f"of {found.alias!r}" if found.alias else "not banger's"
            raise HostLacks(f"the interface {name} is {whose}", hint="choose another name by the setting bridge, or remove it")
        if found is not None and found.up and Route(destination=str(interface.network), link=name) in self.routes():
            return
        async with _netlink(f"the bridge {name}") as route:
            if found is None:
                await _fresh_bridge(route, name, mac, alias)
            index = socket.if_nametoindex(name)
            await route.addr("replace", index=index, address=str(interface.ip), prefixlen=interface.network.prefixlen)
            await route.link("set", index=index, state="up")

    async def tap(self, name: str, *, bridge: str, uid: int, mac: str, address: str) -> None:
        """See Links."""
        found = look(name)
        if found is not None and found.kind != "tun":
            raise HostLacks(f"the interface {name} is no TAP", hint="remove it: banger makes interfaces of that name")
        kept = found is not None and (found.owner == uid or _hand_over(name, uid))
        if found is not None and kept and (found.up, found.master, found.isolated) == (True, bridge, True):
            return
        async with _netlink(f"the TAP {name}") as route:
            if found is not None and not kept:
                await route.link("del", index=socket.if_nametoindex(name))
            if not kept:
                await route.link("add", ifname=name, kind="tuntap", mode="tap", uid=uid)
                _without_ipv6(name)
            await _attach(route, name, bridge, mac, address)

    async def remove(self, name: str) -> None:
        """See Links."""
        for each in (name, unfinished(name)):
            if self.exists(each):
                await asyncio.to_thread(_delete, each)


def _hand_over(name: str, uid: int) -> bool:
    """Give a TAP to another user, which takes milliseconds; False when it cannot be done. One that somebody has open stays as it is."""
    try:
        with open("/dev/net/tun", "r+b", buffering=0) as device:
            fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
            fcntl.ioctl(device, TUNSETOWNER, uid)
    except OSError as error:
        if error.errno == errno.EBUSY:
            log.info("%s is in use and is not given to user %d", name, uid)
            return True
        log.info("%s is made anew for user %d: %s", name, uid, error)
        return False
    return True


async def _attach(route: AsyncIPRoute, name: str, bridge: str, mac: str, address: str) -> None:
    """Isolated and locked before it is up, so that there is no moment in which a guest sees more than it may."""
    index, master = socket.if_nametoindex(name), socket.if_nametoindex(bridge)
    await route.link("set", index=index, master=master)
    await route.brport("set", index=index, isolated=1, learning=0, locked=1)
    await route.fdb("replace", ifindex=index, lladdr=mac, master=master, state=STATIC)
    await route.neigh("replace", dst=address, lladdr=mac, ifindex=master, state=PERMANENT)
    await route.link("set", index=index, state="up")


async def _fresh_bridge(route: AsyncIPRoute, name: str, mac: str, alias: str) -> None:
    """The kernel takes no alias with a new link, and a bridge without one is nobody's: it gets its name last, so that whoever dies here leaves none."""
    draft = unfinished(name)
    if look(draft) is not None:
        await route.link("del", index=socket.if_nametoindex(draft))
    await route.link("add", ifname=draft, kind="bridge", address=mac, br_stp_state=0, br_forward_delay=0)
    index = socket.if_nametoindex(draft)
    await route.link("set", index=index, ifalias=alias)
    _without_ipv6(draft)
    await route.link("set", index=index, ifname=name)


def look(name: str) -> Link | None:
    """An interface as the kernel has it."""
    found = rtnetlink.interface(checked(name))
    if found is None:
        return None
    flags, attributes = found
    info = rtnetlink.attributes(attributes.get(rtnetlink.LINKINFO, b""))
    kind = rtnetlink.text(info.get(rtnetlink.KIND, b""))
    owner = rtnetlink.attributes(info.get(rtnetlink.DATA, b"")).get(rtnetlink.TUN_OWNER) if kind == "tun" else None
    master = rtnetlink.number(attributes.get(rtnetlink.MASTER, b""))
    return Link(
        name=name,
        kind=kind,
        up=bool(flags & UP),
        master=_name_of(master),
        isolated=rtnetlink.attributes(info.get(rtnetlink.SLAVE_DATA, b"")).get(rtnetlink.ISOLATED) == b"\1",
        owner=rtnetlink.number(owner) if owner is not None else -1,
        alias=rtnetlink.text(attributes.get(rtnetlink.ALIAS, b"")),
    )


def _name_of(index: int) -> str:
    """An interface by its index; empty when it has gone meanwhile."""
    try:
        return socket.if_indextoname(index) if index else ""
    except OSError:
        return ""


@asynccontextmanager
async def _netlink(what: str) -> AsyncIterator[AsyncIPRoute]:
    """A connection to the kernel; its refusals as HostLacks."""
    from pyroute2 import AsyncIPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    logging.getLogger("pyroute2").setLevel(logging.WARNING)  # it tells of every message, at length
    try:
        async with AsyncIPRoute() as route:
            yield route
    except NetlinkError as error:
        raise _explained(what, error.code) from error
    except OSError as error:
        raise _explained(what, error.errno or 0) from error


def _explained(what: str, number: int) -> HostLacks:
    hints = {
        errno.EPERM: "as an ordinary user, choose --network user",
        errno.EACCES: "as an ordinary user, choose --network user",
        errno.EOPNOTSUPP: "load the kernel's modules tun and bridge: modprobe -a tun bridge",
        errno.ENOENT: "load the kernel's module tun: modprobe tun",
        errno.EXFULL: "a bridge has 1,023 ports at most",
    }
    return HostLacks(f"the kernel refuses {what}: {os.strerror(number)}", hint=hints.get(number, ""))


def _delete(name: str) -> None:
    """The kernel waits until nobody looks at the interface any more, 20 ms and longer; hence in a thread."""

    async def work() -> None:
        async with _netlink(name) as route:
            with suppress(OSError):  # it has gone meanwhile
                await route.link("del", index=socket.if_nametoindex(name))

    asyncio.run(work())


def _write_sysctl(name: str, value: str) -> None:
    try:
        Path("/proc/sys/net", name).write_text(value)
    except PermissionError as error:
        raise HostLacks(f"net.{name.replace('/', '.')} cannot be set here: {error.strerror}") from error


def _without_ipv6(name: str) -> None:
    """On a kernel without IPv6 there is nothing to turn off."""
    with suppress(FileNotFoundError):
        _write_sysctl(f"ipv6/conf/{name}/disable_ipv6", "1")


def _may_change() -> bool:
    """Whether CAP_NET_ADMIN is effective (proc(5), CapEff)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return any(line.startswith("CapEff:") and int(line.split()[1], 16) >> CAP_NET_ADMIN & 1 for line in lines)
