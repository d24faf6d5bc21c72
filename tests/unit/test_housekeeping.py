"""Space: what takes it is counted once, and only what nothing needs and what can be had again goes; a dry run says the same and does nothing."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from banger.daemon import Daemon
from banger.host.files import RealFiles
from banger.model import codec
from banger.model.catalog import ImageEntry, KernelEntry
from banger.model.errors import BadRequest, Busy
from banger.model.usage import Freed, spare_images, spare_kernels
from tests.place import IMAGE, KERNEL, OTTER, Place, result

BLOCKS = 64 << 10


# --- what may go


def catalog(*names: str, source: str = "debian") -> dict[str, ImageEntry]:
    """What is on offer."""
    return {name: ImageEntry(name=name, source=source, kernel="linux") for name in names}


def test_what_a_catalog_calls_the_same_but_makes_otherwise_is_not_had_again() -> None:
    mine = msgspec.structs.replace(IMAGE, name="mine", source="rootfs")
    assert spare_images([mine], {}, catalog("mine", source="bundle"), [], 0) == []
    assert spare_images([mine], {}, catalog("mine", source="rootfs"), [], 0) == ["mine"]
    assert spare_kernels([KERNEL], {}, [], catalog("linux", source="bundle"), []) == []


def test_only_what_nothing_uses_and_what_can_be_had_again_may_go() -> None:
    images = [IMAGE, *(msgspec.structs.replace(IMAGE, name=name) for name in ("used", "mine", "named"))]
    pulled = msgspec.structs.replace(IMAGE, name="pulled", source="oci")
    found = spare_images([*images, pulled], {"used": ["otter"]}, catalog("box", "used", "named"), ["named"], 0)
    assert found == ["box", "pulled"], "one is in a catalog, one comes from a registry"


def test_the_newest_stay() -> None:
    images = [msgspec.structs.replace(IMAGE, name=name, built=IMAGE.built + timedelta(days=days)) for name, days in (("a", 1), ("b", 3), ("c", 2))]
    assert spare_images(images, {}, catalog("a", "b", "c"), [], 2) == ["a"]


def test_a_kernel_goes_with_the_last_image_that_uses_it() -> None:
    users = {"linux": ["image box"]}
    assert spare_kernels([KERNEL], users, ["box"], catalog("linux"), []) == ["linux"]
    assert spare_kernels([KERNEL], users, [], catalog("linux"), []) == []
    assert spare_kernels([KERNEL], users, ["box"], {}, []) == [], "it was imported"
    assert spare_kernels([KERNEL], {"linux": ["image box", "machine otter"]}, ["box"], catalog("linux"), []) == []


# --- on a host


async def stocked(place: Place) -> Daemon:
    """A daemon whose image and kernel are in a catalog, with another image that shares the first one's file, and things in the cache."""
    paths = place.fake.paths
    (paths.image("box") / "rootfs.ext4").write_bytes(b"x" * BLOCKS)
    (paths.kernel("linux") / "vmlinux").write_bytes(b"x" * BLOCKS)
    daemon = await place.daemon()
    daemon.images.shelf.catalog = {"box": ImageEntry(name="box", source="debian", kernel="linux")}
    daemon.kernels.shelf.catalog = {"linux": KernelEntry(name="linux", source="debian")}
    for name in ("initramfs/old.cpio", "overlay/1.ext4", "something/else"):
        (paths.cache / name).parent.mkdir(parents=True, exist_ok=True)
        (paths.cache / name).write_bytes(b"x" * BLOCKS)
    return daemon


async def test_a_file_with_two_names_counts_once_and_frees_nothing_while_one_stays(place: Place) -> None:
    daemon = await stocked(place)
    await daemon.images.tag("box", "mine")
    (images, kernels, layers, cache, machines, *_) = await daemon.housekeeping.usage()
    assert (images.kind, images.count) == ("images", 2)
    assert BLOCKS <= images.used_bytes < 2 * BLOCKS
    assert images.reclaimable_bytes < BLOCKS
    assert kernels.reclaimable_bytes == 0, "the image that stays uses it"
    assert (layers.used_bytes, machines.used_bytes) == (0, 0)
    assert cache.reclaimable_bytes == 2 * BLOCKS
    assert cache.used_bytes >= 3 * BLOCKS


