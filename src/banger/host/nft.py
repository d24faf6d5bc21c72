"""nftables: one table of our own for each bridge, by libnftables in this process (no command is run); it needs root (CAP_NET_ADMIN).

The rules never change: which guests there are and whose packets may leave the host stand in two sets, so a machine that comes, goes or changes is one
small transaction. A guest's packets are taken only from its own MAC and IPv4 address; guests do not reach each other, also not by way of the host;
nobody outside can begin a connection to a guest; what may leave does so under the host's address. What guests send to the host itself is left to
the host's own rules. No other table is changed; those that refuse forwarded packets are looked for, since no table can overrule another's refusal.
What was seen holds until somebody changes anything in nftables, which the kernel counts (host/generation.py): then all is looked at anew.
Owns the table `banger` (`banger-x` for the bridge `br-banger-x`), which stays until `remove`.
"""

from __future__ import annotations

import ctypes
import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import msgspec

from banger.host.generation import UNKNOWN, following, generation
from banger.model.errors import BadRequest, HostLacks

LIBRARY, PACKAGE = "libnftables.so.1", "libnftables1"
FAMILY = "inet"
#: An output flag of nftables/libnftables.h.
JSON = 1 << 4
BRIDGE = re.compile(r"br-(banger(-[a-z0-9]+)?)\Z")
MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}\Z")


class Guest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A guest by its MAC and IPv4 address; `nat`: what it sends may leave the host, under the host's address."""

    mac: str
    address: str
    nat: bool


class Refusal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A chain of somebody else's that refuses packets which the host passes on, and what makes an exception for a bridge, as commands for root."""

    chain: str
    fix: str


class Nft(Protocol):
    """Bridges are named `br-banger` or `br-banger-…`, else BadRequest, as for what is no address. What the kernel refuses is HostLacks."""

    async def usable(self) -> str:
        """Empty when rules can be made, else what is missing, in one line."""

    async def renew(self, bridge: str, guests: Sequence[Guest]) -> None:
        """Make the bridge's table anew, whatever there was, for just these guests; in one transaction."""

    async def guest(self, bridge: str, guest: Guest) -> bool:
        """Let a guest in, or change whether it may leave, in one transaction; False when the table is not as `renew` makes it: then nothing changes."""

    async def forget(self, bridge: str, guest: Guest) -> None:
        """Take a guest out; missing is success."""

    async def remove(self, bridge: str) -> None:
        """Remove the table; missing is success."""

    async def guests(self, bridge: str) -> list[Guest] | None:
        """Those who are in the table; None when it is not there or not whole. Quick."""

    async def refusals(self, bridge: str) -> list[Refusal]:
        """Other tables' chains that refuse what the host passes on for the bridge; those with an exception for it are left out. Quick."""


def table_of(bridge: str) -> str:
    """The table of a bridge."""
    found = BRIDGE.match(bridge)
    if found is None:
        raise BadRequest(f"{bridge!r} is not the name of a bridge of banger's", hint="use br-banger, or br-banger-x with letters and digits for x")
    return found[1]


def rules(bridge: str) -> list[str]:
    """Every rule of a bridge's table, each with its chain before it."""
    return [
        f'prerouting iifname "{bridge}" ether saddr . ip saddr != @guests drop',
        f'prerouting iifname "{bridge}" meta nfproto ipv6 drop',
        f'forward iifname "{bridge}" oifname "{bridge}" drop',
        f'forward iifname "{bridge}" ip saddr @nat accept',
        f'forward iifname "{bridge}" reject with icmpx type admin-prohibited',
        f'forward oifname "{bridge}" ct state established,related accept',
        f'forward oifname "{bridge}" drop',
        f'postrouting oifname != "{bridge}" ip saddr @nat masquerade',
    ]


def whole(bridge: str, guests: Sequence[Guest]) -> str:
    """The table from nothing: the first two lines make sure that it is not there, whether it was or not."""
    table = f"{FAMILY} {table_of(bridge)}"
    return "\n".join(
        [
            f"add table {table}",
            f"delete table {table}",
            f"add table {table}",
            f"add set {table} guests {{ type ether_addr . ipv4_addr; }}",
            f"add set {table} nat {{ type ipv4_addr; }}",
            f"add chain {table} prerouting {{ type filter hook prerouting priority -300; policy accept; }}",
            f"add chain {table} forward {{ type filter hook forward priority 0; policy accept; }}",
            f"add chain {table} postrouting {{ type nat hook postrouting priority 100; policy accept; }}",
            *(f"add rule {table} {rule}" for rule in rules(bridge)),
            *(line for guest in guests for line in entry(bridge, guest)),
        ]
    )


