"""Signatures in minisign's form: hers are right, all others are refused, whatever their bytes are."""

from __future__ import annotations

import base64
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from banger.daemon.signatures import verify
from banger.model.errors import BadRequest, Corrupt
from banger.model.minisign import parse_key, parse_signature
from tests.signer import Signer

ALICE, MALLORY = Signer(1), Signer(2)
TEXT = b'{"version": 1, "serial": 1, "images": []}'


def swapped(data: bytes, number: int, line: bytes) -> bytes:
    lines = data.split(b"\n")
    lines[number] = line
    return b"\n".join(lines)


GOOD = ALICE.sign(TEXT)
BAD: dict[str, bytes] = {
    "of something else": ALICE.sign(b"other"),
    "by another key": MALLORY.sign(TEXT),
    "by another key that says it is hers": Signer(2, ALICE.id).sign(TEXT),
    "of another kind": ALICE.sign(TEXT, algorithm=b"Eq"),
    "hashed, but said not to be": ALICE.sign(TEXT, algorithm=b"Ed"),
    "not hashed, but said to be": ALICE.sign(TEXT, legacy=True, algorithm=b"ED"),
    "with a comment that was not signed": swapped(GOOD, 2, b"trusted comment: timestamp:2"),
    "with a signed comment of another file": swapped(GOOD, 3, ALICE.sign(b"other").split(b"\n")[3]),
    "without a comment": b"\n".join(GOOD.split(b"\n")[:2]),
    "with more lines": GOOD + b"more\n",
    "empty": b"",
    "short": swapped(GOOD, 1, base64.b64encode(base64.b64decode(GOOD.split(b"\n")[1])[:-1])),
    "long": swapped(GOOD, 1, base64.b64encode(base64.b64decode(GOOD.split(b"\n")[1]) + b"x")),
    "no base64": swapped(GOOD, 1, b"!" * 100),
    "with lines as on another system": GOOD.replace(b"\n", b"\r\n"),
    "with a comment beyond all bounds": ALICE.sign(TEXT, comment=b"x" * 20_000),
    "with nobody's key": Signer(1, bytes(8)).sign(TEXT),
}


@pytest.mark.parametrize("signature", BAD.values(), ids=BAD.keys())
def test_a_signature_that_is_not_hers_is_refused(signature: bytes) -> None:
    with pytest.raises(Corrupt):
        verify(parse_key(ALICE.key), TEXT, signature, "it")


@pytest.mark.parametrize("legacy", [False, True])
def test_hers_is_right_in_both_ways_and_says_what_was_signed_with_it(legacy: bool) -> None:
    assert verify(parse_key(ALICE.key), TEXT, ALICE.sign(TEXT, comment=b"made \xff today", legacy=legacy), "it") == "made \ufffd today"


@pytest.mark.parametrize("length", range(0, len(GOOD) - 1, 7))
def test_a_signature_that_was_cut_is_refused(length: int) -> None:
    with pytest.raises(Corrupt):
        verify(parse_key(ALICE.key), TEXT, GOOD[:length], "it")


@settings(max_examples=300)
@given(changes=st.lists(st.tuples(st.integers(0, len(GOOD)), st.binary(max_size=4)), min_size=1, max_size=4), cut=st.integers(0, 40))
def test_a_mutated_signature_is_refused_or_says_the_same(changes: list[tuple[int, bytes]], cut: int) -> None:
    made = bytearray(GOOD)
    for at, data in changes:
        made[at : at + len(data)] = data
    mutated = bytes(made[: len(made) - cut])
    with suppress(Corrupt):
        assert verify(parse_key(ALICE.key), TEXT, mutated, "it") == "timestamp:1"
        assert mutated.split(b"\n")[1:4] == GOOD.split(b"\n")[1:4], "only the comment that nobody vouches for may differ"


@settings(max_examples=200)
@given(data=st.binary(max_size=400))
def test_anything_at_all_is_no_signature_and_no_key(data: bytes) -> None:
    with pytest.raises(Corrupt):
        parse_signature(data, "it")
    with pytest.raises(BadRequest):
        parse_key(data.decode("latin-1"))


@settings(max_examples=200)
@given(at=st.integers(0, len(TEXT) - 1), flip=st.integers(1, 255))
def test_a_changed_byte_is_seen(at: int, flip: int) -> None:
    made = bytearray(TEXT)
    made[at] ^= flip
    with pytest.raises(Corrupt):
        verify(parse_key(ALICE.key), bytes(made), GOOD, "it")
