"""How machines are named to the host's resolver: the zone, and what is asked of systemd-resolved so that it asks us.

What we emit is checked where it is used, by the same rules that are tested to let through everything that we make.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network

import msgspec

from banger.model.errors import BadRequest

#: `NAME.vm.` is a machine. The name is in no public use, and short.
ZONE = "vm."
LOOPBACK = "127.0.0.1"
LINK = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,14}\Z")
DOMAIN = re.compile(r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*\Z")


class Routing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Queries for names below `domains` go to port `port` of the host's loopback as long as the interface `link` is there."""

    link: str
    port: int
    domains: tuple[str, ...]


def checked_routing(routing: Routing) -> Routing:
    """The routing itself; BadRequest for what we would never ask for."""
    if not LINK.match(routing.link):
        raise BadRequest(f"{routing.link!r} is not the name of an interface")
    if not 1 <= routing.port <= 65535:
        raise BadRequest(f"{routing.port} is not a port")
    for domain in routing.domains:
        if len(domain) > 253 or not DOMAIN.match(domain):
            raise BadRequest(f"{domain!r} is not a domain")
    if not routing.domains:
        raise BadRequest("a routing of no domain would be one of all")
    return routing


def server(port: int) -> str:
    """Where we answer, as people and resolvers write it."""
    return f"{IPv4Address(LOOPBACK)}:{port}"


def reverse_domain(network: IPv4Network) -> str:
    """The domain that holds a network's addresses: as many of its octets as the network fixes (at least one)."""
    octets = str(network.network_address).split(".")[: max(1, network.prefixlen // 8)]
    return ".".join([*reversed(octets), "in-addr.arpa"])