def entry(bridge: str, guest: Guest) -> list[str]:
    """A guest's elements. One that may be missing is added before it is deleted, since deleting what is missing undoes the whole transaction."""
    table = f"{FAMILY} {table_of(bridge)}"
    mac, address = _mac(guest.mac), ipaddress.IPv4Address(guest.address)
    lines = [f"add element {table} guests {{ {mac} . {address} }}", f"add element {table} nat {{ {address} }}"]
    return lines if guest.nat else [*lines, f"delete element {table} nat {{ {address} }}"]


def exit_of(bridge: str, guest: Guest) -> list[str]:
    """What takes a guest out of a table that is there."""
    table = f"{FAMILY} {table_of(bridge)}"
    gone = f"delete element {table} guests {{ {_mac(guest.mac)} . {ipaddress.IPv4Address(guest.address)} }}"
    return [*entry(bridge, msgspec.structs.replace(guest, nat=False)), gone]


def key_of(guest: Guest) -> tuple[str, str]:
    """What is an element's own: a guest whose NAT changes stays the same."""
    return guest.mac, guest.address


def by_key(guests: Iterable[Guest]) -> Table:
    """A table's guests."""
    return {key_of(guest): guest for guest in guests}


def _mac(text: str) -> str:
    if not MAC.match(text):
        raise BadRequest(f"{text!r} is not a MAC address")
    return text


Item = Mapping[str, object]


class Listing(msgspec.Struct, frozen=True):
    """What `nft -j list …` prints (libnftables-json(5)); each item is `{kind: content}`."""

    nftables: list[dict[str, dict[str, object]]]

    def of(self, kind: str) -> list[dict[str, object]]:
        """The contents of that kind, in order."""
        return [item[kind] for item in self.nftables if kind in item]


def read_guests(listing: Listing) -> list[Guest] | None:
    """The guests of a listed table of ours; None when it has not as many rules as ours."""
    if len(listing.of("rule")) != len(rules("br-banger")):
        return None
    sets = {found["name"]: msgspec.convert(found.get("elem", []), list[str | dict[str, list[str]]]) for found in listing.of("set")}
    pairs = [each["concat"] for each in sets.get("guests", []) if isinstance(each, dict)]
    return [Guest(mac=mac, address=address, nat=address in sets.get("nat", [])) for mac, address in pairs]


Table = dict[tuple[str, str], Guest]


class Seen(msgspec.Struct, frozen=True):
    """What nftables had at a generation: the guests of our whole tables by bridge, then by MAC and address; and who refuses what a bridge passes on."""

    generation: int = UNKNOWN
    tables: dict[str, Table] = {}
    refusals: dict[str, tuple[Refusal, ...]] = {}


