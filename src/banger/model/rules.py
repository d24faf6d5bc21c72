"""What the privileged helper takes from whoever may call it: a rule for every argument, pure, each in one place.

A rule looks at a value that already has the type of the method's signature, and says what is wrong with it: empty when nothing is. A path is only
judged by its words here; that no link leads elsewhere is seen when it is opened (host/pinned.py).
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv4Network, ip_interface, ip_network
from pathlib import Path

import msgspec

#: linux/if.h, IFNAMSIZ: 16 with the NUL.
LONGEST_INTERFACE = 15
#: RFC 1918, and RFC 6598's shared space.
PRIVATE = tuple(IPv4Network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"))
#: The widest and the narrowest subnet that machines may have: 65534 addresses, and two.
WIDEST, NARROWEST = 16, 30


class Owner(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The one user that is served: who it is, and the folders that are banger's among the user's."""

    uid: int
    gid: int
    roots: tuple[Path, ...]


Rule = Callable[[object, Owner], str]
#: For each method that is served, a rule for each parameter. What is not named here is not served.
Rules = Mapping[str, Mapping[str, Rule]]


def shown(value: object) -> str:
    """A hostile value for a message and a log: short, and without control characters."""
    said = repr(value)
    return said if len(said) <= 80 else f"{said[:77]}..."


def text(pattern: str, what: str) -> Rule:
    """A text that matches as a whole."""
    wanted = re.compile(pattern, re.ASCII)

    def rule(value: object, _: Owner) -> str:
        return "" if isinstance(value, str) and wanted.fullmatch(value) else f"is not {what}: {shown(value)}"

    return rule


def interface(pattern: str, what: str) -> Rule:
    """The name of a network interface that is ours."""
    named = text(pattern, what)

    def rule(value: object, owner: Owner) -> str:
        long = isinstance(value, str) and len(value) > LONGEST_INTERFACE
        return f"is longer than an interface's name can be: {shown(value)}" if long else named(value, owner)

    return rule


def number(low: int, high: int) -> Rule:
    """A number in this range, both included."""

    def rule(value: object, _: Owner) -> str:
        good = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        return "" if good else f"is not within {low} … {high}: {shown(value)}"

    return rule


def flag(value: object, _: Owner) -> str:
    """Yes or no."""
    return "" if isinstance(value, bool) else f"is not yes or no: {shown(value)}"


def each(one: Rule, most: int) -> Rule:
    """So many values at most, each of them good."""

    def rule(value: object, owner: Owner) -> str:
        if not isinstance(value, list | tuple | set | frozenset):
            return f"is no list: {shown(value)}"
        if len(value) > most:
            return f"has more than {most} values"
        return next((trouble for item in value if (trouble := one(item, owner))), "")

    return rule


def either(*rules: Rule) -> Rule:
    """Good by one of these rules; the last one says what is wrong."""

    def rule(value: object, owner: Owner) -> str:
        found = ""
        for one in rules:
            found = one(value, owner)
            if not found:
                break
        return found

    return rule


def exactly(wanted: object) -> Rule:
    """This value only."""
    return lambda value, _: "" if type(value) is type(wanted) and value == wanted else f"must be {shown(wanted)}: {shown(value)}"


def fields(**of: Rule) -> Rule:
    """A record, each field of which is good; one without a rule is not."""

    def rule(value: object, owner: Owner) -> str:
        if not isinstance(value, msgspec.Struct) or set(of) != set(value.__struct_fields__):
            return f"is no record of {', '.join(of)}: {shown(value)}"
        return next((f"{name} {trouble}" for name, one in of.items() if (trouble := one(getattr(value, name), owner))), "")

    return rule


def owners_uid(value: object, owner: Owner) -> str:
    """The number of the user that is served."""
    return "" if type(value) is int and value == owner.uid else f"is not the user that is served: {shown(value)}"


def address(value: object, _: Owner) -> str:
    """One private IPv4 address, as it is written shortest."""
    try:
        found = IPv4Address(value) if isinstance(value, str) else None
    except ValueError:
        found = None
    return "" if found is not None and any(found in block for block in PRIVATE) else f"is no private IPv4 address: {shown(value)}"


def _private(network: object) -> str:
    if not isinstance(network, IPv4Network) or not any(network.subnet_of(block) for block in PRIVATE):
        return f"is no private IPv4 subnet: {shown(str(network))}"
    within = WIDEST <= network.prefixlen <= NARROWEST
    return "" if within else f"is not between /{WIDEST} and /{NARROWEST}: {shown(str(network))}"


def subnet(value: object, _: Owner) -> str:
    """A private subnet of allowed width, as CIDR without host bits."""
    try:
        return _private(ip_network(value)) if isinstance(value, str) and "/" in value else f"is no subnet: {shown(value)}"
    except ValueError:
        return f"is no subnet: {shown(value)}"


