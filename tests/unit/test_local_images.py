"""Images from files of this host: used where they are or copied, known again, named twice, and deleted without harm to anybody's file."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from banger.backends import load
from banger.backends.bases import require_unchanged
from banger.backends.disk.devmapper import DeviceMapper
from banger.backends.jailing import Jailing
from banger.backends.releases import Binaries
from banger.daemon.artefacts import Shelf
from banger.daemon.images import Images, Kernels, evict
from banger.daemon.operations import Operations, Progress
from banger.host.jail import Thing
from banger.model.catalog import ImageEntry, ImageManifest, ImagePart, KernelEntry, KernelManifest, KernelPart
from banger.model.errors import AlreadyExists, BadRequest, BangerError, Corrupt, HostLacks, NotFound, WrongState
from banger.model.ids import VmId
from banger.model.parts import DiskPart
from banger.model.vm import VmState, VmStatus
from banger.testing import FakeHost
from tests.unit.test_volume import MIB, ext4, qcow2, with_mark

VM = VmId("0123456789ab")


class Over(Exception):
    """The test is over."""


class Place:
    """The shelves of a pretended host, with the real sources, and a file of the user's."""

    def __init__(self, fake: FakeHost, tasks: asyncio.TaskGroup, home: Path) -> None:
        self.fake, self.tasks, self.home = fake, tasks, home
        self.machines: list[VmStatus] = []
        self.deleted: list[str] = []
        for folder in (fake.paths.images, fake.paths.kernels, home):
            folder.mkdir(parents=True)
        operations = Operations(fake.clock, tasks)
        self.image_shelf: Shelf[ImageEntry, ImageManifest, ImagePart] = Shelf(
            "image",
            host=fake.host,
            folder=fake.paths.images,
            catalog={},
            manifest=ImageManifest,
            source=lambda name: load("image", name, fake.host),
        )
        kernel_shelf: Shelf[KernelEntry, KernelManifest, KernelPart] = Shelf(
            "kernel",
            host=fake.host,
            folder=fake.paths.kernels,
            catalog={"debian-6.1": KernelEntry(name="debian-6.1", source="debian")},
            manifest=KernelManifest,
            source=lambda name: load("kernel", name, fake.host),
        )
        self.images = Images(self.image_shelf, operations, Kernels(kernel_shelf, operations, lambda _: []), self.users, self.evict)
        self.file = self.put("root.img", ext4())

    def users(self, image: str) -> list[str]:
        return [row.name for row in self.machines if row.image == image]

    async def evict(self, image: str) -> None:
        async def delete(vm: str) -> None:
            self.deleted.append(vm)
            self.machines = [row for row in self.machines if row.id != vm]

        await evict(self.machines, delete, image)

    def put(self, name: str, head: bytes, size: int = 4 * MIB) -> Path:
        path = self.home / name
        with path.open("wb") as file:
            file.write(head)
            file.truncate(size)
        return path

    async def register(self, name: str, file: Path | None = None, *, force: bool = False, kernel: str | None = None) -> ImageManifest:
        return await last(self.images.register(name, rootfs=str(file or self.file), kernel=kernel, force=force))

    def seen(self) -> list[str]:
        return sorted(path.name for path in self.fake.paths.images.iterdir())


async def last(items: AsyncIterator[Progress[ImageManifest]]) -> ImageManifest:
    *_, made = [item async for item in items]
    assert isinstance(made, ImageManifest)
    return made


def machine(name: str, state: VmState, image: str = "mine") -> VmStatus:
    return VmStatus(
        id=VmId(name * 12), name=name, state=state, image=image, kernel="debian-6.1", vcpu=1, memory_mib=1, disk="overlay", disk_bytes=1,
        disk_used_bytes=1, network="none", address="", host_access=False, nat=False, vmm="qemu", accelerator="tcg", reason="", rm=False,
        created=datetime(2026, 1, 1, tzinfo=UTC), pid=0, boot_id="",
    )  # fmt: skip


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    try:
        async with FakeHost(tmp_path) as fake, asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            yield Place(fake, tasks, tmp_path / "home")
            raise Over
    except* Over:
        pass


