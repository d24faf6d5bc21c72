"""Disks that are written as a whole: how they are made, shown by the kernel, let go and removed. Nothing here mounts or maps anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from banger.backends import names
from banger.backends.disk import Attachable
from banger.backends.disk.devmapper import DeviceMapper, cow_bytes
from banger.backends.disk.reflink import Reflink
from banger.daemon.resources import Resources
from banger.host import dm
from banger.host.dm import Mapping
from banger.host.files import RealFiles
from banger.model.drives import by_letter, by_serial, drives, words
from banger.model.errors import BadRequest, Busy, Corrupt, HostLacks, NoSpace
from banger.model.event import Event, listening
from banger.model.finding import Level
from banger.model.ids import VmId
from banger.model.parts import DiskPart
from banger.testing import FakeHost

VM = VmId("0123456789ab")
SIZE = 256 << 20


@pytest.fixture
def fake(tmp_path: Path) -> FakeHost:
    """A host with one image."""
    made = FakeHost(tmp_path)
    image = made.paths.image("slim") / "rootfs.ext4"
    image.parent.mkdir(parents=True)
    with image.open("wb") as file:
        file.truncate(128 << 20)
    return made


def planned(fake: FakeHost, size: int = SIZE) -> DiskPart:
    return DeviceMapper(fake.host).plan(VM, base=fake.paths.image("slim") / "rootfs.ext4", size=size)


def test_each_kind_has_drives_of_its_own(fake: FakeHost) -> None:
    found = {kind: drives(DiskPart(backend=kind, vm=VM, base="/b", size=SIZE), fake.paths) for kind in names("disk")}
    assert {kind: [drive.role for drive in each] for kind, each in found.items()} == {
        "devmapper": ["root"],
        "overlay": ["lower", "upper"],
        "reflink": ["root"],
    }
    assert words(found["overlay"], by_letter) == ("banger.lower=vda", "banger.upper=vdb")
    assert words(found["reflink"], by_serial) == ("banger.root=root",)
    assert [drive.path for each in found.values() for drive in each if drive.read_only] == ["/b"]


def test_only_a_disk_that_the_kernel_shows_is_attached(fake: FakeHost) -> None:
    assert [name for name, disk in Resources(fake.host).disks.items() if isinstance(disk, Attachable)] == ["devmapper"]


async def test_a_mapped_disk_is_a_sparse_file_and_while_it_is_attached_a_map(fake: FakeHost) -> None:
    disk, part = DeviceMapper(fake.host), planned(fake)
    assert not disk.inspect(part).present
    await disk.ensure(part)
    cow = fake.paths.cow(VM)
    assert cow.stat().st_size == cow_bytes(SIZE) > SIZE
    assert disk.inspect(part).used_bytes == 0
    assert fake.dm.maps == {}
    for _ in range(2):
        await disk.attach(part)
    assert fake.dm.maps == {f"banger-{VM}": Mapping(name=f"banger-{VM}", base=part.base, cow=str(cow), size=SIZE)}
    assert drives(part, fake.paths)[0].path == str(dm.node(f"banger-{VM}"))
    for _ in range(2):
        await disk.detach(part)
    assert fake.dm.maps == {}
    assert cow.exists()


async def test_making_it_again_keeps_what_was_written(fake: FakeHost) -> None:
    disk, part = DeviceMapper(fake.host), planned(fake)
    await disk.ensure(part)
    fake.paths.cow(VM).write_bytes(b"mine")
    await disk.ensure(part)
    assert fake.paths.cow(VM).read_bytes() == b"mine"


async def test_removing_it_takes_the_map_and_the_file(fake: FakeHost) -> None:
    disk, part = DeviceMapper(fake.host), planned(fake)
    await disk.ensure(part)
    await disk.attach(part)
    for _ in range(2):
        await disk.remove(part)
    assert fake.dm.maps == {}
    assert not fake.paths.vm_state(VM).exists()


async def test_one_that_is_kept_open_is_told_and_its_file_stays(fake: FakeHost) -> None:
    disk, part = DeviceMapper(fake.host), planned(fake)
    await disk.ensure(part)
    await disk.attach(part)
    fake.dm.held.add(f"banger-{VM}")
    with pytest.raises(Busy, match="kept open"):
        await disk.remove(part)
    assert fake.paths.cow(VM).exists()


async def test_a_lost_file_is_no_reason_to_start_with_an_empty_disk(fake: FakeHost) -> None:
    disk, part = DeviceMapper(fake.host), planned(fake)
    with pytest.raises(Corrupt, match="what the machine wrote is lost"):
        await disk.attach(part)


async def test_what_the_kernel_gave_up_on_a_full_disk_is_taken_back(fake: FakeHost) -> None:
    disk, part = DeviceMapper(fake.host), planned(fake)
    await disk.ensure(part)
    cow = fake.paths.cow(VM)
    for head in (b"SnAp\0\0\0\0\1\0\0\0\x08\0\0\0", b"SnAp\1\0\0\0\1\0\0\0\x08\0\0\0"):
        cow.write_bytes(head + b"more")
        await disk.attach(part)
        assert cow.read_bytes() == b"SnAp\1\0\0\0\1\0\0\0\x08\0\0\0more"
    cow.write_bytes(bytes(16))
    await disk.attach(part)
    assert cow.read_bytes() == bytes(16)


async def test_a_disk_that_the_kernel_gave_up_is_told_as_that_and_mapped_anew(fake: FakeHost) -> None:
    disk, part = DeviceMapper(fake.host), planned(fake)
    await disk.ensure(part)
    await disk.attach(part)
    cow, stale = fake.paths.cow(VM), fake.dm.maps[f"banger-{VM}"]
    cow.write_bytes(b"SnAp\0\0\0\0\1\0\0\0\x08\0\0\0")
    assert "make room" in disk.inspect(part).detail
    said: list[Event] = []
    with listening(said.append):
        await disk.attach(part)
    assert fake.dm.maps[f"banger-{VM}"] is not stale
    assert disk.inspect(part).detail == ""
    assert [event.detail.partition(":")[0] for event in said] == ["warning"]
    assert not dm.given_up(cow.with_name("none"))


async def test_a_disk_is_not_mapped_where_the_next_write_finds_no_room(fake: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, part = DeviceMapper(fake.host), planned(fake)
    await disk.ensure(part)
    monkeypatch.setattr(RealFiles, "free_bytes", lambda _, folder: 1 << 20)
    with pytest.raises(NoSpace, match="a mapped disk needs 64M"):
        await disk.attach(part)
    assert fake.dm.maps == {}


async def test_without_device_mapper_it_is_refused_and_told_by_doctor(fake: FakeHost) -> None:
    fake.dm.lacks = "/dev/mapper/control is missing"
    disk = DeviceMapper(fake.host)
    assert await disk.usable() == fake.dm.lacks
    assert [finding.level for finding in await disk.check()] == [Level.WARN]
    with pytest.raises(HostLacks, match="is missing"):
        await disk.ensure(planned(fake))


@pytest.mark.parametrize("kind", [DeviceMapper, Reflink])
async def test_an_image_that_does_not_fit_or_has_no_journal_or_is_gone_is_refused(fake: FakeHost, kind: type[DeviceMapper] | type[Reflink]) -> None:
    disk = kind(fake.host)
    base = fake.paths.image("slim") / "rootfs.ext4"
    with pytest.raises(BadRequest, match="cannot hold it"):
        await disk.ensure(disk.plan(VM, base=base, size=64 << 20))
    fake.ext4.journal = False
    with pytest.raises(BadRequest, match="no journal"):
        await disk.ensure(disk.plan(VM, base=base, size=SIZE))
    base.unlink()
    with pytest.raises(Corrupt, match="is missing"):
        await disk.ensure(disk.plan(VM, base=base, size=SIZE))
    with pytest.raises(BadRequest, match="not possible"):
        disk.plan(VM, base=base, size=SIZE + 1)
    assert not fake.paths.vm_state(VM).exists()


def test_the_kernels_tables_are_what_its_documentation_says() -> None:
    assert dm.base_table(100, 100, (7, 3)) == [(0, 100, "linear", "7:3 0")]
    assert dm.base_table(100, 160, (7, 3)) == [(0, 100, "linear", "7:3 0"), (100, 60, "zero", "")]
    assert dm.snapshot_table(160, (253, 0), (7, 4)) == [(0, 160, "snapshot", "253:0 7:4 P 8")]


def test_a_table_is_encoded_in_steps_of_eight_bytes() -> None:
    data = dm.encode_table([(0, 100, "linear", "7:3 0"), (100, 60, "zero", "")])
    start, length, _, further, kind = dm.TARGET.unpack_from(data)
    assert (start, length, further % 8, kind.rstrip(b"\0")) == (0, 100, 0, b"linear")
    assert data[dm.TARGET.size : dm.TARGET.size + 6] == b"7:3 0\0"
    assert dm.TARGET.unpack_from(data, further)[4].rstrip(b"\0") == b"zero"
    assert len(data) == further + dm.TARGET.unpack_from(data, further)[3]


def test_the_list_of_maps_is_read_to_its_end_and_no_further() -> None:
    empty = dm.request("", room=64)
    assert dm.parse_names(bytes(empty)) == []
    first = (5).to_bytes(8, "little") + (24).to_bytes(4, "little") + b"banger-a\0\0\0\0"
    second = (6).to_bytes(8, "little") + bytes(4) + b"other\0"
    assert dm.parse_names(bytes(dm.request("", data=first + second))) == ["banger-a", "other"]
