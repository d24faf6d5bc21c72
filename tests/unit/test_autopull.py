"""Images and kernels that are not here are got from the catalog; what is here is used; every other failure is told as itself."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from banger.daemon.artefacts import Shelf
from banger.daemon.images import Images, Kernels
from banger.daemon.operations import Operations
from banger.host.proc import Life
from banger.model import codec
from banger.model.catalog import ImageEntry, ImageManifest, ImagePart, KernelEntry, KernelManifest, KernelPart, Wish
from banger.model.config import Settings
from banger.model.errors import Corrupt, NotFound, ToolFailed
from banger.model.event import Event, listening
from banger.testing import FakeHost

BUILT = datetime(2026, 1, 1, tzinfo=UTC)
IMAGE = ImageManifest(name="box", source="scripted", digest="sha256:1", size_bytes=1, built=BUILT, kernel="linux", used_bytes=1, packages=1, init="")
KERNEL = KernelManifest(name="linux", source="scripted", digest="sha256:2", size_bytes=1, built=BUILT, release="6.1", architecture="x86_64")
IMAGES = {name: ImageEntry(name=name, source="scripted", kernel="linux") for name in ("box", "bigbox")}
KERNELS = {"linux": KernelEntry(name="linux", source="scripted")}


class Scripted:
    """What every source here has in common: it counts, waits for `go`, and fails once for each of `failures`, with something half made."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()
        self.failures: list[Exception] = []

    async def make(self, name: str, into: str) -> None:
        self.made.append(name)
        Path(into, "half").write_text("half made")
        self.begun.set()
        await self.go.wait()
        if self.failures:
            raise self.failures.pop()


class ImageSource(Scripted):
    """Makes images."""

    def plan(self, entry: ImageEntry, into: Path) -> ImagePart:
        return ImagePart(entry=entry, into=str(into))

    async def ensure(self, part: ImagePart) -> ImageManifest:
        await self.make(part.entry.name, part.into)
        return IMAGE

    async def remove(self, part: ImagePart) -> None:
        remove_tree(Path(part.into))


class KernelSource(Scripted):
    """Makes kernels."""

    def plan(self, entry: KernelEntry, into: Path) -> KernelPart:
        return KernelPart(entry=entry, into=str(into))

    async def ensure(self, part: KernelPart) -> KernelManifest:
        await self.make(part.entry.name, part.into)
        return KERNEL

    async def remove(self, part: KernelPart) -> None:
        remove_tree(Path(part.into))


def remove_tree(path: Path) -> None:
    if path.exists():
        for child in path.iterdir():
            child.unlink()
        path.rmdir()


class Store:
    """Both shelves on a pretended host, with a source each that makes what the test says."""

    def __init__(self, fake: FakeHost, tasks: asyncio.TaskGroup) -> None:
        self.fake = fake
        for folder in (fake.paths.images, fake.paths.kernels):
            folder.mkdir(parents=True)
        self.image_source, self.kernel_source = ImageSource(), KernelSource()
        operations = Operations(fake.clock, tasks)
        self.image_shelf: Shelf[ImageEntry, ImageManifest, ImagePart] = Shelf(
            "image", host=fake.host, folder=fake.paths.images, catalog=IMAGES, manifest=ImageManifest, source=lambda _: self.image_source
        )
        self.kernel_shelf: Shelf[KernelEntry, KernelManifest, KernelPart] = Shelf(
            "kernel", host=fake.host, folder=fake.paths.kernels, catalog=KERNELS, manifest=KernelManifest, source=lambda _: self.kernel_source
        )
        self.kernels = Kernels(self.kernel_shelf, operations, lambda _: [])
        self.images = Images(self.image_shelf, operations, self.kernels, lambda _: [], nobody)

    def have_image(self) -> None:
        put(self.fake.paths.image("box"), codec.encode(IMAGE))

    def have_kernel(self) -> None:
        put(self.fake.paths.kernel("linux"), codec.encode(KERNEL))

    def seen(self) -> list[str]:
        """Everything that lies where images are kept."""
        return sorted(path.name for path in self.fake.paths.images.iterdir())


def put(folder: Path, manifest: bytes) -> None:
    folder.mkdir()
    (folder / "manifest.json").write_bytes(manifest)


async def nobody(_: str) -> None:
    """There are no machines to delete."""


class Over(Exception):
    """The test is over."""


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    try:
        async with FakeHost(tmp_path, Settings(short_names="no")) as fake, asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            yield Store(fake, tasks)
            raise Over
    except* Over:
        pass


# --- the six cases of old


async def test_a_local_image_is_not_pulled(store: Store) -> None:
    store.have_image()
    assert await store.images.need("box") == IMAGE
    assert store.image_source.made == []


async def test_a_missing_image_is_pulled_and_the_stage_is_seen(store: Store) -> None:
    events: list[Event] = []
    with listening(events.append):
        assert await store.images.need("box") == IMAGE
    assert store.image_source.made == ["box"]
    assert events[0] == Event(stage="pull image", detail="pulling box from the image catalog")
    assert store.image_shelf.local("box") == IMAGE


async def test_what_is_in_neither_place_is_an_error_that_names_both_and_what_is_close(store: Store) -> None:
    with pytest.raises(NotFound) as caught:
        await store.images.need("bixbox")
    assert str(store.fake.paths.images) in str(caught.value)
    assert "catalog" in str(caught.value)
    assert "bigbox" in caught.value.hint
    assert store.image_source.made == []


async def test_a_local_kernel_is_not_pulled(store: Store) -> None:
    store.have_kernel()
    assert await store.kernels.need("linux") == KERNEL
    assert store.kernel_source.made == []


