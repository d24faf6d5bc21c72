"""Bundles: what is saved comes back byte for byte; what is not exactly as listed is refused as a whole and leaves nothing."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import tarfile
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from banger.daemon import Daemon
from banger.host.bundle import RealBundles
from banger.host.zstd import ZstdCompressor, ZstdDecompressor
from banger.model import codec
from banger.model.bundle import LARGEST_MANIFEST, Bundle, BundledFile, checked
from banger.model.errors import AlreadyExists, BadRequest, BangerError, Corrupt, NoSpace, NotFound, WrongState
from banger.model.operation import Loaded, Saved
from tests.elf import kernel, module
from tests.place import IMAGE, KERNEL, OTTER, Place, result
from tests.unit.test_volume import ext4

ROOTFS = bytes(ext4()) + bytes(4 << 20)
VMLINUX = kernel()
MODULE = module("extra")


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


THE_IMAGE = msgspec.structs.replace(IMAGE, digest=digest(ROOTFS), size_bytes=len(ROOTFS))
THE_KERNEL = msgspec.structs.replace(KERNEL, digest=digest(VMLINUX), size_bytes=len(VMLINUX))
FILES = {"images/box/rootfs.ext4": ROOTFS, "kernels/linux/vmlinux": VMLINUX, "kernels/linux/modules/kernel/extra.ko": MODULE}
LISTED = tuple(BundledFile(path=path, size=len(data), digest=digest(data)) for path, data in FILES.items())
BUNDLE = Bundle(images=(THE_IMAGE,), kernels=(THE_KERNEL,), files=LISTED)


def packed(bundle: Bundle = BUNDLE, files: dict[str, bytes] = FILES, *, tail: bytes = b"", kind: bytes = tarfile.REGTYPE) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path, data in {"manifest.json": codec.encode(bundle), **files}.items():
            member = tarfile.TarInfo(path)
            member.size, member.type = len(data), tarfile.REGTYPE if path == "manifest.json" else kind
            tar.addfile(member, io.BytesIO(data))
    packer = ZstdCompressor()
    return packer.compress(buffer.getvalue() + tail) + packer.flush()


async def stocked(place: Place) -> Daemon:
    """A daemon with an image and a kernel that have bytes."""
    for folder, manifest in ((place.fake.paths.images, THE_IMAGE), (place.fake.paths.kernels, THE_KERNEL)):
        (folder / manifest.name / "manifest.json").write_bytes(codec.encode(manifest))
    for path, data in FILES.items():
        target = place.fake.paths.state / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return await place.daemon()


async def bare(place: Place) -> Daemon:
    """A daemon with nothing."""
    for name in ("images/box", "kernels/linux"):
        place.host.files.remove_tree(place.fake.paths.state / name)
    return await place.daemon()


async def last(stream: AsyncIterator[object]) -> object:
    return [item async for item in stream][-1]


async def load(daemon: Daemon, file: Path, *, force: bool = False) -> Loaded:
    return cast(Loaded, await last(daemon.bundles.load(file=str(file), force=force)))


def seen(place: Place) -> dict[str, bytes]:
    """All files on the shelves but the manifests."""
    shelves = (place.fake.paths.images, place.fake.paths.kernels)
    found = [path for shelf in shelves for path in shelf.rglob("*") if path.is_file() and path.name != "manifest.json"]
    return {str(path.relative_to(place.fake.paths.state)): path.read_bytes() for path in found}


async def test_what_was_saved_comes_back(place: Place, tmp_path: Path) -> None:
    daemon = await stocked(place)
    saved = cast(Saved, await last(daemon.bundles.save(["box"], file=str(tmp_path))))
    assert (saved.images, saved.kernels) == (("box",), ("linux",))
    file = Path(saved.file)
    assert saved.digest == digest(file.read_bytes())
    assert file.name == f"box-x86_64-{saved.digest[7:19]}.tar.zst", "it is named after its content"
    assert await load(daemon, file) == Loaded(images=(), kernels=(), present=("box", "linux"))
    await daemon.images.delete("box")
    await daemon.kernels.delete("linux")
    assert await load(daemon, file) == Loaded(images=("box",), kernels=("linux",), present=())
    assert seen(place) == FILES
    assert daemon.kernels.show("linux") == THE_KERNEL
    assert (place.fake.paths.image("box") / "rootfs.ext4").stat().st_blocks * 512 < len(ROOTFS) / 4, "zeros are holes"
    tar = tarfile.open(fileobj=io.BytesIO(ZstdDecompressor().decompress(file.read_bytes())))  # noqa: SIM115  # it is memory
    assert [member.name for member in tar] == ["manifest.json", *FILES], "any tar reads it"


async def test_a_file_is_not_written_over_and_a_cancelled_one_never_gets_a_name(place: Place, tmp_path: Path) -> None:
    daemon = await stocked(place)
    (tmp_path / "there").write_bytes(b"mine")
    with pytest.raises(AlreadyExists):
        daemon.bundles.save(["box"], file=str(tmp_path / "there"))
    (place.fake.paths.image("box") / "rootfs.ext4").write_bytes(ROOTFS[:-1] + b"x")
    with pytest.raises(Corrupt, match="changed, or is broken"):
        await last(daemon.bundles.save(["box"], file=str(tmp_path / "new")))
    assert not (tmp_path / "new").exists()
    for names, error in (([], BadRequest), (["nothing"], NotFound)):
        with pytest.raises(error):
            daemon.bundles.save(names, file=str(tmp_path / "new"))


def with_file(**changes: object) -> Bundle:
    """The bundle with its module listed otherwise."""
    return msgspec.structs.replace(BUNDLE, files=(*LISTED[:2], msgspec.structs.replace(LISTED[2], **changes)))


@pytest.mark.parametrize(
    "bundle",
    [
        with_file(path="kernels/linux/../../../etc/passwd"),
        with_file(path="/etc/passwd"),
        with_file(path="kernels/other/modules/x.ko"),
        with_file(path="kernels/linux/modules/../x.ko"),
        with_file(path="kernels/linux/modules//x.ko"),
        with_file(path="kernels/linux/manifest.json"),
        with_file(path="kernels/linux/modules/run.sh"),
        with_file(path="images/box/vmlinux"),
        with_file(path="kernels/linux/vmlinux"),
        with_file(size=-1),
        with_file(size=1 << 60),
        with_file(digest="sha256:0"),
        msgspec.structs.replace(BUNDLE, version=2),
        msgspec.structs.replace(BUNDLE, files=LISTED[1:]),
        msgspec.structs.replace(BUNDLE, images=(THE_IMAGE, THE_IMAGE)),
        msgspec.structs.replace(BUNDLE, images=(msgspec.structs.replace(THE_IMAGE, digest=digest(b"")),)),
    ],
)
async def test_a_list_that_leads_elsewhere_or_is_not_whole_is_refused_before_anything_is_taken(place: Place, bundle: Bundle, tmp_path: Path) -> None:
    daemon = await bare(place)
    (tmp_path / "b").write_bytes(packed(bundle))
    with pytest.raises((Corrupt, BadRequest)):
        await load(daemon, tmp_path / "b")
    assert [*place.fake.paths.images.iterdir(), *place.fake.paths.kernels.iterdir()] == []


def of_length(size: int) -> bytes:
    """A bundle whose manifest is said to be that long."""
    member = tarfile.TarInfo("manifest.json")
    member.size = size
    return member.tobuf(tarfile.GNU_FORMAT) + bytes(5 * 512)


FEWER = {path: data for path, data in FILES.items() if path != LISTED[1].path}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a bundle|cut short"),
        (b"no bundle at all" * 100, "not a bundle"),
        (packed()[:-10], "cut short"),
        (packed() + b"x", "goes on"),
        (packed(files={**FILES, "more": b"x"}), "more in it"),
        (packed(files=FEWER), "should be"),
        (packed(files={**FILES, LISTED[1].path: VMLINUX[:-1] + b"x"}), "digest"),
        (packed(files={**FILES, LISTED[1].path: VMLINUX + b"x"}), "not as long"),
        (packed(files=dict(reversed(FILES.items()))), "should be"),
        (packed(files=dict.fromkeys(FILES, b""), kind=tarfile.SYMTYPE), "should be"),
        (packed(tail=b"more"), "more in it"),
        (of_length(-1), "-1 bytes long"),
        (of_length(LARGEST_MANIFEST + 1), "larger than any"),
    ],
)
async def test_a_bundle_that_is_not_exactly_what_it_lists_leaves_nothing(place: Place, data: bytes, reason: str, tmp_path: Path) -> None:
    daemon = await bare(place)
    (tmp_path / "b").write_bytes(data)
    with pytest.raises(Corrupt, match=reason):
        await load(daemon, tmp_path / "b")
    assert [*place.fake.paths.images.iterdir(), *place.fake.paths.kernels.iterdir()] == []


async def test_an_image_of_a_bundle_is_never_a_file_of_this_host(place: Place, tmp_path: Path) -> None:
    daemon = await bare(place)
    stolen = msgspec.structs.replace(THE_IMAGE, file="/etc/shadow", stamp=(1, 1))
    (tmp_path / "b").write_bytes(packed(msgspec.structs.replace(BUNDLE, images=(stolen,))))
    await load(daemon, tmp_path / "b")
    assert daemon.images.base(daemon.images.show("box")) == place.fake.paths.image("box") / "rootfs.ext4"


async def test_what_is_here_is_replaced_by_force_only_and_not_while_it_is_used(place: Place, tmp_path: Path) -> None:
    daemon = await place.daemon()
    (tmp_path / "b").write_bytes(packed())
    with pytest.raises(AlreadyExists, match="another image box"):
        await load(daemon, tmp_path / "b")
    made = await result(await daemon.vms.create(OTTER, start=False, wait="agent"))
    with pytest.raises(WrongState, match="otter"):
        await load(daemon, tmp_path / "b", force=True)
    await daemon.vms.delete(made.id)
    await daemon.images.delete("box")
    assert (await load(daemon, tmp_path / "b", force=True)).kernels == ("linux",)
    assert seen(place) == FILES


@settings(max_examples=200)
@given(changes=st.lists(st.tuples(st.integers(0, 4000), st.binary(min_size=1, max_size=8)), min_size=1, max_size=5), cut=st.integers(0, 2000))
def test_a_mutated_bundle_is_taken_whole_or_refused_and_stays_inside(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, bytes]], cut: int
) -> None:
    folder = tmp_path_factory.mktemp("bundle")
    plain = bytearray(ZstdDecompressor().decompress(SMALL))
    for at, data in changes:
        plain[at : at + len(data)] = data
    packer = ZstdCompressor()
    (folder / "b").write_bytes(packer.compress(bytes(plain[: len(plain) - cut])) + packer.flush())
    with suppress(BangerError):
        asyncio.run(RealBundles().read(folder / "b", lambda kind, inside: folder / "out" / kind / inside))
    assert {path.name for path in folder.iterdir()} <= {"b", "out"}


SMALL_KERNEL = msgspec.structs.replace(THE_KERNEL, size_bytes=4, digest=digest(b"tiny"))
SMALL = packed(
    Bundle(kernels=(SMALL_KERNEL,), files=(BundledFile(path="kernels/linux/vmlinux", size=4, digest=digest(b"tiny")),)),
    {"kernels/linux/vmlinux": b"tiny"},
)
words = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@settings(max_examples=200)
@given(key=st.sampled_from(["version", "images", "kernels", "files", "other"]), value=words)
def test_a_manifest_of_anything_is_a_bundle_or_refused(key: str, value: object) -> None:
    text = json.dumps(json.loads(codec.encode(BUNDLE)) | {key: value}).encode()
    with suppress(BangerError):
        checked(codec.decode(text, Bundle, what="it"), "it")


URL = "https://example.org/box.tar.zst"


async def fetched(daemon: Daemon, url: str = URL, *, sha256: str | None = None, unverified: bool = False) -> Loaded:
    return cast(Loaded, await last(daemon.bundles.load(file=url, sha256=sha256, unverified=unverified)))


async def test_a_bundle_from_the_web_is_taken_if_it_is_what_it_must_be(place: Place) -> None:
    daemon = await bare(place)
    place.fake.web.pages[URL] = packed()
    with pytest.raises(Corrupt, match="is not what it must be"):
        await fetched(daemon, sha256="0" * 64)
    assert [*place.fake.paths.images.iterdir(), *place.fake.paths.kernels.iterdir()] == []
    assert (await fetched(daemon, sha256=digest(packed()))).images == ("box",)
    assert seen(place) == FILES
    assert {path.name for path in place.fake.paths.images.iterdir()} == {"box"}


async def test_a_bundle_from_the_web_needs_a_digest_unless_it_is_said_otherwise(place: Place) -> None:
    daemon = await bare(place)
    place.fake.web.pages[URL] = packed()
    for url, sha256 in ((URL, None), (URL, "12"), ("http://example.org/b", "0" * 64), ("ftp://example.org/b", "0" * 64)):
        with pytest.raises(BadRequest):
            daemon.bundles.load(file=url, sha256=sha256)
    assert place.fake.web.asked == []
    assert (await fetched(daemon, unverified=True)).images == ("box",)


async def test_a_file_is_held_to_a_digest_too(place: Place, tmp_path: Path) -> None:
    daemon = await bare(place)
    (tmp_path / "b").write_bytes(packed())
    with pytest.raises(Corrupt, match="is not what it must be"):
        await last(daemon.bundles.load(file=str(tmp_path / "b"), sha256="0" * 64))
    await last(daemon.bundles.load(file=str(tmp_path / "b"), sha256=digest(packed())))
    assert seen(place) == FILES


async def test_what_cannot_fit_is_not_fetched_to_its_end(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = await bare(place)
    place.fake.web.pages[URL] = packed()
    monkeypatch.setattr("banger.backends.downloads.check_room", full)
    with pytest.raises(NoSpace):
        await fetched(daemon, unverified=True)
    assert list(place.fake.paths.images.iterdir()) == []


def full(files: object, folder: Path, need: int, what: str) -> None:
    """As check_room does where nothing is free."""
    raise NoSpace(f"making {what} needs {need}")
