"""The wire: what is sent arrives, however it is cut; what breaks a rule is refused; and Go and Python agree on the bytes."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger import wire

TAG = 0x01020304
KINDS = range(wire.OPEN, wire.PART + 1)
Event = list[object]


class Encoding(TypedDict):
    name: str
    tag: int
    kind: int
    stream: int
    payload: list[str]
    bytes: list[str]


class Refusal(TypedDict):
    name: str
    tag: int
    bytes: list[str]
    frames: list[list[int | str]]
    rest: list[str]


class Talk(TypedDict):
    name: str
    bytes: list[str]
    events: list[Event]


class Vectors(TypedDict):
    about: str
    encode: list[Encoding]
    refuse: list[Refusal]
    guest: list[Talk]


VECTORS: Vectors = json.loads((Path(__file__).parents[1] / "vectors" / "wire.json").read_text())

frames = st.builds(
    lambda kind, stream, payload: wire.Frame((kind, stream, payload)),
    st.sampled_from(KINDS),
    st.integers(1, 2**32 - 1),
    st.binary(max_size=300) | st.binary(max_size=40).map(lambda piece: (piece * 1700)[: wire.MAX_PAYLOAD]),
)


def joined(pieces: list[str]) -> bytes:
    """Pieces of a vector: hex, perhaps `*N`."""
    parts = [piece.partition("*") for piece in pieces]
    return b"".join(bytes.fromhex(text) * int(count or 1) for text, _, count in parts)


def encoded(frame: wire.Frame, tag: int = TAG) -> bytes:
    return wire.encode(frame.kind, frame.stream, frame.payload, tag=tag)


def hello(epoch: int, **more: object) -> bytes:
    return wire.encode_json(wire.HELLO, 0, {"wire": 1, "epoch": epoch, "version": "0.1.0", **more}, tag=epoch)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in at)})
    return [data[a:b] for a, b in pairwise(places)]


def guest(pieces: list[bytes]) -> list[Event]:
    """What an agent makes of bytes: hunt, talk, and hunt again when the conversation breaks."""
    events: list[Event] = []
    hunter: wire.Hunter | None = wire.Hunter(None)
    decoder = wire.Decoder(0)
    for piece in pieces:
        while True:
            if hunter is not None:
                found = hunter.feed(piece)
                if found is None:
                    break
                events.append(["hello", found["epoch"]])
                decoder, piece, hunter = wire.Decoder(int(str(found["epoch"]))), hunter.rest, None
            try:
                events += [["frame", kind, stream, data.hex()] for kind, stream, data in decoder.feed(piece)]
                break
            except wire.WireError as error:
                events += [["frame", kind, stream, data.hex()] for kind, stream, data in error.frames]
                events.append(["broken"])
                hunter, piece = wire.Hunter(None), error.rest
    return events


@pytest.mark.parametrize("case", VECTORS["encode"], ids=lambda case: case["name"])
def test_a_frame_has_the_bytes_of_the_vectors(case: Encoding) -> None:
    whole = wire.encode(case["kind"], case["stream"], joined(case["payload"]), tag=case["tag"])
    assert whole == joined(case["bytes"])
    if case["kind"] != wire.HELLO:
        assert wire.Decoder(case["tag"]).feed(whole) == [(case["kind"], case["stream"], joined(case["payload"]))]


@pytest.mark.parametrize("case", VECTORS["refuse"], ids=lambda case: case["name"])
def test_a_broken_frame_is_refused_and_those_before_it_are_kept(case: Refusal) -> None:
    with pytest.raises(wire.WireError) as caught:
        wire.Decoder(case["tag"]).feed(joined(case["bytes"]))
    assert [[kind, stream, data.hex()] for kind, stream, data in caught.value.frames] == case["frames"]
    assert caught.value.rest == joined(case["rest"])


@pytest.mark.parametrize("step", [1 << 30, 4093, 7])
@pytest.mark.parametrize("case", VECTORS["guest"], ids=lambda case: case["name"])
def test_a_guest_finds_the_next_conversation(case: Talk, step: int) -> None:
    data = joined(case["bytes"])
    assert guest([data[at : at + step] for at in range(0, len(data), step)]) == case["events"]


@given(st.lists(frames, max_size=6), st.lists(st.integers(0, 10**6), max_size=20), st.integers(1, 2**32 - 1))
def test_what_is_sent_arrives_wherever_it_is_cut(sent: list[wire.Frame], at: list[int], tag: int) -> None:
    decoder = wire.Decoder(tag)
    data = b"".join(encoded(frame, tag) for frame in sent)
    assert [frame for piece in cut(data, at) for frame in decoder.feed(piece)] == sent
    assert decoder.pending() == 0


@given(st.binary(max_size=2000), st.lists(st.integers(0, 10**6), max_size=8))
def test_garbage_never_becomes_a_frame_nor_any_other_error(noise: bytes, at: list[int]) -> None:
    decoder = wire.Decoder(TAG)
    try:
        got = [frame for piece in cut(noise, at) for frame in decoder.feed(piece)]
    except wire.WireError:
        return
    assert got == [] or TAG.to_bytes(4, "big") in noise
    assert decoder.pending() <= wire.MAX_FRAME


@given(st.binary(max_size=3000), st.lists(st.integers(0, 10**6), max_size=9), st.binary(max_size=80))
def test_a_host_finds_its_hello_after_any_leftover(noise: bytes, at: list[int], after: bytes) -> None:
    hunter = wire.Hunter(TAG)
    pieces = cut(noise + wire.MARKER + hello(5) + wire.MARKER + hello(TAG, boot_id="b") + after, at)
    found = [(result, hunter.rest, index) for index, piece in enumerate(pieces) if (result := hunter.feed(piece))][:1]
    ((answer, rest, index),) = found
    assert answer == {"wire": 1, "epoch": TAG, "version": "0.1.0", "boot_id": "b"}
    assert rest + b"".join(pieces[index + 1 :]) == after


def test_a_host_gives_up_on_a_peer_that_only_makes_noise() -> None:
    hunter = wire.Hunter(TAG)
    for _ in range(wire.MAX_HUNT // 4096):
        assert hunter.feed(b"\0" * 4096) is None
    with pytest.raises(wire.WireError, match="no agent"):
        hunter.feed(b"\0")


@pytest.mark.parametrize("payload", [b"[" * 60_000, b"[]", b"\xff", b"", b'{"a":', b"1" * 5000, b'{"wire":true,"epoch":16909060}'])
def test_a_hostile_hello_is_passed_over(payload: bytes) -> None:
    hunter = wire.Hunter(TAG)
    assert hunter.feed(wire.MARKER + wire.encode(wire.HELLO, 0, payload, tag=TAG)) is None
    assert hunter.feed(wire.MARKER + hello(TAG)) is not None


def test_a_payload_over_the_limit_is_not_sent() -> None:
    with pytest.raises(wire.WireError, match="over the limit"):
        wire.encode(wire.DATA, 1, bytes(wire.MAX_PAYLOAD + 1), tag=TAG)


def test_text_that_is_not_unicode_is_not_sent() -> None:
    with pytest.raises(wire.WireError, match="not representable"):
        wire.encode_json(wire.OPEN, 1, {"argv": ["\udcff"]}, tag=TAG)


def test_a_decoder_keeps_no_more_than_one_frame() -> None:
    decoder = wire.Decoder(TAG)
    data = encoded(wire.Frame((wire.DATA, 1, bytes(wire.MAX_PAYLOAD)))) * 9
    highest = 0
    for at in range(0, len(data), 50_000):
        decoder.feed(data[at : at + 50_000])
        highest = max(highest, decoder.pending())
    assert highest < wire.MAX_FRAME


@given(st.lists(st.integers(1, 70_000), max_size=60))
def test_credit_comes_back_in_portions_and_is_never_lost(reads: list[int]) -> None:
    near, far = wire.Meter(), wire.Meter()
    near.grant(far.window)
    for wanted in reads:
        size = min(wanted, near.available)
        assert size > 0
        near.spend(size)
        far.receive(size)
        portion = far.consume(size)
        assert portion == 0 or portion * 4 >= far.window
        near.grant(portion)
    assert near.available * 4 > far.window * 2


def test_a_peer_that_exceeds_its_credit_is_broken() -> None:
    meter = wire.Meter(10)
    meter.receive(10)
    with pytest.raises(wire.WireError):
        meter.receive(1)
    with pytest.raises(wire.WireError):
        meter.spend(1)
    meter.grant(wire.MAX_CREDIT)
    with pytest.raises(wire.WireError):
        meter.grant(1)


def test_a_credit_frame_carries_a_count() -> None:
    ((_, stream, payload),) = wire.Decoder(TAG).feed(wire.encode_credit(3, 70_000, tag=TAG))
    assert (stream, wire.decode_credit(payload)) == (3, 70_000)
    with pytest.raises(wire.WireError):
        wire.decode_credit(b"\0")


@pytest.mark.parametrize("size", [0, wire.MAX_PAYLOAD, wire.MAX_PAYLOAD + 1, wire.MAX_REQUEST - 100])
def test_a_request_comes_in_parts_of_which_the_last_opens(size: int) -> None:
    request = {"op": "exec", "argv": ["true", "x" * size]}
    *parts, last = wire.Decoder(TAG).feed(wire.encode_request(7, request, tag=TAG))
    assert [(part.kind, part.stream, len(part.payload)) for part in parts] == [(wire.PART, 7, wire.MAX_PAYLOAD)] * len(parts)
    assert (last.kind, last.stream) == (wire.OPEN, 7)
    assert wire.decode_json(b"".join([*(part.payload for part in parts), last.payload])) == request


@pytest.mark.parametrize(("limit", "most"), [(wire.MAX_REQUEST, wire.MAX_REQUEST), (1 << 40, wire.MAX_REQUEST), (65_536, 65_536), (-1, -1)])
def test_a_request_that_is_longer_than_a_guest_takes_is_refused_with_both_sizes(limit: int, most: int) -> None:
    request = {"op": "exec", "argv": ["x" * wire.MAX_REQUEST]}
    with pytest.raises(wire.WireError, match=f"it has 20971[0-9]{{2}} bytes .*, and may have {most}"):
        wire.encode_request(7, request, tag=TAG, limit=limit)
