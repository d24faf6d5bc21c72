"""Kernels from anywhere: what they lack is found before anything boots; broken, foreign and hostile ones are refused and leave nothing."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import lzma
import tarfile
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from banger.backends import load
from banger.backends.guestkernels import left_out
from banger.daemon.artefacts import Shelf
from banger.daemon.boots import MODULES
from banger.daemon.images import Kernels
from banger.daemon.operations import Operations
from banger.host.archive import RealArchive, unpacked_kernel
from banger.host.kernelfile import kernel_facts
from banger.model.catalog import KernelEntry, KernelManifest, KernelPart
from banger.model.errors import AlreadyExists, BadRequest, BangerError, Corrupt, NotFound
from banger.model.event import Event
from banger.model.kernels import NEEDS, configured, judge, unfit
from banger.testing import FakeHost
from tests.elf import kernel, module
from tests.unit.test_archive import bz_image

GOOD = "".join(f"CONFIG_{need.symbols[0]}=y\n" for need in NEEDS)
PARTS = [need.name for need in NEEDS if need.module and need.lost]


def without(*symbols: str) -> str:
    return "".join(line + "\n" for line in GOOD.splitlines() if line.partition("=")[0].removeprefix("CONFIG_") not in symbols)


# --- judging


def test_a_kernel_with_everything_lacks_nothing() -> None:
    found = judge(configured(GOOD), listed=None, modules=(), architecture="x86_64")
    assert (found.lacks, found.refusal) == ({}, "")
    assert {*MODULES} <= {*found.builtin}, "whatever the initramfs would load is known to be there"


@pytest.mark.parametrize(
    ("symbol", "name", "fatal"),
    [
        ("VIRTIO_MMIO", "virtio_mmio", True),
        ("VIRTIO_BLK", "virtio_blk", True),
        ("EXT4_FS", "ext4", True),
        ("BLK_DEV_INITRD", "initramfs", True),
        ("OVERLAY_FS", "overlay", False),
        ("VIRTIO_VSOCKETS", "vmw_vsock_virtio_transport", False),
        ("VIRTIO_NET", "virtio_net", False),
        ("PVH", "pvh", False),
    ],
)
def test_what_is_not_configured_is_missing_and_some_of_it_is_needed_by_every_machine(symbol: str, name: str, fatal: bool) -> None:
    found = judge(configured(without(symbol)), listed=None, modules=(), architecture="x86_64")
    assert list(found.lacks) == [name]
    assert bool(found.refusal) == fatal


def test_a_module_counts_only_when_it_is_there() -> None:
    config = configured(GOOD.replace("OVERLAY_FS=y", "OVERLAY_FS=m"))
    assert "overlay" in judge(config, listed=None, modules=(), architecture="x86_64").lacks
    found = judge(config, listed=None, modules=["overlay"], architecture="x86_64")
    assert found.lacks == {}
    assert "overlay" not in found.builtin


def test_without_a_channel_to_the_agent_no_machine_can_be_reached() -> None:
    found = judge(configured(without("VIRTIO_CONSOLE", "VIRTIO_VSOCKETS")), listed=None, modules=(), architecture="x86_64")
    assert "no machine can be reached" in found.refusal


def test_without_a_configuration_the_lists_of_modules_tell_as_far_as_they_go() -> None:
    found = judge(None, listed={"ext4", "virtio_blk", "virtio_mmio"}, modules={"virtio_console", "virtio_net"}, architecture="x86_64")
    assert {*found.lacks} == {"overlay", "vmw_vsock_virtio_transport", "virtio_rng"}
    assert judge(None, listed=None, modules=(), architecture="x86_64").lacks == {}, "what nothing tells is taken to be there"


def test_a_machine_is_refused_what_its_kernel_cannot() -> None:
    lacks = judge(configured(without("OVERLAY_FS", "VIRTIO_VSOCKETS")), listed=None, modules=(), architecture="x86_64").lacks
    assert "overlay" in unfit(lacks, vmm="qemu", disk="overlay", network="none")
    assert unfit(lacks, vmm="qemu", disk="reflink", network="user") == ""
    assert "vsock" in unfit(lacks, vmm="firecracker", disk="reflink", network="none")


# --- importing


class Over(Exception):
    """The test is over."""


class Place:
    """A shelf of kernels with the real sources, and a folder of the user's."""

    def __init__(self, fake: FakeHost, tasks: asyncio.TaskGroup, home: Path) -> None:
        self.fake, self.home = fake, home
        home.mkdir()
        fake.paths.kernels.mkdir(parents=True)
        self.catalog: dict[str, KernelEntry] = {}
        self.shelf: Shelf[KernelEntry, KernelManifest, KernelPart] = Shelf(
            "kernel",
            host=fake.host,
            folder=fake.paths.kernels,
            catalog=self.catalog,
            manifest=KernelManifest,
            source=lambda name: load("kernel", name, fake.host),
        )
        self.kernels = Kernels(self.shelf, Operations(fake.clock, tasks), lambda _: [])

    def put(self, path: str, data: bytes) -> Path:
        place = self.home / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        return place

    async def take(self, path: Path, name: str = "mine", *, force: bool = False) -> KernelManifest:
        *events, made = [item async for item in self.kernels.take(name, file=str(path), force=force)]
        self.told = [event.detail for event in events if isinstance(event, Event)]
        assert isinstance(made, KernelManifest)
        return made

    def offer(self, archive: bytes) -> None:
        digest = hashlib.sha256(archive).hexdigest()
        self.fake.web.pages["https://example.org/k.tar"] = archive
        self.catalog["mine"] = KernelEntry(name="mine", source="tarball", url="https://example.org/k.tar", sha256=digest)

    def seen(self) -> list[str]:
        return sorted(str(path.relative_to(self.fake.paths.kernels)) for path in self.fake.paths.kernels.rglob("*") if path.is_file())


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    try:
        async with FakeHost(tmp_path) as fake, asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            yield Place(fake, tasks, tmp_path / "home")
            raise Over
    except* Over:
        pass


