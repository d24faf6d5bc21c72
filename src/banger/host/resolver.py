"""The host's resolver, as far as it can be told who answers for which names: systemd-resolved, on the system's message bus.

What is set belongs to an interface and goes with it, or with `revert`; /etc/resolv.conf and the resolver's own files are never written. Only root, or
whom polkit allows, may do this.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from banger.host import bus
from banger.host.bus import Value
from banger.host.files import Files
from banger.model.errors import BadRequest, HostLacks, NotFound
from banger.model.names import LINK, LOOPBACK, Routing, checked_routing

SERVICE, OBJECT, MANAGER = "org.freedesktop.resolve1", "/org/freedesktop/resolve1", "org.freedesktop.resolve1.Manager"
#: It is there while systemd-resolved runs (systemd-resolved.service(8)).
RUNTIME = Path("/run/systemd/resolve")
CONFIGURATION = Path("/etc/resolv.conf")
SWITCH = Path("/etc/nsswitch.conf")
STUB = re.compile(rb"^\s*nameserver\s+127\.0\.0\.5[34]\s*$", re.MULTILINE)
RESOLVE = re.compile(rb"^\s*hosts:.*\bresolve\b", re.MULTILINE)


class Resolver(Protocol):
    """What banger asks of the host's resolver."""

    def lacks(self) -> str:
        """Why nothing can be asked of it here, in one line; empty when systemd-resolved runs and the system bus is there."""

    def asked(self) -> bool:
        """Whether programs on this host ask systemd-resolved (by /etc/resolv.conf or nsswitch.conf)."""

    async def route(self, routing: Routing) -> None:
        """Send queries below these domains to that port while the interface is there; twice is once. What fails half-way is reverted.

        HostLacks when it is not there, ToolFailed with its own words when it refuses (we are not root), BadRequest for what is never meant.
        """

    async def revert(self, link: str) -> None:
        """Take back all that was set for an interface; an interface that is gone is success."""


def calls(routing: Routing, index: int) -> list[tuple[str, str, list[Value]]]:
    """What is asked, in this order: at no moment do other names come to us. DNSSEC and TLS would fail for a private zone on a plain port.

    Method, signature and arguments as in org.freedesktop.resolve1(5); `index` is the interface's number.
    """
    domains: list[Value] = [[domain, True] for domain in routing.domains]
    return [
        ("SetLinkDefaultRoute", "ib", [index, False]),
        ("SetLinkDNSSEC", "is", [index, "no"]),
        ("SetLinkDNSOverTLS", "is", [index, "no"]),
        ("SetLinkDomains", "ia(sb)", [index, domains]),
        ("SetLinkDNSEx", "ia(iayqs)", [index, [[socket.AF_INET, socket.inet_aton(LOOPBACK), routing.port, ""]]]),
    ]


class RealResolver:
    """systemd-resolved on this host."""

    def __init__(self, files: Files, bus: Path = bus.SOCKET) -> None:
        self.files, self.bus = files, bus

    def lacks(self) -> str:
        """See Resolver."""
        if not RUNTIME.is_dir():
            return "systemd-resolved does not run"
        return "" if self.bus.exists() else f"systemd-resolved runs, but there is no system bus at {self.bus}"

    def asked(self) -> bool:
        """See Resolver."""
        return bool(STUB.search(self._text(CONFIGURATION)) or RESOLVE.search(self._text(SWITCH)))

    def _text(self, path: Path) -> bytes:
        try:
            return self.files.read(path) or b""
        except OSError:  # a link in a circle, a folder: whatever it is, it leads nowhere
            return b""

    async def route(self, routing: Routing) -> None:
        """See Resolver."""
        checked_routing(routing)
        if lack := self.lacks():
            raise HostLacks(lack, hint="the guide's page on names has recipes for other resolvers")
        try:
            await self._ask(calls(routing, _number(routing.link)))
        except BaseException:
            await self.revert(routing.link)
            raise

    async def revert(self, link: str) -> None:
        """See Resolver."""
        if not LINK.match(link):
            raise BadRequest(f"{link!r} is not the name of an interface")
        if not self.lacks() and Path("/sys/class/net", link).exists():
            await self._ask([("RevertLink", "i", [_number(link)])])

    async def _ask(self, calls: Sequence[tuple[str, str, Sequence[Value]]]) -> None:
        async with bus.connected(self.bus) as connection:
            for member, signature, values in calls:
                await connection.call(SERVICE, OBJECT, MANAGER, member, signature, values)


def _number(link: str) -> int:
    try:
        return socket.if_nametoindex(link)
    except OSError as error:
        raise NotFound(f"there is no interface {link}") from error