class RealNft:
    """libnftables, loaded when it is first needed. One context, used by one thread."""

    def __init__(self) -> None:
        self._library: ctypes.CDLL | None = None
        self._context: int | None = None
        self._seen = Seen()

    async def usable(self) -> str:
        """See Nft."""
        try:
            self._load()
        except HostLacks as error:
            return str(error)
        return ""

    async def renew(self, bridge: str, guests: Sequence[Guest]) -> None:
        """See Nft."""
        self._current()
        with self._changing(whole(bridge, guests)) as seen:
            seen.tables[bridge] = by_key(guests)

    async def guest(self, bridge: str, guest: Guest) -> bool:
        """See Nft."""
        lines = entry(bridge, guest)
        known = self._table(bridge)
        if known is None:
            return False
        if known.get(key_of(guest)) != guest:
            with self._changing("\n".join(lines)):
                known[key_of(guest)] = guest
        return True

    async def forget(self, bridge: str, guest: Guest) -> None:
        """See Nft."""
        known = self._table(bridge)
        if known and key_of(guest) in known:
            with self._changing("\n".join(exit_of(bridge, guest))):
                del known[key_of(guest)]

    async def remove(self, bridge: str) -> None:
        """See Nft."""
        table = f"{FAMILY} {table_of(bridge)}"
        self._current()
        with self._changing(f"add table {table}\ndelete table {table}") as seen:
            seen.tables.pop(bridge, None)

    async def guests(self, bridge: str) -> list[Guest] | None:
        """See Nft."""
        found = self._table(bridge)
        return None if found is None else list(found.values())

    async def refusals(self, bridge: str) -> list[Refusal]:
        """See Nft."""
        table_of(bridge)
        seen = self._current()
        if bridge not in seen.refusals:
            suspects = hooked(self._list("chains"))
            found = (judge(chain, self._list(f"table {chain.table}"), bridge) for chain in suspects)
            seen.refusals[bridge] = tuple(refusal for refusal in found if refusal is not None)
        return list(seen.refusals[bridge])

    def _current(self) -> Seen:
        """What is known of nftables as it is now. The generation is asked for first: what is looked at after it is at least as new."""
        now = generation()
        if now == UNKNOWN or now != self._seen.generation:
            self._seen = Seen(now, {}, {})
        return self._seen

    def _table(self, bridge: str) -> Table | None:
        """The guests of a whole table; None when it is not there or lacks a rule."""
        seen = self._current()
        if bridge not in seen.tables:
            status, said, complaint = self._run(f"list table {FAMILY} {table_of(bridge)}")
            if status != 0 and "No such file or directory" not in complaint:
                raise refused(complaint)
            found = read_guests(_decoded(said)) if status == 0 else None
            if found is None:
                return None
            seen.tables[bridge] = by_key(found)
        return seen.tables[bridge]

    @contextmanager
    def _changing(self, commands: str) -> Iterator[Seen]:
        """One transaction, then what it does to what was just seen. That holds if nobody else has changed anything since, else all is forgotten."""
        seen, self._seen = self._seen, Seen()
        self._do(commands)
        yield seen
        after = generation()
        if seen.generation != UNKNOWN and after == following(seen.generation):
            self._seen = Seen(after, seen.tables, seen.refusals)

    def _list(self, what: str) -> Listing:
        status, said, complaint = self._run(f"list {what}")
        if status != 0:
            raise refused(complaint)
        return _decoded(said)

    def _do(self, commands: str) -> None:
        status, _, complaint = self._run(commands)
        if status != 0:
            raise refused(complaint)

    def _run(self, commands: str) -> tuple[int, bytes, str]:
        library = self._load()
        status = int(library.nft_run_cmd_from_buffer(self._context, commands.encode()))
        said = library.nft_ctx_get_output_buffer(self._context)
        complaint = library.nft_ctx_get_error_buffer(self._context)
        return status, said, complaint.decode("utf-8", "replace")

    def _load(self) -> ctypes.CDLL:
        if self._library is not None:
            return self._library
        try:
            library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise HostLacks(f"{LIBRARY} is not installed (package {PACKAGE})", hint="run: banger doctor") from error
        for name, result, arguments in SIGNATURES:
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        context = library.nft_ctx_new(0)
        library.nft_ctx_buffer_output(context)
        library.nft_ctx_buffer_error(context)
        library.nft_ctx_output_set_flags(context, JSON)
        self._library, self._context = library, context
        return library


#: Of nftables/libnftables.h: name, result, arguments.
SIGNATURES = (
    ("nft_ctx_new", ctypes.c_void_p, (ctypes.c_uint32,)),
    ("nft_ctx_buffer_output", ctypes.c_int, (ctypes.c_void_p,)),
    ("nft_ctx_buffer_error", ctypes.c_int, (ctypes.c_void_p,)),
    ("nft_ctx_get_output_buffer", ctypes.c_char_p, (ctypes.c_void_p,)),
    ("nft_ctx_get_error_buffer", ctypes.c_char_p, (ctypes.c_void_p,)),
    ("nft_ctx_output_set_flags", None, (ctypes.c_void_p, ctypes.c_uint)),
    ("nft_run_cmd_from_buffer", ctypes.c_int, (ctypes.c_void_p, ctypes.c_char_p)),
)