async def test_a_vmlinux_says_its_release_and_what_is_in_it(place: Place) -> None:
    made = await place.take(place.put("vmlinux", kernel(config=without("OVERLAY_FS"))))
    assert (made.release, made.architecture, made.source) == ("6.1.0-test", "x86_64", "folder")
    assert list(made.lacks) == ["overlay"]
    assert place.seen() == ["mine/manifest.json", "mine/vmlinux"]


async def test_a_bzimage_is_unpacked(place: Place) -> None:
    plain = kernel(config=GOOD)
    made = await place.take(place.put("bzImage", bz_image(gzip.compress(plain), size=len(plain))))
    assert made.digest == f"sha256:{hashlib.sha256(plain).hexdigest()}"


async def test_a_folder_has_kernel_configuration_and_modules_and_its_initrd_is_left_out(place: Place) -> None:
    place.put("boot/vmlinuz-6.1.0-test", kernel())
    place.put("boot/config-6.1.0-test", GOOD.replace("=y", "=m").replace("INITRD=m", "INITRD=y").encode())
    place.put("boot/config-5.0", b"")
    place.put("boot/initrd.img-6.1.0-test", b"an initrd")
    for name in PARTS:
        place.put(f"lib/modules/6.1.0-test/kernel/{name}.ko.xz", lzma.compress(module(name)))
    place.put("lib/modules/6.1.0-test/build/Makefile", b"not wanted")
    place.put("lib/modules/5.0/kernel/other.ko", module("other", release="5.0"))
    (place.home / "lib/modules/6.1.0-test/kernel/loop.ko").symlink_to("/etc/passwd")
    with pytest.raises(BadRequest, match="lacks binfmt_elf"):
        await place.take(place.home)
    place.put("boot/config-6.1.0-test", GOOD.replace("OVERLAY_FS=y", "OVERLAY_FS=m").encode())
    made = await place.take(place.home)
    assert left_out(f"{place.home}/boot/initrd.img-6.1.0-test") in place.told
    assert made.lacks == {}
    assert "overlay" not in made.builtin
    assert place.seen() == [
        *("mine/config", "mine/manifest.json"),
        *sorted(f"mine/modules/kernel/{name}.ko" for name in PARTS),
        "mine/vmlinux",
    ]


