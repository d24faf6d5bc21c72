"""Which frames pass the sieve, however the stream is cut."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.host.sieve import BATCH, LARGEST, LINK, MESSAGE, Broken, handed, plugged, pump, sift, taken


def ethernet(kind: int, payload: bytes) -> bytes:
    return bytes(12) + struct.pack(">H", kind) + payload


def ipv4(destination: str, data: bytes = b"") -> bytes:
    return ethernet(0x0800, b"\x45" + bytes(15) + socket.inet_aton(destination) + data)


def sent(*frames: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(frame)) + frame for frame in frames)


ARP = ethernet(0x0806, bytes(28))


@pytest.mark.parametrize("destination", ["127.0.0.1", "127.0.0.53", "127.255.255.255", "0.0.0.0", "0.1.2.3"])
def test_the_loopback_is_not_reached(destination: str) -> None:
    assert sift(sent(ARP, ipv4(destination, b"data"), ARP)) == (sent(ARP, ARP), b"")


@pytest.mark.parametrize("destination", ["10.0.2.2", "8.8.8.8", "192.168.127.1", "128.0.0.1", "126.255.0.1", "255.255.255.255"])
def test_all_else_is(destination: str) -> None:
    assert sift(sent(ipv4(destination))) == (sent(ipv4(destination)), b"")


@pytest.mark.parametrize(
    "frame",
    [b"", bytes(13), ethernet(0x86DD, bytes(40)), ethernet(0x8100, bytes(4) + ipv4("10.0.2.2")), ethernet(0x0800, bytes(19))],
    ids=["empty", "shorter than a header", "IPv6", "VLAN", "half an IP header"],
)
def test_what_is_neither_arp_nor_ipv4_is_dropped(frame: bytes) -> None:
    assert sift(sent(frame)) == (b"", b"")


def test_a_length_that_no_frame_has_ends_the_stream() -> None:
    with pytest.raises(Broken):
        sift(struct.pack(">I", LARGEST + 1))


FRAMES = st.lists(st.tuples(st.sampled_from(["127.0.0.1", "0.0.0.0", "10.0.2.2", "1.1.1.1"]), st.binary(max_size=64)), max_size=12)


@given(frames=FRAMES, cuts=st.lists(st.integers(0, 1200), max_size=6))
def test_it_does_not_matter_how_the_stream_is_cut(frames: list[tuple[str, bytes]], cuts: list[int]) -> None:
    stream = sent(*(ipv4(destination, data) for destination, data in frames))
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    passed, rest = b"", b""
    for begin, end in pairwise(edges):
        some, rest = sift(rest + stream[begin:end])
        passed += some
    assert rest == b""
    assert passed == sent(*(ipv4(destination, data) for destination, data in frames if destination not in ("127.0.0.1", "0.0.0.0")))


def test_frames_move_both_ways_until_one_side_ends() -> None:
    vmm, guest = socket.socketpair()
    passt, network = socket.socketpair()
    worker = threading.Thread(target=pump, args=(guest, passt), kwargs={"open_": False})
    worker.start()
    vmm.sendall(sent(ipv4("127.0.0.1"), ipv4("10.0.2.2", b"out")))
    network.sendall(sent(ipv4("127.0.0.1", b"in")))
    out, back = sent(ipv4("10.0.2.2", b"out")), sent(ipv4("127.0.0.1", b"in"))
    for end, expected in ((network, out), (vmm, back)):
        end.settimeout(5)
        assert end.recv(len(expected) + 1) == expected
    vmm.close()
    worker.join(5)
    assert not worker.is_alive()
    for end in (guest, passt, network):
        end.close()


# --- a TAP


def link_message(flags: int, kind: int = 16) -> bytes:
    body = LINK.pack(0, 1, 2, flags, 0) + b"\x08\0\x04\0\xf1\xff\0\0"
    return MESSAGE.pack(MESSAGE.size + len(body), kind, 0, 0, 0) + body


UP, DOWN = link_message(0x11043), link_message(0x1003)


@pytest.mark.parametrize(
    ("events", "before", "after"),
    [
        (UP, False, True),
        (DOWN, True, False),
        (UP + DOWN, False, False),
        (DOWN + UP, True, True),
        (link_message(0, kind=17), True, True),
        (b"", True, True),
        (UP[:20], False, False),
        (MESSAGE.pack(0, 16, 0, 0, 0) + DOWN, True, False),
    ],
    ids=["in", "out", "in and out", "out and in", "another message", "nothing", "half a message", "a message without a length"],
)
def test_a_cable_is_in_as_long_as_the_kernel_says_so(events: bytes, before: bool, after: bool) -> None:
    assert plugged(events, before) is after


@pytest.fixture
def frames() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A card, and what is on its wire; each message is a frame."""
    card, wire = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    card.setblocking(False)
    yield card, wire
    card.close()
    wire.close()


def test_what_the_guest_sends_is_sifted(frames: tuple[socket.socket, socket.socket]) -> None:
    card, wire = frames
    for frame in (ARP, ipv4("127.0.0.1"), ipv4("10.0.2.2", b"out"), ethernet(0x86DD, bytes(40)), b"short"):
        wire.send(frame)
    assert taken(card, open_=False) == sent(ARP, ipv4("10.0.2.2", b"out"))
    wire.send(ipv4("127.0.0.1"))
    assert taken(card, open_=True) == sent(ipv4("127.0.0.1"))
    assert taken(card, open_=False) == b""


def test_a_guest_that_never_stops_sending_does_not_keep_the_other_side_waiting(frames: tuple[socket.socket, socket.socket]) -> None:
    card, wire = frames
    for _ in range(BATCH + 1):
        wire.send(ARP)
    assert taken(card, open_=False) == sent(*[ARP] * BATCH)
    assert taken(card, open_=False) == sent(ARP)


def test_the_guest_is_given_whole_frames_and_what_it_cannot_take_is_lost(frames: tuple[socket.socket, socket.socket]) -> None:
    card, wire = frames
    stream = sent(ARP, ipv4("10.0.2.15", b"in"))
    rest = handed(card, stream[:50])
    assert wire.recv(2000) == ARP
    assert handed(card, rest + stream[50:]) == b""
    assert wire.recv(2000) == ipv4("10.0.2.15", b"in")
    wire.close()
    assert handed(card, stream) == b""
