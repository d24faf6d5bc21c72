"""Layers that somebody has tampered with: whatever they are, there is a sound file system afterwards, or an error of banger's own and nothing."""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from banger.host.rootfs import Job, Layer, Limits
from banger.host.rootfs.write import answer
from tests.layers import Item, file, folder, item, layer, link, packed, sound, symlink, tar
from tests.tampering import harmless, spoil_tar, tried

LIMITS = Limits(size=4 << 20, entries=2000, depth=20, path=1000, xattrs=1000)
NAMES = st.sampled_from(
    ["a", "b", "a/b", "a/c", "b/a", "a/b/c", "l", "l/x", "lost+found", ".wh.a", "a/.wh..wh..opq", "a/.wh.b", "l/.wh.x", "./", "../x", "ä" * 70]
)
TARGETS = st.sampled_from(["a", "b", "..", "../..", "/", "/a/b", "a/b", "l", "x" * 80, "a/b/c"])
ITEMS = st.one_of(
    st.builds(file, NAMES, st.sampled_from([b"", b"x", b"x" * 5000, bytes(300_000) + b"y"]), mode=st.integers(0, 0o7777)),
    st.builds(folder, NAMES),
    st.builds(symlink, NAMES, TARGETS),
    st.builds(link, NAMES, TARGETS),
    st.builds(item, NAMES, st.sampled_from([tarfile.CHRTYPE, tarfile.FIFOTYPE])),
    st.builds(
        file,
        NAMES,
        st.just(b"a"),
        xattrs=st.sampled_from([{"user.x": b"\xff" * 300}, {"system.posix_acl_access": b"bad"}, {"security.capability": b"x"}]),
    ),
)


@st.composite
def tampered(draw: st.DrawFn) -> tuple[bytes, str, bytes]:
    """A layer's tar, how it is packed, and its blob; up to three things are wrong with the tar, and sometimes one with the blob."""
    items: list[Item] = draw(st.lists(ITEMS, max_size=8))
    form = draw(st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
    data = bytearray(tar(items, form=form))
    for _ in range(draw(st.integers(0, 3))):
        spoil_tar(draw, data)
    how = draw(st.sampled_from(["tar", "gzip", "zstd"]))
    blob = bytearray(packed(bytes(data), how))
    if blob and draw(st.integers(0, 9)) == 0:
        blob[draw(st.integers(0, len(blob) - 1))] ^= draw(st.integers(1, 255))
    return bytes(data), how, bytes(blob)


@tried
@given(st.lists(tampered(), min_size=1, max_size=3))
def test_tampered_layers_are_sound_or_refused(layers: list[tuple[bytes, str, bytes]]) -> None:
    with tempfile.TemporaryDirectory(prefix="banger-fuzz-") as name:
        place = Path(name)
        blobs = []
        for data, how, blob in layers:
            blobs.append(layer(place, data, how))
            Path(blobs[-1].path).write_bytes(blob)
        before = {path.name for path in place.iterdir()}
        with harmless(place):
            outcome = answer(_job(place / "rootfs.ext4", blobs))
        after = {path.name for path in place.iterdir()} - before
        if outcome.written is None:
            assert outcome.code in ("corrupt", "bad-request"), outcome
            assert outcome.message
        else:
            assert after == {"rootfs.ext4"}
            assert sound(place / "rootfs.ext4") == ""
        assert after <= {"rootfs.ext4"}


def _job(path: Path, layers: list[Layer]) -> Job:
    return Job(path=str(path), layers=tuple(layers), size=0, limits=LIMITS, label="fuzz", look=("a/b", "l/x"))