async def test_a_kernel_in_boot_has_its_modules_where_the_root_has_them(place: Place) -> None:
    image = place.put("boot/vmlinuz-6.1.0-test", kernel())
    place.put("lib/modules/6.1.0-test/modules.builtin", b"".join(f"kernel/{name}.ko\n".encode() for name in PARTS if name != "overlay"))
    place.put("lib/modules/6.1.0-test/kernel/overlay.ko", module("overlay"))
    made = await place.take(image)
    assert made.lacks == {}
    assert place.fake.paths.kernel("mine").joinpath("modules/modules.builtin").exists()


@pytest.mark.parametrize(
    ("data", "error", "reason"),
    [
        (kernel(config=without("VIRTIO_MMIO")), BadRequest, "virtio_mmio"),
        (kernel(machine=183), BadRequest, "for aarch64"),
        (kernel(machine=8), Corrupt, "does not know"),
        (kernel()[:-250], Corrupt, "cut short"),
        (kernel()[:40], Corrupt, "sound|short"),
        (module("x"), Corrupt, "nothing that can be started"),
        (kernel().replace(b"Linux version", b"Minix version"), Corrupt, "which release"),
        (b"#!/bin/sh\n", Corrupt, "no kernel"),
        (b"", Corrupt, "no kernel"),
        (b"\x7fELF\x01\x01" + bytes(200), Corrupt, "64-bit"),
    ],
)
async def test_what_cannot_be_a_kernel_is_refused_and_leaves_nothing(place: Place, data: bytes, error: type[BangerError], reason: str) -> None:
    with pytest.raises(error, match=reason):
        await place.take(place.put("vmlinux", data))
    assert list(place.fake.paths.kernels.iterdir()) == []


async def test_modules_of_another_build_are_refused(place: Place) -> None:
    place.put("vmlinux", kernel())
    place.put("modules/kernel/overlay.ko", module("overlay", release="6.2"))
    with pytest.raises(BadRequest, match=r"made for 6\.2"):
        await place.take(place.home)


async def test_a_module_that_needs_one_that_is_not_there_is_not_whole(place: Place) -> None:
    place.put("vmlinux", kernel())
    place.put("config", GOOD.replace("OVERLAY_FS=y", "OVERLAY_FS=m").encode())
    place.put("modules/kernel/overlay.ko", module("overlay", depends="under"))
    with pytest.raises(BadRequest, match="under"):
        await place.take(place.home)
    place.put("modules/kernel/under.ko", b"\x7fELF\x02\x01 but no more")
    with pytest.raises(BangerError, match="not a kernel module"):
        await place.take(place.home)
    assert list(place.fake.paths.kernels.iterdir()) == []


async def test_several_kernels_and_none_are_told_apart(place: Place) -> None:
    with pytest.raises(NotFound, match="no kernel in"):
        await place.take(place.home)
    place.put("vmlinuz-1", kernel())
    place.put("vmlinuz-2", kernel())
    with pytest.raises(BadRequest, match="several kernels"):
        await place.take(place.home)
    with pytest.raises(NotFound):
        await place.take(place.home / "nothing")


