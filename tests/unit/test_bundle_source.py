"""Source `bundle`: an image and its kernel out of a bundle on the web, which is fetched once for both, and is what it must be."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from banger.daemon import Daemon
from banger.model import codec
from banger.model.bundle import Bundle, BundledFile
from banger.model.catalog import ImageCatalog, ImageEntry, KernelCatalog, KernelEntry, Wish
from banger.model.errors import BadRequest, BangerError, Corrupt
from tests.elf import kernel
from tests.place import Place
from tests.unit.test_bundles import BUNDLE, FILES, ROOTFS, THE_IMAGE, THE_KERNEL, URL, digest, packed
from tests.unit.test_bundles import bare as emptied
from tests.unit.test_guest_kernels import GOOD, without

VMLINUX = kernel(config=GOOD)
REAL_KERNEL = msgspec.structs.replace(THE_KERNEL, digest=digest(VMLINUX), size_bytes=len(VMLINUX))
REAL = {path: VMLINUX if path.endswith("vmlinux") else data for path, data in FILES.items()}
WHOLE = Bundle(
    images=(THE_IMAGE,),
    kernels=(REAL_KERNEL,),
    files=tuple(BundledFile(path=path, size=len(data), digest=digest(data)) for path, data in REAL.items()),
)


async def offering(place: Place, data: bytes, **changes: object) -> Daemon:
    """A daemon with nothing, whose catalogs have an image and a kernel of a bundle."""
    place.fake.web.pages[URL] = data
    sha256 = hashlib.sha256(data).hexdigest()
    image = msgspec.structs.replace(ImageEntry(name="box", source="bundle", kernel="linux", url=URL, sha256=sha256), **changes)
    linux = KernelEntry(name="linux", source="bundle", url=image.url, sha256=image.sha256)
    for name, catalog in (("images", ImageCatalog(version=1, entries=(image,))), ("kernels", KernelCatalog(version=1, entries=(linux,)))):
        place.fake.paths.config.mkdir(exist_ok=True)
        (place.fake.paths.config / f"{name}.json").write_bytes(codec.encode(catalog))
    return await emptied(place)


async def pulled(daemon: Daemon, name: str = "box") -> None:
    async for _ in daemon.images.pull(name, Wish(), force=False):
        pass


def left(place: Place) -> list[str]:
    paths = place.fake.paths
    every = (path for root in (paths.images, paths.kernels, paths.cache) for path in root.rglob("*") if path.is_file() and path.parent != paths.blobs)
    return sorted(str(path.relative_to(paths.state.parent)) for path in every)


async def test_an_image_and_its_kernel_come_from_one_bundle_that_is_fetched_once(place: Place) -> None:
    daemon = await offering(place, packed(WHOLE, REAL))
    await pulled(daemon)
    assert place.fake.web.asked == [URL]
    image, linux = daemon.images.show("box"), daemon.kernels.show("linux")
    assert (image.source, image.kernel, image.digest, linux.source) == ("bundle", "linux", digest(ROOTFS), "bundle")
    assert (place.fake.paths.image("box") / "rootfs.ext4").read_bytes() == ROOTFS
    assert (place.fake.paths.kernel("linux") / "vmlinux").read_bytes() == VMLINUX
    assert [path for path in left(place) if path.startswith("cache")] == [], "what was in between is gone"


async def test_the_kernel_that_is_here_is_kept(place: Place) -> None:
    daemon = await offering(place, packed(WHOLE, REAL))
    await daemon.kernels.need("linux")
    place.fake.web.asked.clear()
    await pulled(daemon)
    assert place.fake.web.asked == [URL]
    assert [path for path in left(place) if path.startswith("cache")] == []


async def test_what_lies_in_the_cache_is_verified_before_it_is_used(place: Place) -> None:
    daemon = await offering(place, packed(WHOLE, REAL))
    await daemon.images.shelf.need("box")
    between = [path for path in left(place) if path.startswith("cache")]
    assert between == [f"cache/bundles/{hashlib.sha256(packed(WHOLE, REAL)).hexdigest()}.tar.zst"], "it is named after its content"
    (place.fake.paths.state.parent / between[0]).write_bytes(b"something else")
    await daemon.kernels.need("linux")
    assert place.fake.web.asked == [URL, URL]
    assert daemon.kernels.show("linux").digest == digest(VMLINUX)


async def test_an_image_may_be_called_otherwise_here(place: Place) -> None:
    daemon = await offering(place, packed(WHOLE, REAL), name="mine")
    await pulled(daemon, "mine")
    assert daemon.images.show("mine").name == "mine"


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"sha256": "0" * 64}, Corrupt, "is not what it must be"),
        ({"sha256": ""}, BadRequest, "needs url and sha256"),
        ({"sha256": "A" * 64}, BadRequest, "needs url and sha256"),
        ({"url": ""}, BadRequest, "needs url and sha256"),
        ({"url": "http://example.org/b"}, BadRequest, "not an address"),
        ({"kernel": ""}, BadRequest, "no kernel is named"),
    ],
)
async def test_an_entry_that_cannot_be_had_leaves_nothing(place: Place, changes: dict[str, object], error: type[BangerError], reason: str) -> None:
    daemon = await offering(place, packed(WHOLE, REAL), **changes)
    with pytest.raises(error, match=reason):
        await pulled(daemon)
    assert left(place) == []


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (packed(WHOLE, REAL)[:-10], "cut short"),
        (b"no bundle at all" * 100, "not a bundle"),
        (packed(msgspec.structs.replace(WHOLE, version=2), REAL), "has version 2"),
        (
            packed(
                Bundle(kernels=WHOLE.kernels, files=WHOLE.files[1:]), {path: data for path, data in REAL.items() if "vmlinux" in path or "mod" in path}
            ),
            "0 images",
        ),
        (packed(BUNDLE, {**FILES, "more": b"x"}), "more in it"),
    ],
)
async def test_a_bundle_that_is_not_one_leaves_nothing(place: Place, data: bytes, reason: str) -> None:
    daemon = await offering(place, data)
    with pytest.raises(Corrupt, match=reason):
        await pulled(daemon)
    assert left(place) == []


async def test_a_kernel_of_a_bundle_is_judged_as_any_other(place: Place) -> None:
    poor = kernel(config=without("VIRTIO_MMIO"))
    listed = BundledFile(path="kernels/linux/vmlinux", size=len(poor), digest=digest(poor))
    manifest = msgspec.structs.replace(THE_KERNEL, digest=digest(poor), size_bytes=len(poor))
    daemon = await offering(place, packed(Bundle(kernels=(manifest,), files=(listed,)), {listed.path: poor}))
    with pytest.raises(BadRequest, match="cannot boot here"):
        await daemon.kernels.need("linux")
    assert left(place) == []
