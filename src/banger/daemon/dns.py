"""Decide: what is answered to a DNS query about machines. Pure: a query's bytes and a table of names in, an answer's bytes out.

We speak for the zone `vm.` and, backwards, for the machines' own networks (RFC 1035, 2308, 6891); nothing is looked up elsewhere, and whoever asks for
something else is refused. Answers are not to be kept (TTL 0): machines come and go. Queries are hostile: what cannot be read is answered with an error
or not at all, and a datagram is never answered with more than fits one.
The library is imported with this module, and all of it that our answers need, so that no query has to wait for that.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from ipaddress import IPv4Interface

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.NS
import dns.rdtypes.ANY.PTR
import dns.rdtypes.ANY.SOA
import dns.rdtypes.IN.A
import dns.rrset

from banger.model.names import ZONE, reverse_domain

HEADER = struct.Struct("!HHHHHH")
#: The longest query that is read: a name of 255 bytes and every option there is fit several times, and reading stays quick.
LONGEST_QUERY = 1232
#: What a datagram carries without EDNS (RFC 1035), and at most with it: more would not pass every path in one piece (DNS flag day 2020).
PLAIN_DATAGRAM, LARGEST_DATAGRAM, LARGEST_STREAM = 512, 1232, 65535
ORIGIN = dns.name.from_text(ZONE)
REVERSE = dns.name.from_text("in-addr.arpa")
#: The server's name: whoever reads it is on the same host.
SERVER = "localhost."
#: Never delegated, so serial and timers mean nothing; the last is how long a negative answer may be kept (RFC 2308).
SOA = f"{SERVER} root.{SERVER} 1 3600 600 86400 0"
TTL = 0

Table = Mapping[str, IPv4Interface]
"""Machines' names and addresses, each with the network it is in."""

Records = dict[dns.rdatatype.RdataType, str]


def answer(query: bytes, table: Table, *, stream: bool) -> bytes:
    """The answer to a query that came in a datagram or over a stream; empty when it deserves none (too short, or itself an answer)."""
    if len(query) < HEADER.size:
        return b""
    number, bits, *_ = HEADER.unpack_from(query)
    if bits & dns.flags.QR:
        return b""
    if dns.opcode.from_flags(bits) is not dns.opcode.QUERY:
        return bare(number, bits, dns.rcode.NOTIMP)
    if len(query) > LONGEST_QUERY:
        return bare(number, bits, dns.rcode.FORMERR)
    try:
        asked = dns.message.from_wire(query)
    except dns.exception.DNSException:
        return bare(number, bits, dns.rcode.FORMERR)
    if len(asked.question) != 1:
        return bare(number, bits, dns.rcode.FORMERR)
    return respond(asked, table).to_wire(max_size=limit(asked, stream=stream), prefer_truncation=True)


def bare(number: int, bits: int, code: dns.rcode.Rcode) -> bytes:
    """An error to a query that is not read: its number, opcode and wish for recursion, and no question."""
    kept = bits & (0x7800 | dns.flags.RD)
    return HEADER.pack(number, dns.flags.QR | kept | code, 0, 0, 0, 0)


def limit(asked: dns.message.Message, *, stream: bool) -> int:
    """How long the answer may be."""
    if stream:
        return LARGEST_STREAM
    return min(max(PLAIN_DATAGRAM, asked.payload if asked.edns >= 0 else 0), LARGEST_DATAGRAM)


def respond(asked: dns.message.Message, table: Table) -> dns.message.Message:
    """The answer as a message."""
    response = dns.message.make_response(asked, our_payload=LARGEST_DATAGRAM)
    question = asked.question[0]
    zone = zone_of(question.name, table)
    if asked.edns > 0:
        response.set_rcode(dns.rcode.BADVERS)
        return response
    if zone is None or question.rdclass is not dns.rdataclass.IN or question.rdtype in (dns.rdatatype.AXFR, dns.rdatatype.IXFR):
        response.set_rcode(dns.rcode.REFUSED)
        return response
    response.flags |= dns.flags.AA
    found = records(question.name, zone, table)
    if found is None:
        response.set_rcode(dns.rcode.NXDOMAIN)
    wanted = {kind: text for kind, text in (found or {}).items() if question.rdtype in (kind, dns.rdatatype.ANY)}
    response.answer = [record(question.name, kind, text) for kind, text in wanted.items()]
    if not wanted:
        response.authority = [record(zone, dns.rdatatype.SOA, SOA)]
    return response


def record(name: dns.name.Name, kind: dns.rdatatype.RdataType, text: str) -> dns.rrset.RRset:
    """One record."""
    return dns.rrset.from_text(name, TTL, dns.rdataclass.IN, kind, text)


def zone_of(name: dns.name.Name, table: Table) -> dns.name.Name | None:
    """The zone of ours that a name is in, if any."""
    if name.is_subdomain(ORIGIN):
        return ORIGIN
    networks = {address.network for address in table.values()}
    zones = (dns.name.from_text(reverse_domain(network)) for network in networks)
    return next((zone for zone in zones if name.is_subdomain(zone)), None)


def records(name: dns.name.Name, zone: dns.name.Name, table: Table) -> Records | None:
    """What there is under a name in one of our zones; None when there is no such name."""
    if name == zone:
        return {dns.rdatatype.SOA: SOA, dns.rdatatype.NS: SERVER}
    if zone == ORIGIN:
        address = table.get(label(name))
        return {dns.rdatatype.A: str(address.ip)} if address is not None else None
    return pointer(name, table)


def label(name: dns.name.Name) -> str:
    """A machine's name, if this is one: a single label below the zone. Else nothing that is in a table."""
    below = name.relativize(ORIGIN).labels
    return below[0].lower().decode("ascii", "replace") if len(below) == 1 else ""


def pointer(name: dns.name.Name, table: Table) -> Records | None:
    """The machine that has an address; an address's beginning exists, but has no records."""
    octets = [text.decode("ascii", "replace") for text in reversed(name.relativize(REVERSE).labels)]
    found = next((machine for machine, address in table.items() if str(address.ip).split(".") == octets), None)
    if found is not None:
        return {dns.rdatatype.PTR: f"{found}.{ZONE}"}
    beginnings = {tuple(str(address.ip).split(".")[: len(octets)]) for address in table.values()}
    return {} if len(octets) < 4 and tuple(octets) in beginnings else None