async def test_a_missing_kernel_is_pulled_also_for_an_image(store: Store) -> None:
    *_, made = [item async for item in store.images.pull("box", Wish(), force=False)]
    assert made == IMAGE
    assert store.kernel_source.made == ["linux"]
    assert await store.kernels.need("linux") == KERNEL
    assert store.kernel_source.made == ["linux"]


@pytest.mark.parametrize("name", ["linux", "unknown"])
async def test_a_manifest_that_cannot_be_read_is_told_as_itself(store: Store, name: str) -> None:
    (store.fake.paths.kernel(name) / "manifest.json").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        await store.kernels.need(name)
    assert store.kernel_source.made == []


# --- more of the same kind


@pytest.mark.parametrize("name", ["box", "unknown"])
@pytest.mark.parametrize("manifest", [b"", b"garbage", b'{"version":1}', codec.encode(IMAGE)[:-1] + b',"new":1}'])
async def test_a_manifest_of_garbage_is_corrupt_and_never_missing(store: Store, name: str, manifest: bytes) -> None:
    put(store.fake.paths.image(name), manifest)
    with pytest.raises(Corrupt, match=f"image {name}"):
        await store.images.need(name)
    assert store.image_source.made == []


async def test_an_unreadable_image_can_be_deleted_and_hides_no_other(store: Store) -> None:
    put(store.fake.paths.image("bigbox"), b"garbage")
    store.have_image()
    assert "box" in [row.name for row in store.images.rows(available=False)]
    with pytest.raises(NotFound):
        await store.images.need("nothing-like-it")
    await store.images.delete("bigbox")
    assert store.seen() == ["box"]


async def test_two_who_ask_at_once_build_once(store: Store) -> None:
    store.image_source.go.clear()
    async with asyncio.TaskGroup() as asking:
        first = asking.create_task(store.images.need("box"))
        second = asking.create_task(store.images.need("box"))
        await store.image_source.begun.wait()
        store.image_source.go.set()
    assert first.result() == second.result() == IMAGE
    assert store.image_source.made == ["box"]


async def test_a_failed_build_leaves_nothing_and_the_next_one_succeeds(store: Store) -> None:
    store.image_source.failures.append(ToolFailed("the archive is on fire"))
    with pytest.raises(ToolFailed) as caught:
        await store.images.need("box")
    assert caught.value.stage == "pull image"
    assert store.seen() == []
    assert await store.images.need("box") == IMAGE


async def test_a_failure_is_not_passed_on_to_who_waited_but_tried_again(store: Store) -> None:
    source = store.image_source
    source.go.clear()
    source.failures.append(ToolFailed("the archive is on fire"))
    first, second = (asyncio.ensure_future(store.images.need("box")) for _ in range(2))
    await source.begun.wait()
    source.go.set()
    with pytest.raises(ToolFailed):
        await first
    assert await second == IMAGE


@pytest.mark.parametrize("leaver", ["who builds", "who waits"])
async def test_one_of_two_who_leaves_does_not_break_the_other(store: Store, leaver: str) -> None:
    source = store.image_source
    source.go.clear()
    building = asyncio.ensure_future(store.images.need("box"))
    await source.begun.wait()
    waiting = asyncio.ensure_future(store.images.need("box"))
    left, other = (building, waiting) if leaver == "who builds" else (waiting, building)
    left.cancel()
    await asyncio.wait([left])
    assert left.cancelled()
    source.go.set()
    assert await other == IMAGE
    assert store.seen() == ["box"]


async def test_what_a_dead_daemon_left_half_made_is_removed_and_what_a_living_one_makes_is_not(store: Store) -> None:
    living = store.fake.proc.begin(["bangerd"], Path("/"))
    for pid, start in ((4242, 1), (living.id.pid, living.id.start)):
        put(store.fake.paths.images / f".staging~{pid}~{start}~box~aaaaaa", b"")
    await store.image_shelf.clean()
    assert store.seen() == [f".staging~{living.id.pid}~{living.id.start}~box~aaaaaa"]
    assert store.image_shelf.every() == []


async def test_replacing_an_image_shows_the_old_or_the_new_one_and_a_failure_keeps_the_old(store: Store) -> None:
    store.have_image()
    store.image_source.failures.append(ToolFailed("the archive is on fire"))
    with pytest.raises(ToolFailed):
        await store.image_shelf.pull("box", force=True)
    assert store.image_shelf.local("box") == IMAGE
    await store.image_shelf.pull("box", force=True)
    assert store.seen() == ["box"]
    assert os.listdir(store.fake.paths.image("box")) != []


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_daemon_that_is_killed_while_it_replaces_an_image_leaves_the_old_or_the_new_one(
    store: Store, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    store.have_image()
    (store.fake.paths.image("box") / "old").touch()
    real = store.fake.host.files.exchange

    def killed(fresh: Path, name: Path) -> None:
        if when == "after":
            real(fresh, name)
        raise Over

    async def nothing(part: ImagePart) -> None:
        """What is killed cleans up nothing."""

    with monkeypatch.context() as patch:
        patch.setattr(store.fake.host.files, "exchange", killed)
        patch.setattr(store.image_source, "remove", nothing)
        with pytest.raises(Over):
            await store.image_shelf.pull("box", force=True)
    assert store.image_shelf.local("box") == IMAGE
    assert (store.fake.paths.image("box") / "old").exists() == (when == "before")
    monkeypatch.setattr(store.fake.proc, "look", lambda _: Life.GONE)
    await store.image_shelf.clean()
    assert store.seen() == ["box"]