def refused(complaint: str) -> HostLacks:
    """The kernel's refusal, in the first line of what libnftables says."""
    first = complaint.partition("\n")[0].rpartition("Error: ")[2].strip() or "no reason was given"
    hint = "load the kernel's modules: modprobe -a nf_tables nft_ct nft_masq nft_reject_inet" if "No such file" in first else ""
    return HostLacks(f"nftables refuses the rules: {first}", hint=hint)


def _decoded(said: bytes) -> Listing:
    return msgspec.json.decode(said, type=Listing)


# -- other tables -------------------------------------------------------------------------------------------------------------------------------------


class Hooked(msgspec.Struct, frozen=True):
    """A chain of somebody else's that sees what the host passes on. `table` is `FAMILY NAME`."""

    table: str
    name: str
    policy: str


def hooked(listing: Listing) -> list[Hooked]:
    """Those of IPv4 packets that are not ours, from `list chains`."""
    found = []
    for chain in listing.of("chain"):
        ours = chain["family"] == FAMILY and BRIDGE.match(f"br-{chain['table']}")
        if chain.get("hook") == "forward" and chain.get("type") == "filter" and chain["family"] in ("ip", "inet") and not ours:
            found.append(Hooked(f"{chain['family']} {chain['table']}", str(chain["name"]), str(chain.get("policy", "accept"))))
    return found


def judge(chain: Hooked, table: Listing, bridge: str) -> Refusal | None:
    """Whether a chain refuses what nothing else in its table allows, and makes no exception for the bridge."""
    of_chain = [rule for rule in table.of("rule") if rule.get("chain") == chain.name]
    if chain.policy != "drop" and not (of_chain and _refuses_all(of_chain[-1])):
        return None
    names = {str(each["name"]) for each in table.of("chain")}
    fix, ways = remedy(chain, names, bridge)
    if all(any(_allows(rule, way, bridge) for rule in table.of("rule")) for way in ways):
        return None
    return Refusal(chain=f"{chain.table} {chain.name}", fix=fix)


def remedy(chain: Hooked, chains: set[str], bridge: str) -> tuple[str, tuple[str, ...]]:
    """The commands that make an exception, in the words of whoever made the table, and the directions that they name."""
    if "ufw-user-forward" in chains:
        return f"ufw route allow in on {bridge}", ("iifname",)
    if chain.table.endswith(" firewalld"):
        return f"firewall-cmd --permanent --zone=trusted --add-interface={bridge} && firewall-cmd --reload", ("iifname",)
    if chain.table == "ip filter" and chain.name == "FORWARD":
        at = "DOCKER-USER" if "DOCKER-USER" in chains else "FORWARD"
        answers = f"iptables -I {at} -o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
        return f"iptables -I {at} -i {bridge} -j ACCEPT && {answers}", ("iifname", "oifname")
    insert = f"nft insert rule {chain.table} {chain.name}"
    return f"{insert} iifname {bridge} accept && {insert} oifname {bridge} ct state established,related accept", ("iifname", "oifname")


def _expressions(rule: Item) -> list[dict[str, object]]:
    return msgspec.convert(rule.get("expr", []), list[dict[str, object]])


def _refuses_all(rule: Item) -> bool:
    """A rule that drops or rejects without asking anything."""
    kinds = {kind for each in _expressions(rule) for kind in each}
    return bool(kinds & {"drop", "reject"}) and not kinds & {"match", "xt", "vmap", "limit"}


def _allows(rule: Item, way: str, bridge: str) -> bool:
    """A rule about the bridge, in this direction, that accepts or leaves it to another chain."""
    expressions = _expressions(rule)
    kinds = {kind for each in expressions for kind in each}
    return bool(kinds & {"accept", "jump", "goto"}) and any(_matches(each.get("match"), way, bridge) for each in expressions)


def _matches(match: object, way: str, bridge: str) -> bool:
    if not isinstance(match, dict) or match.get("left") != {"meta": {"key": way}} or match.get("op") != "==":
        return False
    right = match.get("right")
    names = right["set"] if isinstance(right, dict) and isinstance(right.get("set"), list) else [right]
    return any(isinstance(name, str) and (name == bridge or (name.endswith("*") and bridge.startswith(name[:-1]))) for name in names)
