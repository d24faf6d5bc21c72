"""What a file is its bytes say: the file systems that a machine can have as its root, a qcow2 file that is whole in itself; all else has a reason."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.model.errors import BadRequest, BangerError, Corrupt
from banger.model.volume import HEAD, LARGEST, Kind, Volume, recognise

MIB = 1 << 20


def ext4(*, blocks: int = 1024, log_size: int = 2, state: int = 1, incompatible: int = 0) -> bytearray:
    head = bytearray(HEAD)
    struct.pack_into("<I", head, 0x404, blocks)
    struct.pack_into("<I", head, 0x418, log_size)
    struct.pack_into("<HH", head, 0x438, 0xEF53, state)
    struct.pack_into("<I", head, 0x460, incompatible)
    return head


def qcow2(*, version: int = 3, backing: int = 0, bits: int = 16, size: int = 8 * MIB, crypt: int = 0, features: int = 0) -> bytearray:
    head = bytearray(HEAD)
    struct.pack_into(">4sIQIIQI", head, 0, b"QFI\xfb", version, backing, 0, bits, size, crypt)
    struct.pack_into(">Q", head, 72, features)
    return head


def with_mark(at: int, mark: bytes) -> bytearray:
    head = bytearray(HEAD)
    head[at : at + len(mark)] = mark
    return head


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (ext4(), Kind.EXT4),
        (with_mark(1024, b"\xe2\xe1\xf5\xe0"), Kind.EROFS),
        (with_mark(0, b"hsqs"), Kind.SQUASHFS),
    ],
)
def test_a_file_system_is_known_by_its_mark(head: bytearray, kind: Kind) -> None:
    assert recognise(bytes(head), 4 * MIB, "f") == Volume(kind=kind, size_bytes=4 * MIB)


def test_a_qcow2_file_has_the_size_that_it_unfolds_to() -> None:
    assert recognise(bytes(qcow2()), 200, "f") == Volume(kind=Kind.QCOW2, size_bytes=8 * MIB)
    assert recognise(bytes(qcow2(version=2, features=4)), 200, "f").kind is Kind.QCOW2, "version 2 has no features there"


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (with_mark(512, b"EFI PART"), "partition table .GPT"),
        (with_mark(510, b"\x55\xaa"), "partition table .MBR"),
        (with_mark(0, b"\x1f\x8b"), "packed with gzip"),
        (with_mark(0, b"XFSB"), "XFS"),
        (with_mark(0x10040, b"_BHRfS_M"), "btrfs"),
        (with_mark(257, b"ustar"), "tar archive"),
        (with_mark(0, b"KDMV"), "VMware"),
        (bytearray(HEAD), "no file system that banger knows"),
        (bytearray(), "no file system that banger knows"),
        (ext4(incompatible=4), "not unmounted cleanly"),
        (ext4(state=0), "not unmounted cleanly"),
        (ext4(state=3), "has errors"),
        (ext4(incompatible=8), "journal"),
        (qcow2(backing=104), "differs from another file"),
        (qcow2(crypt=1), "encrypted"),
        (qcow2(features=4), "in another file"),
        (qcow2(features=1 << 40), "does not know"),
        (qcow2(size=LARGEST + 1), "at most"),
        (qcow2(size=0), "nothing"),
    ],
)
def test_what_no_image_can_be_made_of_has_a_reason(head: bytearray, reason: str) -> None:
    with pytest.raises(BadRequest, match=reason):
        recognise(bytes(head), 4 * MIB, "f")


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (ext4(blocks=1025), "cut short"),
        (ext4(blocks=0), "superblock"),
        (ext4(log_size=30), "superblock"),
        (qcow2(version=9), "header"),
        (qcow2(bits=3), "header"),
        (qcow2()[:60], "cut short"),
    ],
)
def test_what_is_broken_is_told_as_that(head: bytearray, reason: str) -> None:
    with pytest.raises(Corrupt, match=reason):
        recognise(bytes(head), 4 * MIB, "f")


@given(
    head=st.sampled_from([bytes(ext4()), bytes(qcow2()), bytes(HEAD)]),
    changes=st.lists(st.tuples(st.integers(0, 0x600), st.binary(min_size=1, max_size=8)), max_size=8),
    cut=st.integers(0, HEAD),
)
def test_whatever_the_bytes_are_the_answer_is_a_volume_of_bounded_size_or_an_error_of_ours(
    head: bytes, changes: list[tuple[int, bytes]], cut: int
) -> None:
    bytes_ = bytearray(head)
    for at, data in changes:
        bytes_[at : at + len(data)] = data
    try:
        found = recognise(bytes(bytes_[:cut]), 4 * MIB, "f")
    except BangerError:
        return
    assert 0 < found.size_bytes <= LARGEST