async def test_a_raw_file_stays_where_it_is(place: Place) -> None:
    before = place.file.stat()
    made = await place.register("mine")
    assert made.file == str(place.file)
    assert made.size_bytes == 4 * MIB
    assert made.kernel == "debian-6.1"
    assert place.images.base(made) == place.file
    assert [path.name for path in place.fake.paths.image("mine").iterdir()] == ["manifest.json"]
    await place.images.delete("mine", force=False)
    after = place.file.stat()
    assert (before.st_mtime_ns, before.st_ino, before.st_mode) == (after.st_mtime_ns, after.st_ino, after.st_mode)
    assert place.seen() == []


async def test_a_name_is_not_taken_twice_but_by_force(place: Place) -> None:
    results = await asyncio.gather(place.register("mine"), place.register("mine"), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["AlreadyExists", "ImageManifest"]
    other = place.put("other.img", with_mark(1024, b"\xe2\xe1\xf5\xe0"))
    assert (await place.register("mine", other, force=True)).filesystem == "erofs"
    assert place.seen() == ["mine"]


@pytest.mark.parametrize("change", ["written", "missing"])
async def test_a_file_that_is_not_what_was_registered_is_noticed(place: Place, change: str) -> None:
    made = await place.register("mine")
    if change == "written":
        os.utime(place.file, ns=(1, 1))
    else:
        place.file.unlink()
    with pytest.raises(WrongState, match="has changed" if change == "written" else "is missing") as caught:
        place.images.base(made)
    assert "register --force" in caught.value.hint


async def test_a_machine_does_not_start_over_a_base_that_has_changed(place: Place) -> None:
    part = DiskPart(backend="overlay", vm=VM, base=str(place.file), size=64 * MIB, stamp=place.fake.host.files.stamp(place.file))
    require_unchanged(place.fake.host, part)
    os.utime(place.file, ns=(1, 1))
    with pytest.raises(WrongState, match="has changed"):
        require_unchanged(place.fake.host, part)
    require_unchanged(place.fake.host, DiskPart(backend="reflink", vm=VM, base=part.base, size=part.size, stamp=part.stamp))


async def test_a_promoted_image_is_a_copy_and_needs_the_file_no_more(place: Place) -> None:
    await place.register("mine")
    made = await last(place.images.promote("mine"))
    assert made.file == ""
    copy = place.images.base(made)
    assert copy.read_bytes() == place.file.read_bytes()
    place.file.unlink()
    assert await last(place.images.promote("mine")) == made, "twice is once"


async def test_a_changed_file_is_not_promoted(place: Place) -> None:
    await place.register("mine")
    os.utime(place.file, ns=(1, 1))
    with pytest.raises(WrongState, match="has changed"):
        await last(place.images.promote("mine"))


async def test_a_second_name_shares_the_bytes_and_outlives_the_first(place: Place) -> None:
    await place.register("mine")
    made = await last(place.images.promote("mine"))
    tagged = await place.images.tag("mine", "mine-1.0")
    assert tagged.name == "mine-1.0"
    assert tagged.digest == made.digest
    assert place.images.base(tagged).stat().st_ino == place.images.base(made).stat().st_ino
    await place.images.delete("mine", force=False)
    assert place.images.base(place.images.show("mine-1.0")).exists()
    with pytest.raises(NotFound):
        await place.images.tag("mine", "x")


async def test_a_second_name_must_be_free_and_a_name(place: Place) -> None:
    await place.register("mine")
    for name, error in (("mine", AlreadyExists), ("../x", BadRequest)):
        with pytest.raises(error):
            await place.images.tag("mine", name)
    assert place.seen() == ["mine"]


async def test_two_names_that_are_given_to_each_other_at_once_do_not_lock_each_other_out(place: Place) -> None:
    await place.register("a")
    await place.register("b")
    results = await asyncio.gather(place.images.tag("a", "b"), place.images.tag("b", "a"), return_exceptions=True)
    assert [type(result) for result in results] == [AlreadyExists, AlreadyExists]


@pytest.mark.parametrize(
    ("name", "head", "size", "error"),
    [
        ("table", bytes(with_mark(512, b"EFI PART")), MIB, BadRequest),
        ("cut", bytes(ext4(blocks=4096)), MIB, Corrupt),
        ("backed", bytes(qcow2(backing=1000)), MIB, BadRequest),
        ("empty", b"", 0, BadRequest),
    ],
)
async def test_what_is_no_root_file_system_leaves_nothing(place: Place, name: str, head: bytes, size: int, error: type[BangerError]) -> None:
    with pytest.raises(error):
        await place.register("mine", place.put(name, head, size))
    assert place.seen() == []


async def test_what_is_no_file_is_refused_at_once(place: Place) -> None:
    os.mkfifo(place.home / "pipe")
    for path in (place.home / "pipe", place.home, place.home / "nothing", Path("/dev/null")):
        with pytest.raises(NotFound):
            await place.register("mine", path)
    with pytest.raises(BadRequest, match="begin with"):
        await place.register("mine", Path("root.img"))
    with pytest.raises(NotFound, match="kernel"):
        await place.register("mine", kernel="nope")
    assert place.seen() == []


async def test_a_qcow2_file_needs_qemu_img(place: Place) -> None:
    with pytest.raises(HostLacks, match="qemu-img"):
        await place.register("mine", place.put("q", bytes(qcow2())))
    assert place.seen() == []


async def test_a_qcow2_file_with_a_partition_table_is_refused_after_its_beginning(place: Place) -> None:
    unfolded(place.fake, bytes(with_mark(510, b"\x55\xaa")))
    with pytest.raises(BadRequest, match="partition table"):
        await place.register("mine", place.put("q", bytes(qcow2())))
    assert [command[6] for command in place.fake.proc.log if "qemu-img" in command] == ["dd"]
    assert place.seen() == []


async def test_a_qcow2_file_is_unfolded_within_limits_into_an_image_of_our_own(place: Place) -> None:
    unfolded(place.fake, bytes(ext4()))
    made = await place.register("mine", place.put("q", bytes(qcow2(size=4 * MIB))))
    assert made.file == ""
    assert place.images.base(made).read_bytes()[: len(ext4())] == bytes(ext4())
    convert = place.fake.proc.log[-1]
    assert convert[:2] == ["prlimit", f"--fsize={4 * MIB + 65536}"]
    assert convert[convert.index("convert") + 1 :][:4] == ["-f", "qcow2", "-O", "raw"], "the format is told, never guessed"
    assert sorted(path.name for path in place.fake.paths.image("mine").iterdir()) == ["manifest.json", "rootfs.ext4"]


def unfolded(fake: FakeHost, content: bytes) -> None:
    """What a pretended qemu-img writes."""

    async def run(argv: Sequence[str], cwd: Path | None) -> bytes:
        target = Path(argv[-1].removeprefix("of="))
        target.write_bytes(content.ljust(4 * MIB, b"\0"))
        return b""

    fake.proc.commands |= {"qemu-img": run, "prlimit": run}


async def test_force_deletes_stopped_machines_and_never_touches_one_that_runs(place: Place) -> None:
    await place.register("mine")
    place.machines = [machine("a", VmState.STOPPED), machine("b", VmState.RUNNING), machine("c", VmState.STOPPED, "other")]
    with pytest.raises(WrongState, match="used by a, b"):
        await place.images.delete("mine", force=False)
    with pytest.raises(WrongState, match="used by b, not stopped"):
        await place.images.delete("mine", force=True)
    assert place.deleted == []
    place.machines[1] = machine("b", VmState.STOPPED)
    await place.images.delete("mine", force=True)
    assert place.deleted == ["a" * 12, "b" * 12]
    assert [row.name for row in place.machines] == ["c"]
    assert place.seen() == []


async def test_the_list_says_which_file_and_who_uses_it(place: Place) -> None:
    await place.register("mine")
    place.machines = [machine("a", VmState.STOPPED)]
    (row,) = place.images.rows(available=False)
    assert (row.source, row.used_by, row.kernel, row.size_bytes) == (str(place.file), ("a",), "debian-6.1", 4 * MIB)


async def test_the_helper_maps_no_file_outside_of_bangers_folders_and_that_is_told_before_anything_is_made(place: Place) -> None:
    disk = DeviceMapper(place.fake.host)
    with pytest.raises(BadRequest, match="does not reach") as caught:
        await disk.ensure(disk.plan(VM, base=place.file, size=64 * MIB))
    assert "promote" in caught.value.hint


async def test_a_jail_is_only_lent_a_file_of_the_users(place: Place) -> None:
    jailing = Jailing(place.fake.host, Binaries(place.fake.host))
    mine = Thing(name="lower", source=str(place.fake.paths.image("x") / "rootfs.ext4"), read_only=True)
    assert not jailing._lent(mine).lent
    assert jailing._lent(Thing(name="lower", source=str(place.file), read_only=True)).lent
