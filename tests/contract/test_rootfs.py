"""Root file systems out of layers: what the fake and the real one have in common; then the real one's bytes, its ends, and a disk that is full."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from banger.host.proc import RealProc
from banger.host.rootfs import Layer, Limits, RealRootFs, RootFs
from banger.model.errors import BadRequest, BangerError, Corrupt, NoSpace
from banger.model.event import Event, listening
from banger.testing.rootfs import FakeRootFs
from tests.layers import Item, file, folder, layer, link, sound, symlink, tar
from tests.world import until

MIB = 1 << 20


def real() -> RealRootFs:
    return RealRootFs(RealProc(os.environ["PATH"]))


@pytest.fixture(params=["fake", "real"])
def rootfs(request: pytest.FixtureRequest) -> RootFs:
    return FakeRootFs() if request.param == "fake" else real()


def some(place: Path, *items: Item, how: str = "gzip") -> Layer:
    return layer(place, tar([folder("./"), folder("etc"), file("etc/hostname", b"here\n"), *items]), how)


def said(path: Path, question: str) -> bytes:
    return subprocess.run(["/usr/sbin/debugfs", "-R", question, path], capture_output=True, check=True).stdout


def gnu_tar(place: Path, name: str) -> bytes:
    command = ["tar", "--sparse", "--format=gnu", f"--directory={place}", "--create", name]
    return subprocess.run(command, capture_output=True, check=True).stdout


async def test_layers_become_a_file_of_the_size_that_is_told(rootfs: RootFs, tmp_path: Path) -> None:
    path = tmp_path / "rootfs.ext4"
    written = await rootfs.write(path, [some(tmp_path), some(tmp_path, file("more", b"more"))], label="a-test")
    assert path.stat().st_size == written.size
    other = await rootfs.write(tmp_path / "other", [some(tmp_path)], label="a-test", size=64 * MIB)
    assert (other.size, (tmp_path / "other").stat().st_size) == (64 * MIB, 64 * MIB)


async def test_what_is_there_stays(rootfs: RootFs, tmp_path: Path) -> None:
    path = tmp_path / "rootfs.ext4"
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        await rootfs.write(path, [some(tmp_path)], label="a-test")
    assert path.read_bytes() == b"precious"


async def test_content_that_does_not_fit_is_refused_and_leaves_nothing(rootfs: RootFs, tmp_path: Path) -> None:
    path = tmp_path / "rootfs.ext4"
    with pytest.raises(BadRequest):
        await rootfs.write(path, [some(tmp_path, file("large", os.urandom(20 * MIB)))], label="a-test", size=16 * MIB)
    assert not path.exists()


async def test_a_wrong_layer_leaves_nothing(rootfs: RootFs, tmp_path: Path) -> None:
    wrong = Layer(path=some(tmp_path).path, diff_id="sha256:" + "0" * 64)
    if isinstance(rootfs, FakeRootFs):
        rootfs.refused.add(wrong.diff_id)
    with pytest.raises(Corrupt, match="is not what its digest says"):
        await rootfs.write(tmp_path / "rootfs.ext4", [some(tmp_path, file("x")), wrong], label="a-test")
    assert not (tmp_path / "rootfs.ext4").exists()


async def test_paths_that_are_asked_for_are_found(rootfs: RootFs, tmp_path: Path) -> None:
    if isinstance(rootfs, FakeRootFs):
        rootfs.found.add("sbin/init")
    one = some(tmp_path, folder("usr"), folder("usr/sbin"), symlink("sbin", "usr/sbin"), file("usr/sbin/init"))
    written = await rootfs.write(tmp_path / "rootfs.ext4", [one], label="a-test", look=["sbin/init", "sbin/other"])
    assert written.found == ("sbin/init",)


async def test_a_file_system_is_sound_and_holds_what_the_layers_say(tmp_path: Path) -> None:
    path = tmp_path / "rootfs.ext4"
    holes = b"begin" + bytes(3 * MIB) + b"end"
    layers = [
        some(tmp_path, file("holes", holes), link("etc/other", "etc/hostname")),
        some(tmp_path, file("etc/.wh.hostname"), symlink("l", "x" * 300)),
    ]
    written = await real().write(path, layers, label="a-test")
    assert sound(path) == ""
    assert said(path, "cat /etc/other") == b"here\n"
    assert said(path, "cat /holes") == holes
    assert path.stat().st_blocks * 512 < 8 * MIB < written.size
    assert b"has_journal" in said(path, "features")


async def test_names_of_whiteouts_are_names_like_others_in_a_plain_tree(tmp_path: Path) -> None:
    path = tmp_path / "rootfs.ext4"
    named = [file("etc/.wh.hostname", b"kept\n"), folder(".wh..wh..opq"), file("etc/.wh..wh..opq"), link("twin", "etc/.wh.hostname")]
    tree = msgspec.structs.replace(some(tmp_path, *named), plain=True)
    written = await real().write(path, [tree], label="a-test", look=("etc/hostname", "etc/.wh..wh..opq", ".wh..wh..opq"))
    assert sorted(written.found) == [".wh..wh..opq", "etc/.wh..wh..opq", "etc/hostname"]
    assert (said(path, "cat /etc/.wh.hostname"), said(path, "cat /twin"), said(path, "cat /etc/hostname")) == (b"kept\n", b"kept\n", b"here\n")


async def test_gnus_own_form_of_sparse_files_is_read(tmp_path: Path) -> None:
    with (tmp_path / "holes").open("wb") as writer:
        for at in range(40):
            writer.seek(at * 100_000 + at)
            writer.write(b"%d" % at * 3000)
    whole = (tmp_path / "holes").read_bytes()
    data = gnu_tar(tmp_path, "holes")
    assert len(data) < len(whole)
    await real().write(tmp_path / "rootfs.ext4", [layer(tmp_path, data)], label="a-test")
    assert sound(tmp_path / "rootfs.ext4") == ""
    assert said(tmp_path / "rootfs.ext4", "cat /holes") == whole


async def test_the_same_layers_give_the_same_bytes(tmp_path: Path) -> None:
    layers = [some(tmp_path, *(file(f"file-{number}", os.urandom(3000), xattrs={"user.x": b"%d" % number}) for number in range(300))), some(tmp_path)]
    for name in ("one", "two"):
        await real().write(tmp_path / name, layers, label="a-test")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def remembering(one: Layer) -> Layer:
    return msgspec.structs.replace(one, memory=f"{one.path}.memory")


async def made_of(path: Path, *layers: Layer, limits: Limits | None = None) -> bytes:
    """The bytes of a root file system, which goes away again."""
    await real().write(path, layers, label="a-test", limits=limits)
    found = path.read_bytes()
    path.unlink()
    return found


async def test_a_layer_that_is_remembered_gives_the_same_bytes_with_any_other(tmp_path: Path) -> None:
    path, more = tmp_path / "rootfs.ext4", file("more", b"more" * 5000 + bytes(MIB) + b"end")
    base = some(tmp_path, *(file(f"file-{number}", os.urandom(3000), xattrs={"user.x": b"%d" % number}) for number in range(700)), link("l", "file-1"))
    other = some(tmp_path, more, file(".wh.file-2"), how="zstd")
    plainly = [await made_of(path, base, other), await made_of(path, base)]
    first = [await made_of(path, remembering(base), remembering(other)), await made_of(path, remembering(base))]
    assert Path(remembering(base).memory).stat().st_size < 200_000
    again = await made_of(path, remembering(base), remembering(other))
    assert [*first, again] == [*plainly, plainly[0]]


async def test_a_memory_that_cannot_be_believed_is_not(tmp_path: Path) -> None:
    path, one = tmp_path / "rootfs.ext4", remembering(some(tmp_path, file("a", b"a" * 5000)))
    other = remembering(some(tmp_path, file("b", b"b" * 5000)))
    wanted, _ = await made_of(path, one), await made_of(path, other)
    memory = Path(one.memory)
    sound_one = memory.read_bytes()
    for wrong in (b"", b"\xff" * 300, sound_one[:-1], sound_one[:-1] + b"!", sound_one + b"!", Path(other.memory).read_bytes()):
        memory.write_bytes(wrong)
        assert await made_of(path, one) == wanted
        assert memory.read_bytes() == sound_one, "it is written anew"
    memory.unlink()
    memory.mkdir()
    assert await made_of(path, one) == wanted, "no memory is no failure"
    assert sorted(tmp_path.glob("*.memory.*")) == [], "and leaves nothing"


async def test_what_is_remembered_is_verified_and_kept_within_limits_each_time(tmp_path: Path) -> None:
    path = tmp_path / "rootfs.ext4"
    base, top = (remembering(some(tmp_path, file("a", text * 5000))) for text in (b"1", b"2"))
    await made_of(path, base, top)
    with pytest.raises(Corrupt, match=r"a.* is one too many: an image may have 5"):
        await made_of(path, base, top, limits=Limits(entries=5))
    with pytest.raises(Corrupt, match="unpacks to more than an image may be"):
        await made_of(path, base, top, limits=Limits(size=15_000))
    with pytest.raises(Corrupt, match="has a name of more than 4 bytes"):
        await made_of(path, base, limits=Limits(path=4))
    Path(base.path).write_bytes(Path(some(tmp_path, file("a", b"3" * 5000)).path).read_bytes())
    with pytest.raises(Corrupt, match="is not what its digest says"):
        await made_of(path, base, top)  # though nothing of its content is in the image
    assert not path.exists()


async def test_progress_is_told(tmp_path: Path) -> None:
    heard: list[Event] = []
    with listening(heard.append):
        await real().write(tmp_path / "rootfs.ext4", [some(tmp_path, file("large", os.urandom(5 * MIB)))], label="a-test")
    assert {event.detail for event in heard} == {"read layers", "write files"}
    assert all(event.unit == "bytes" and (event.done or 0) <= (event.total or 0) for event in heard)


async def test_who_no_longer_waits_leaves_nothing(tmp_path: Path) -> None:
    one = some(tmp_path, *(file(f"file-{number}", os.urandom(1 << 16)) for number in range(1500)))
    path = tmp_path / "rootfs.ext4"
    writing = asyncio.create_task(real().write(path, [one], label="a-test"))
    await asyncio.to_thread(until, path.exists, "the file system begins")
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert not path.exists()


async def test_limits_reach_the_process(tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match="one too many"):
        await real().write(tmp_path / "rootfs.ext4", [some(tmp_path, file("x"))], label="a-test", limits=Limits(entries=3))


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system with little room, to be filled as far as a test wants."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="root is needed to mount a small file system")
async def test_wherever_the_room_ends_nothing_is_left(small: Path, tmp_path: Path) -> None:
    parts = [file(f"file-{number}", os.urandom(9000), xattrs={"user.x": b"%d" % number * 50}) for number in range(700)]
    one, fitted, refused = some(tmp_path, *parts, how="tar"), 0, 0
    for room in range(0, 15 * MIB, 700_000):
        (small / "ballast").write_bytes(bytes(16 * MIB - room - 4096 * 3))
        try:
            await real().write(small / "rootfs.ext4", [one], label="a-test")
            fitted += 1
            assert sound(small / "rootfs.ext4") == ""
            (small / "rootfs.ext4").unlink()
        except NoSpace:
            refused += 1
        assert [path.name for path in small.iterdir()] == ["ballast"]
    assert fitted
    assert refused > 5


async def test_an_error_of_the_process_is_bangers_own(tmp_path: Path) -> None:
    with pytest.raises(BangerError):
        await real().write(tmp_path / "rootfs.ext4", [Layer(path=str(tmp_path / "missing"), diff_id="sha256:" + "0" * 64)], label="a-test")
    assert list(tmp_path.iterdir()) == []