async def test_two_imports_of_one_name_at_once_make_one(place: Place) -> None:
    path = place.put("vmlinux", kernel(config=GOOD))
    results = await asyncio.gather(place.take(path), place.take(path), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["AlreadyExists", "KernelManifest"]
    with pytest.raises(AlreadyExists):
        await place.take(path)
    assert await place.take(path, force=True)


# --- from an archive


def archive(*members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname = kind if name == "evil" else tarfile.REGTYPE, len(data), "vmlinux"
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


WHOLE = (("./vmlinux", kernel(config=GOOD)), ("config", GOOD.encode()), ("initrd.img", b"x"), ("modules/kernel/extra.ko", module("extra")))


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
async def test_an_archive_of_the_catalog_becomes_a_kernel(place: Place, pack: Callable[[bytes], bytes]) -> None:
    place.offer(pack(archive(*WHOLE)))
    made = await place.kernels.need("mine")
    assert made.source == "tarball"
    assert place.seen() == ["mine/config", "mine/manifest.json", "mine/modules/kernel/extra.ko", "mine/vmlinux"]


@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        (archive(*WHOLE[1:]), "no vmlinux"),
        (archive(*WHOLE, ("README", b"hello")), "README"),
        (archive(*WHOLE, ("../vmlinux", b"x")), "does not belong|outside"),
        (archive(*WHOLE, ("modules/../../x.ko", b"x")), "outside"),
        (archive(*WHOLE, ("/modules/x.ko", b"x")), "does not belong|outside"),
        (archive(*WHOLE, ("evil", b""), kind=tarfile.SYMTYPE), "evil"),
        (archive(*WHOLE, ("evil", b""), kind=tarfile.LNKTYPE), "evil"),
        (archive(*WHOLE, ("evil", b""), kind=tarfile.CHRTYPE), "evil"),
        (archive(*WHOLE, ("vmlinux", b"again")), "two files"),
        (gzip.compress(archive(*WHOLE))[:-20], "cut short"),
        (b"no archive", "not a sound tar"),
    ],
)
async def test_an_archive_with_anything_else_is_refused_and_leaves_nothing(place: Place, packed: bytes, reason: str) -> None:
    place.offer(packed)
    with pytest.raises(Corrupt, match=reason):
        await place.kernels.need("mine")
    assert list(place.fake.paths.kernels.iterdir()) == []


async def test_an_archive_with_another_digest_is_not_even_unpacked(place: Place) -> None:
    place.offer(archive(*WHOLE))
    place.fake.web.pages["https://example.org/k.tar"] += b"\0"
    with pytest.raises(Corrupt, match="digest"):
        await place.kernels.need("mine")
    assert list(place.fake.paths.kernels.iterdir()) == []


@pytest.mark.parametrize(
    "entry", [KernelEntry(name="mine", source="tarball", url="https://x/y"), KernelEntry(name="mine", source="tarball", sha256="0" * 64)]
)
async def test_an_entry_without_a_digest_is_refused(place: Place, entry: KernelEntry) -> None:
    place.catalog["mine"] = entry
    with pytest.raises(BadRequest, match="needs url and sha256"):
        await place.kernels.need("mine")


# --- whatever the bytes are

MUTATIONS = st.lists(st.tuples(st.integers(0, 600), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6)


def changed(data: bytes, changes: list[tuple[int, bytes]], cut: int) -> bytes:
    made = bytearray(data)
    for at, piece in changes:
        made[at : at + len(piece)] = piece
    return bytes(made[: len(made) - cut])


@settings(max_examples=200)
@given(changes=MUTATIONS, cut=st.integers(0, 300))
def test_a_mutated_kernel_is_described_or_refused(tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, bytes]], cut: int) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated"
    path.write_bytes(changed(kernel(config=GOOD), changes, cut))
    with suppress(BangerError):
        kernel_facts(path)
        unpacked_kernel(path.read_bytes())


@settings(max_examples=200)
@given(changes=MUTATIONS, cut=st.integers(0, 3000))
def test_a_mutated_archive_is_taken_or_refused_and_stays_inside(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, bytes]], cut: int
) -> None:
    folder = tmp_path_factory.mktemp("tar")
    (folder / "a.tar").write_bytes(changed(archive(*WHOLE), changes, cut))

    async def work() -> None:
        with suppress(BangerError):
            await RealArchive().take(folder / "a.tar", folder / "out", lambda name: name, limit=1 << 20)

    asyncio.run(work())
    assert {path.name for path in folder.iterdir()} <= {"a.tar", "out"}