def host_in_subnet(value: object, _: Owner) -> str:
    """A host's address with its private subnet of allowed width, as CIDR with host bits."""
    try:
        found = ip_interface(value) if isinstance(value, str) and "/" in value else None
    except ValueError:
        found = None
    if found is None or found.version != 4:
        return f"is no address with its subnet: {shown(value)}"
    edge = found.ip in (found.network.network_address, found.network.broadcast_address)
    return f"is no host's address: {shown(value)}" if edge else _private(found.network)


def beneath(value: object, owner: Owner) -> str:
    """The path of something below one of the owner's folders, written without detours."""
    path = str(value) if isinstance(value, Path | str) else ""
    if not path.startswith("/") or "\0" in path or os.path.normpath(path) != path or path.startswith("//"):
        return f"is no plain absolute path: {shown(str(value))}"
    inside = any(Path(path).is_relative_to(root) and Path(path) != root for root in owner.roots)
    return "" if inside else f"is not below {' or '.join(map(str, owner.roots))}: {shown(path)}"


def owners_bridge(value: object, owner: Owner) -> str:
    """The alias by which a bridge is known as this owner's: it names the state folder."""
    good = isinstance(value, str) and any(value == f"{BRIDGE_ALIAS}{root}"[:LONGEST_ALIAS] for root in owner.roots)
    return "" if good else f"does not name a folder of the user that is served: {shown(value)}"


#: What the alias of a bridge of banger's begins with, and how long one can be (IFALIASZ in linux/if.h, less the final zero).
BRIDGE_ALIAS, LONGEST_ALIAS = "banger at ", 255
BRIDGE = interface(r"br-banger(-[a-z0-9]{1,5})?", "the name of a bridge of banger's")
TAP = interface(r"bgr-([a-z0-9]{1,5}-)?[0-9]{1,4}", "the name of a TAP of banger's")
#: 52:42, which is locally administered and unicast, and what the address or the id makes of the rest.
MAC = text(r"52:42(:[0-9a-f]{2}){4}", "the MAC of a machine of banger's")
GUEST = fields(mac=MAC, address=address, nat=flag)
#: A bridge has no more ports.
MOST_GUESTS = 1023

MAP = text(r"banger-[0-9a-f]{12}", "the name of a machine's disk")
#: As long as a block device of the kernel's can be, more or less; in steps of a page.
LARGEST_DISK, PAGE = 1 << 50, 4096


def disk_size(value: object, owner: Owner) -> str:
    """How large a disk may be: whole pages, up to a pebibyte."""
    return number(PAGE, LARGEST_DISK)(value, owner) or ("" if isinstance(value, int) and not value % PAGE else f"is not in whole pages: {shown(value)}")


def domain(value: object, _: Owner) -> str:
    """The zone of machines, or the domain of private addresses (in-addr.arpa)."""
    found = re.fullmatch(r"((?:[0-9]{1,3}\.){1,3})in-addr\.arpa", value, re.ASCII) if isinstance(value, str) else None
    if found is None:
        return "" if value == "vm" else f"is no domain of machines: {shown(value)}"
    octets = found[1].rstrip(".").split(".")[::-1]
    try:
        network = IPv4Network(f"{'.'.join([*octets, '0', '0', '0'][:4])}/{8 * len(octets)}")
    except ValueError:
        return f"is no domain of addresses: {shown(value)}"
    return "" if any(network.overlaps(block) for block in PRIVATE) else f"is no domain of private addresses: {shown(value)}"


#: By interface, as the daemon's Host has it. Methods without rules are not served: they need no privilege, and the daemon does them itself.
SERVED: Mapping[str, Rules] = {
    "privilege": {"standing": {}},
    "links": {
        "usable": {},
        "forward": {},
        "bridge": {"name": BRIDGE, "address": host_in_subnet, "mac": MAC, "alias": owners_bridge},
        "tap": {"name": TAP, "bridge": BRIDGE, "uid": owners_uid, "mac": MAC, "address": address},
        "remove": {"name": either(TAP, BRIDGE)},
    },
    "nft": {
        "usable": {},
        "renew": {"bridge": BRIDGE, "guests": each(GUEST, MOST_GUESTS)},
        "guest": {"bridge": BRIDGE, "guest": GUEST},
        "forget": {"bridge": BRIDGE, "guest": GUEST},
        "remove": {"bridge": BRIDGE},
        "guests": {"bridge": BRIDGE},
        "refusals": {"bridge": BRIDGE},
    },
    "dm": {
        "trouble": {},
        "make": {"mapping": fields(name=MAP, base=beneath, cow=beneath, size=disk_size)},
        "remove": {"name": MAP},
        "names": {},
    },
    "resolver": {
        "route": {"routing": fields(link=BRIDGE, port=number(1024, 65535), domains=each(domain, 8))},
        "revert": {"link": BRIDGE},
    },
}