async def test_a_dry_run_says_what_the_real_one_does(place: Place) -> None:
    daemon = await stocked(place)
    before = sorted(place.fake.paths.state.rglob("*"))
    said = await daemon.housekeeping.prune(keep=(), newest=0, dry=True)
    assert sorted(place.fake.paths.state.rglob("*")) == before
    assert said == await daemon.housekeeping.prune(keep=(), newest=0, dry=False)
    assert [(row.kind, Path(row.name).name) for row in said] == [("image", "box"), ("kernel", "linux"), ("cache", "old.cpio"), ("cache", "1.ext4")]
    assert all(row.freed_bytes >= BLOCKS for row in said)
    assert list(place.fake.paths.images.iterdir()) == []
    assert list(place.fake.paths.kernels.iterdir()) == []
    assert (place.fake.paths.cache / "something/else").exists(), "what prune does not know it leaves alone"


async def test_what_a_machine_uses_stays_also_its_initramfs(place: Place) -> None:
    daemon = await stocked(place)
    made = await result(await daemon.vms.create(OTTER, start=False, wait="agent"))
    found = await daemon.housekeeping.prune(keep=(), newest=0, dry=False)
    assert {Path(row.name).name for row in found} & {"box", "linux"} == set()
    plan = daemon.vms.machines[made.id].plan
    assert Path(plan.machine.initramfs).exists()
    assert next(row for row in await daemon.housekeeping.usage() if row.kind == "machines").count == 1


async def test_what_is_named_stays(place: Place) -> None:
    daemon = await stocked(place)
    found = await daemon.housekeeping.prune(keep=("box",), newest=0, dry=True)
    assert [row.kind for row in found] == ["cache", "cache"]
    with pytest.raises(BadRequest, match="nothing-like-it"):
        await daemon.housekeeping.prune(keep=("nothing-like-it",), newest=0, dry=True)
    with pytest.raises(BadRequest, match="cannot be kept"):
        await daemon.housekeeping.prune(keep=(), newest=-1, dry=True)


async def test_nothing_is_removed_while_something_is_being_made(place: Place) -> None:
    daemon = await stocked(place)
    hold = asyncio.Event()
    running = daemon.operations.begin("vm.create", "otter", hold.wait)
    with pytest.raises(Busy, match="under way"):
        await daemon.housekeeping.prune(keep=(), newest=0, dry=False)
    assert daemon.images.show("box") == codec.decode((place.fake.paths.image("box") / "manifest.json").read_bytes(), type(IMAGE), what="")
    hold.set()
    assert running.task is not None
    await running.task


async def test_what_cannot_be_removed_is_told_and_the_others_go(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = await stocked(place)

    async def refuse(name: str) -> None:
        raise OSError(5, "the disk does not answer")

    monkeypatch.setattr(daemon.images, "delete", refuse)
    found = await daemon.housekeeping.prune(keep=(), newest=0, dry=False)
    assert [row.kind for row in found if row.failure] == ["image", "kernel"], "the kernel is used by the image that is still there"
    assert sum(isinstance(row, Freed) and not row.failure for row in found) == 2


def test_what_a_folder_takes_counts_no_link_and_no_file_twice(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/file").write_bytes(b"x" * BLOCKS)
    (tmp_path / "a/again").hardlink_to(tmp_path / "a/file")
    (tmp_path / "a/sparse").touch()
    with (tmp_path / "a/sparse").open("r+b") as file:
        file.truncate(1 << 30)
    (tmp_path / "a/out").symlink_to("/")
    files, seen = RealFiles(), set[tuple[int, int]]()
    assert BLOCKS <= files.tree_bytes(tmp_path / "a", seen) < 2 * BLOCKS
    assert files.tree_bytes(tmp_path / "a", seen) == 0
    assert files.tree_bytes(tmp_path / "a", set(), alone=True) < BLOCKS
    assert files.tree_bytes(tmp_path / "nothing", set()) == 0
