"""What is answered to a DNS query: the peer is the library itself, the table a dictionary, and whoever asks may be hostile."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv4Network

import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from banger.daemon import dns as ours
from banger.model.errors import BadRequest
from banger.model.names import Routing, checked_routing, reverse_domain, server

TABLE = {"otter": IPv4Interface("172.30.0.7/16"), "web-1": IPv4Interface("172.30.1.9/16")}


def ask(name: str, kind: str = "A", *, kept: str = "IN", edns: bool = False, payload: int = 1232) -> dns.message.Message:
    query = dns.message.make_query(name, kind, rdclass=kept, use_edns=0 if edns else False, payload=payload)
    response = dns.message.from_wire(ours.answer(query.to_wire(), TABLE, stream=False))
    assert query.is_response(response)
    return response


def said(response: dns.message.Message) -> tuple[str, list[str]]:
    """The code and the records of the answer."""
    return dns.rcode.to_text(response.rcode()), [line for rrset in response.answer for line in rrset.to_text().splitlines()]


def test_a_machine_has_its_address_and_no_cache_keeps_it() -> None:
    response = ask("otter.vm")
    assert said(response) == ("NOERROR", ["otter.vm. 0 IN A 172.30.0.7"])
    assert response.flags & dns.flags.AA
    assert not response.flags & dns.flags.RA


def test_capitals_are_kept_in_the_question_and_mean_nothing() -> None:
    response = ask("OtTeR.Vm")
    assert said(response)[1] == ["OtTeR.Vm. 0 IN A 172.30.0.7"]
    assert str(response.question[0].name) == "OtTeR.Vm."


@pytest.mark.parametrize("name", ["badger.vm", "www.otter.vm", "otter.vm.vm", "*.vm", "_otter.vm", "x" * 63 + ".vm", "ot\\.ter.vm", "\\255.vm"])
def test_a_name_that_no_machine_has_does_not_exist(name: str) -> None:
    response = ask(name)
    assert said(response) == ("NXDOMAIN", [])
    assert [rrset.to_text() for rrset in response.authority] == ["vm. 0 IN SOA localhost. root.localhost. 1 3600 600 86400 0"]


@pytest.mark.parametrize("kind", ["AAAA", "MX", "TXT", "HTTPS", "SOA", "NS", "TYPE65280"])
def test_a_machine_has_no_record_of_another_kind_and_that_is_no_missing_name(kind: str) -> None:
    response = ask("otter.vm", kind)
    assert said(response) == ("NOERROR", [])
    assert [rrset.rdtype for rrset in response.authority] == [dns.rdatatype.SOA]


@pytest.mark.parametrize("name", ["example.org", ".", "vm.example.org", "ottervm", "7.0.31.172.in-addr.arpa", "arpa", "otter.vm.local"])
def test_what_is_not_ours_is_refused(name: str) -> None:
    response = ask(name)
    assert said(response) == ("REFUSED", [])
    assert not response.authority
    assert not response.flags & dns.flags.AA


def test_an_address_has_its_machines_name() -> None:
    assert said(ask("9.1.30.172.in-addr.arpa", "PTR")) == ("NOERROR", ["9.1.30.172.in-addr.arpa. 0 IN PTR web-1.vm."])


def test_an_address_of_the_network_without_a_machine_does_not_exist() -> None:
    response = ask("8.1.30.172.in-addr.arpa", "PTR")
    assert said(response) == ("NXDOMAIN", [])
    assert str(response.authority[0].name) == "30.172.in-addr.arpa."


@pytest.mark.parametrize("name", ["1.30.172.in-addr.arpa", "30.172.in-addr.arpa", "vm"])
def test_what_lies_above_a_name_exists_without_an_address(name: str) -> None:
    assert said(ask(name, "A")) == ("NOERROR", [])


@pytest.mark.parametrize("name", ["1.9.1.30.172.in-addr.arpa", "09.1.30.172.in-addr.arpa", "1\\.9.30.172.in-addr.arpa", "x.1.30.172.in-addr.arpa"])
def test_what_is_no_address_has_no_name(name: str) -> None:
    assert said(ask(name, "PTR")) == ("NXDOMAIN", [])


@pytest.mark.parametrize(("kind", "count"), [("SOA", 1), ("NS", 1), ("ANY", 2)])
def test_the_zone_says_who_speaks_for_it(kind: str, count: int) -> None:
    assert len(said(ask("vm", kind))[1]) == count


@pytest.mark.parametrize(("kind", "kept"), [("AXFR", "IN"), ("IXFR", "IN"), ("A", "CH"), ("A", "ANY")])
def test_the_zone_is_not_handed_out(kind: str, kept: str) -> None:
    assert said(ask("vm", kind, kept=kept)) == ("REFUSED", [])


def test_edns_is_answered_with_edns_and_an_unknown_version_of_it_told_so() -> None:
    assert ask("otter.vm", edns=True).edns == 0
    assert ask("otter.vm").edns == -1
    newer = dns.message.make_query("otter.vm", "A")
    newer.use_edns(5)
    assert dns.message.from_wire(ours.answer(newer.to_wire(), TABLE, stream=False)).rcode() is dns.rcode.BADVERS


def test_other_operations_are_not_implemented() -> None:
    query = dns.message.make_query("otter.vm", "A")
    query.set_opcode(dns.opcode.NOTIFY)
    assert dns.message.from_wire(ours.answer(query.to_wire(), TABLE, stream=False)).rcode() is dns.rcode.NOTIMP


def test_an_answer_is_not_answered() -> None:
    query = dns.message.make_query("otter.vm", "A")
    assert ours.answer(ours.answer(query.to_wire(), TABLE, stream=False), TABLE, stream=False) == b""


def test_two_questions_at_once_are_none() -> None:
    query = dns.message.make_query("otter.vm", "A")
    query.question.append(dns.rrset.RRset(query.question[0].name, dns.rdataclass.IN, dns.rdatatype.AAAA))
    assert dns.message.from_wire(ours.answer(query.to_wire(), TABLE, stream=False)).rcode() is dns.rcode.FORMERR


def test_a_query_longer_than_any_is_not_read() -> None:
    query = dns.message.make_query("otter.vm", "A").to_wire()
    assert ours.answer(query + bytes(ours.LONGEST_QUERY), TABLE, stream=True)[3] & 15 == dns.rcode.FORMERR


@pytest.mark.parametrize(
    ("payload", "stream", "most"), [(None, False, 512), (100, False, 512), (900, False, 900), (65535, False, 1232), (None, True, 65535)]
)
def test_how_long_an_answer_may_be_is_said_by_who_asks_and_bounded(payload: int | None, stream: bool, most: int) -> None:
    query = dns.message.make_query("otter.vm", "A", use_edns=False) if payload is None else dns.message.make_query("otter.vm", "A", payload=payload)
    assert ours.limit(query, stream=stream) == most


def test_what_does_not_fit_a_datagram_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    long = {kind: f'"{"x" * 200}"' for kind in (dns.rdatatype.TXT, dns.rdatatype.SPF, dns.rdatatype.AVC)}
    monkeypatch.setattr(ours, "records", lambda *_: long)
    query = dns.message.make_query("otter.vm", "ANY", use_edns=False).to_wire()
    short = ours.answer(query, TABLE, stream=False)
    assert len(short) <= 512
    assert dns.message.from_wire(short).flags & dns.flags.TC
    assert not dns.message.from_wire(ours.answer(query, TABLE, stream=True)).flags & dns.flags.TC


QUERY = dns.message.make_query("otter.vm", "A", use_edns=0).to_wire()
NAMES = st.lists(st.binary(min_size=1, max_size=20), max_size=9)


def judge(query: bytes) -> None:
    """An answer to whatever it is: none, or one that fits, belongs to the query, and can be read."""
    for stream in (False, True):
        made = ours.answer(query, TABLE, stream=stream)
        assert len(made) <= (65535 if stream else 1232)
        if made:
            response = dns.message.from_wire(made)
            assert response.id == int.from_bytes(query[:2], "big")
            assert response.flags & dns.flags.QR


@given(st.binary(max_size=1500))
@example(b"")
@example(bytes(12))
@example(bytes(11) + b"\xff")
@example(QUERY[:12] + b"\xc0\x0c\0\1\0\1")  # a name that points to itself
def test_no_bytes_break_it(query: bytes) -> None:
    judge(query)


@given(st.lists(st.tuples(st.integers(0, len(QUERY) - 1), st.integers(0, 255)), max_size=8), st.integers(0, len(QUERY)), st.binary(max_size=40))
def test_no_damaged_query_breaks_it(damage: list[tuple[int, int]], cut: int, more: bytes) -> None:
    query = bytearray(QUERY)
    for place, value in damage:
        query[place] = value
    judge(bytes(query[:cut]) + more)


@given(NAMES, st.sampled_from([b"\2vm\0", b"\x0230\x03172\7in-addr\4arpa\0", b"\0"]), st.integers(0, 65535), st.integers(0, 65535))
def test_no_name_kind_or_class_breaks_it(labels: list[bytes], zone: bytes, kind: int, kept: int) -> None:
    name = b"".join(bytes([len(label)]) + label for label in labels) + zone
    judge(QUERY[:4] + b"\0\1" + bytes(6) + name + kind.to_bytes(2, "big") + kept.to_bytes(2, "big"))


# --- what is emitted


@given(st.integers(1, 65535), st.integers(0, 2**32 - 1), st.integers(0, 32))
def test_whatever_is_asked_of_the_resolver_is_allowed_to_be(port: int, address: int, prefix: int) -> None:
    network = IPv4Network((address, prefix), strict=False)
    routing = Routing(link="br-banger", port=port, domains=("vm", reverse_domain(network)))
    assert checked_routing(routing) is routing
    assert server(port) == f"127.0.0.1:{port}"


@pytest.mark.parametrize(
    "change",
    [
        {"link": ""}, {"link": "a/b"}, {"link": "-x"}, {"link": "x" * 16}, {"link": "br banger"}, {"link": "eth0\n"},
        {"port": 0}, {"port": 65536}, {"port": -1},
        {"domains": ()}, {"domains": ("",)}, {"domains": (".",)}, {"domains": ("~",)}, {"domains": ("~.",)}, {"domains": ("-x",)},
        {"domains": ("vm", "a b")},
    ],
)  # fmt: skip
def test_what_is_never_meant_is_never_asked_of_the_resolver(change: dict[str, object]) -> None:
    fields: dict[str, object] = {"link": "br-banger", "port": 42069, "domains": ("vm",)} | change
    with pytest.raises(BadRequest):
        checked_routing(Routing(**fields))  # type: ignore[arg-type]
