"""Messages for the system bus, byte for byte as another implementation of D-Bus makes them, and what comes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.host.bus import DESTINATION, INTERFACE, MEMBER, PATH, Value, complete_types, header_fields, message

PLACE, SERVICE = "/org/freedesktop/resolve1", "org.freedesktop.resolve1"
DOMAINS = """
6c0102013400000002000000a400000001016f00190000002f6f72672f667265656465736b746f702f7265736f6c7665310000000000000002017300200000006f72672e667265656465
736b746f702e7265736f6c7665312e4d616e616765720000000000000000030173000e0000005365744c696e6b446f6d61696e73000006017300180000006f72672e6672656564657
36b746f702e7265736f6c766531000000000000000008016700066961287362290000000000070000002c00000002000000766d000001000000000000001300000033302e3137322e69
6e2d616464722e617270610001000000
"""
SERVER = """
6c0102011d00000002000000a700000001016f00190000002f6f72672f667265656465736b746f702f7265736f6c7665310000000000000002017300200000006f72672e667265656465
736b746f702e7265736f6c7665312e4d616e616765720000000000000000030173000c0000005365744c696e6b444e5345780000000006017300180000006f72672e66726565646573
6b746f702e7265736f6c766531000000000000000008016700096961286961797173290000070000001500000002000000040000007f00000155a400000000000000
"""
SWITCH = """
6c0102010800000002000000a800000001016f00190000002f6f72672f667265656465736b746f702f7265736f6c7665310000000000000002017300200000006f72672e667265656465
736b746f702e7265736f6c7665312e4d616e61676572000000000000000003017300130000005365744c696e6b44656661756c74526f757465000000000006017300180000006f72672e
667265656465736b746f702e7265736f6c766531000000000000000008016700026962000700000000000000
"""


@pytest.mark.parametrize(
    ("member", "signature", "values", "wanted"),
    [
        ("SetLinkDomains", "ia(sb)", [7, [["vm", True], ["30.172.in-addr.arpa", True]]], DOMAINS),
        ("SetLinkDNSEx", "ia(iayqs)", [7, [[2, b"\x7f\0\0\1", 42069, ""]]], SERVER),
        ("SetLinkDefaultRoute", "ib", [7, False], SWITCH),
    ],
)
def test_a_call_has_the_bytes_that_others_send(member: str, signature: str, values: list[Value], wanted: str) -> None:
    fields = {PATH: ("o", PLACE), INTERFACE: ("s", f"{SERVICE}.Manager"), MEMBER: ("s", member), DESTINATION: ("s", SERVICE)}
    assert message(2, fields, signature, values) == bytes.fromhex("".join(wanted.split()))


def test_a_signature_is_taken_apart_into_complete_types() -> None:
    assert complete_types("ia(iayqs)a(sb)aay") == ["i", "a(iayqs)", "a(sb)", "aay"]


def test_the_fields_of_a_header_are_read() -> None:
    data = bytes.fromhex("".join(SERVER.split()))
    assert header_fields(data[16 : 16 + data[12]])[MEMBER] == "SetLinkDNSEx"
    assert header_fields(b"\5\1u\0\7\0\0\0") == {5: 7}


@given(st.binary(max_size=200))
def test_a_header_that_no_bus_sends_is_an_error_of_one_kind(data: bytes) -> None:
    try:
        header_fields(data)
    except ValueError:
        return
