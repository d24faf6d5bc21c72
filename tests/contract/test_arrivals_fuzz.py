"""Documents of registries, bundles, catalogs, signatures, kernels and file systems that somebody has tampered with: each is taken whole or refused by
an error of banger's own, at once and in little memory; nothing half made is on a shelf then, and nothing outside of banger's folders was touched.

Daemon and backends are the real ones, and so are all files. Layers have a test of their own (test_rootfs_fuzz.py).
"""

from __future__ import annotations

import asyncio
import bz2
import gzip
import hashlib
import io
import json
import lzma
import shutil
import tarfile
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.daemon import Daemon
from banger.host.zstd import ZstdCompressor
from banger.model import codec, oci
from banger.model.catalog import Wish
from banger.model.errors import BangerError
from banger.model.vm import VmSpec
from banger.testing.registry import LAYER
from tests.arrivals import ALICE, BUNDLE, CATALOG, REFERENCE, Ground, archive, bundle, ground, published, result, state, unsound
from tests.elf import kernel, module
from tests.tampering import harmless, spoil, spoil_tar, spoiled_document, tried
from tests.unit.test_archive import bz_image
from tests.unit.test_bundles import digest
from tests.unit.test_guest_kernels import GOOD
from tests.unit.test_volume import ext4, qcow2, with_mark

MEMORY = Path("/dev/shm")


class Stage:
    """One daemon for all cases of a test; each finds empty shelves."""

    def __init__(self, runner: asyncio.Runner, place: Ground, daemon: Daemon) -> None:
        self.runner, self.place, self.daemon = runner, place, daemon
        self.outcomes: Counter[str] = Counter()

    def attempt(self, act: Callable[[], Awaitable[object]]) -> bool:
        """Whether it was taken; if not, there is nothing."""
        for name in self.daemon.images.shelf.names():
            if self.daemon.images.shelf.here(name):
                self.runner.run(self.daemon.images.delete(name))
        for name in self.daemon.kernels.shelf.names():
            if self.daemon.kernels.shelf.here(name):
                self.runner.run(self.daemon.kernels.delete(name))
        for path in (*self.place.fake.paths.cache.glob("bundles/*"), *self.place.fake.paths.catalogs.glob("*")):
            path.unlink()
        shutil.rmtree(self.place.fake.paths.blobs, ignore_errors=True)
        for memory in (self.place.fake.rootfs.made, self.place.fake.registry.asked, self.place.fake.registry.plain, self.place.fake.web.asked):
            memory.clear()
        before = state(self.place)
        taken = False
        with harmless(self.place.root):
            try:
                self.runner.run(self._do(act))
                taken = True
            except BangerError as error:
                self.outcomes[type(error).__name__ if str(error) else "without a word"] += 1
        assert self.outcomes["without a word"] == 0
        assert unsound(self.place) == []
        assert taken or state(self.place) == before, "what was refused is there"
        self.outcomes["taken"] += taken
        return taken

    async def _do(self, act: Callable[[], Awaitable[object]]) -> None:
        async with asyncio.timeout(20):
            await act()


@pytest.fixture
def stage() -> Iterator[Stage]:
    folder = str(MEMORY) if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="banger-fuzz-", dir=folder) as name, asyncio.Runner() as runner:
        stack = AsyncExitStack()
        place = runner.run(stack.enter_async_context(ground(Path(name))))
        made = Stage(runner, place, runner.run(place.daemon()))
        yield made
        runner.run(stack.aclose())
        print(dict(+made.outcomes))
        assert len(+made.outcomes) > 1, "all of them were alike"


# -- what registries say --------------------------------------------------------------------------------------------------------------------------

LAYERS = [b"a" * 1000, b"b" * 2000]
KINDS = {"manifest": (oci.OCI_MANIFEST, oci.DOCKER_MANIFEST, oci.OCI_INDEX, "application/json", ""), "index": (oci.OCI_INDEX, oci.DOCKER_INDEX, "")}
EXECUTION = {
    "User": "1000:1000",
    "Env": ["PATH=/bin", "X=a=b"],
    "Entrypoint": ["/run"],
    "Cmd": ["sh"],
    "WorkingDir": "/srv",
    "StopSignal": "SIGINT",
    "Labels": {"a": "b"},
}


@st.composite
def documents(draw: st.DrawFn, stage: Stage, wrong: str) -> None:
    """An image under the reference, of whose documents one is not as it should be; the others name it by the digest that it has."""
    registry = stage.place.fake.registry

    def put(document: object, name: str) -> dict[str, object]:
        kind = (
            draw(st.sampled_from(KINDS[name])) if name == wrong and name in KINDS else {"manifest": oci.OCI_MANIFEST, "index": oci.OCI_INDEX}.get(name)
        )
        made = registry.put(spoiled_document(draw, document) if name == wrong else json.dumps(document).encode(), kind or oci.OCI_CONFIG)
        return {"mediaType": kind or oci.OCI_CONFIG, "digest": made.digest, "size": made.size}

    layers = [registry.put(layer, LAYER) for layer in LAYERS]
    rows = [{"mediaType": LAYER, "digest": one.digest, "size": one.size} for one in layers]
    diff_ids = [one.digest for one in layers]
    config = {"os": "linux", "architecture": "amd64", "config": EXECUTION, "rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": []}
    manifest = {"schemaVersion": 2, "mediaType": oci.OCI_MANIFEST, "config": put(config, "config"), "layers": rows}
    image = put(manifest, "manifest") | {"platform": {"os": "linux", "architecture": "amd64"}}
    top = {"schemaVersion": 2, "mediaType": oci.OCI_INDEX, "manifests": [image, image | {"platform": {"os": "linux", "architecture": "arm64"}}]}
    found = put(top, "index") if wrong == "index" or draw(st.booleans()) else image
    if wrong == "index" and draw(st.booleans()):
        found = put({"schemaVersion": 2, "manifests": [found]}, "manifest")
    registry.tags[REFERENCE] = str(found["digest"])


@pytest.mark.parametrize("wrong", ["index", "manifest", "config"])
def test_tampered_documents_of_a_registry(stage: Stage, wrong: str) -> None:
    daemon = stage.daemon

    async def use() -> None:
        """What a configuration asks for is something that a machine can be made of, or is refused as well."""
        await result(await daemon.vms.create(VmSpec(name="otter", image=REFERENCE), start=False, wait="agent"))

    @tried
    @given(st.data())
    def each(data: st.DataObject) -> None:
        stage.place.fake.registry.contents.clear()
        data.draw(documents(stage, wrong))
        if stage.attempt(lambda: result(daemon.images.pull(REFERENCE, Wish(), force=False))):
            try:
                stage.runner.run(use())
                stage.runner.run(daemon.vms.delete("otter"))
            except BangerError as error:
                stage.outcomes[f"machine: {type(error).__name__}"] += 1

    each()


# -- bundles --------------------------------------------------------------------------------------------------------------------------------------


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zstd(data: bytes) -> bytes:
    packer = ZstdCompressor()
    return packer.compress(data) + packer.flush()


PACKERS: tuple[Callable[[bytes], bytes], ...] = (zstd, zstd, zstd, bytes, gzip.compress, bz2.compress, lambda data: lzma.compress(data, preset=0))
#: A small root file system, so that many can be tried.
ROOTFS = bytes(ext4(blocks=64)) + bytes(256 << 10)
SMALL, FILES = bundle(1)
SMALL_FILES = FILES | {"images/box/rootfs.ext4": ROOTFS}
MANIFEST = json.loads(codec.encode(SMALL))
MANIFEST["images"][0] |= {"digest": digest(ROOTFS), "size_bytes": len(ROOTFS)}
MANIFEST["files"][0] |= {"digest": digest(ROOTFS), "size": len(ROOTFS)}


@st.composite
def bundles(draw: st.DrawFn) -> bytes:
    """Wrong in what it lists, in how it is laid out, in a file of it (with the digest that it has then), or in how it is packed."""
    wrong, files, manifest = draw(st.sampled_from(["list", "list", "layout", "layout", "file", "packed"])), dict(SMALL_FILES), MANIFEST
    text = spoiled_document(draw, manifest) if wrong == "list" else json.dumps(manifest).encode()
    if wrong == "file":
        path, at = draw(st.sampled_from(list(enumerate(files))))[::-1]
        content = bytearray(files[path])
        spoil(draw, content)
        files[path] = bytes(content)
        manifest = json.loads(text)
        for row in (manifest["files"][at], *((manifest["images" if at == 0 else "kernels"][0],) if at < 2 else ())):
            row |= {"digest": digest(files[path])} | ({"size": len(content)} if "path" in row else {"size_bytes": len(content)})
        text = json.dumps(manifest).encode()
    tar = bytearray(tar_of({"manifest.json": text, **files}))
    for _ in range(draw(st.integers(1, 3)) if wrong == "layout" else 0):
        spoil_tar(draw, tar, blocks=4000)
    blob = bytearray(draw(st.sampled_from(PACKERS))(bytes(tar)))
    if wrong == "packed":
        spoil(draw, blob)
    return bytes(blob)


@pytest.mark.parametrize("way", ["load", "pull"])
def test_tampered_bundles(stage: Stage, way: str) -> None:
    daemon, place = stage.daemon, stage.place

    @tried
    @given(bundles())
    def each(data: bytes) -> None:
        (place.home / "one").write_bytes(data)
        if way == "load":
            stage.attempt(lambda: result(daemon.bundles.load(file=str(place.home / "one"))))
            return
        place.fake.web.pages[BUNDLE] = data
        entry = daemon.images.shelf.catalog["box"]
        changed = {"url": BUNDLE, "sha256": hashlib.sha256(data).hexdigest()}
        daemon.images.shelf.catalog = {"box": type(entry)(name="box", source="bundle", kernel="linux", **changed)}
        stage.attempt(lambda: daemon.images.need("box"))

    each()


# -- catalogs and signatures ------------------------------------------------------------------------------------------------------------------------

ENTRIES = {
    "images": [
        {"name": "node", "source": "bundle", "kernel": "linux", "url": BUNDLE, "sha256": "0" * 64, "description": "x"},
        {"name": "bookworm", "source": "debian", "kernel": "linux", "suite": "bookworm", "variant": "minbase", "packages": ["a"], "size_mib": 512},
        {"name": "alpine", "source": "oci", "kernel": "linux", "reference": "docker.io/library/alpine:3", "platform": "linux/amd64"},
    ],
    "kernels": [
        {"name": "other", "source": "tarball", "url": BUNDLE, "sha256": "0" * 64},
        {"name": "deb", "source": "debian", "suite": "bookworm", "package": "linux-image-amd64"},
    ],
}


@st.composite
def signed(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A document and its signature; either is not as it should be, and the signature of a wrong document is right."""
    document = {"version": 1, "serial": 1} | ENTRIES
    if draw(st.booleans()):
        text = spoiled_document(draw, document)
        return text, ALICE.sign(text)
    signature = bytearray(ALICE.sign(json.dumps(document).encode(), legacy=draw(st.booleans())))
    spoil(draw, signature)
    return json.dumps(document).encode(), bytes(signature)


def test_tampered_catalogs_and_signatures(stage: Stage) -> None:
    daemon, place = stage.daemon, stage.place

    @tried
    @given(signed())
    def each(pair: tuple[bytes, bytes]) -> None:
        daemon.catalogs.refresh()
        place.publish(*pair)
        if stage.attempt(lambda: result(daemon.catalogs.add(CATALOG, name=None, key=ALICE.key, unsigned=False))):
            daemon.catalogs.refresh()
            assert daemon.catalogs.kept.broken == {}, "what was taken cannot be read any more"
            for row in daemon.images.rows(available=True):
                daemon.images.check(row.name)
            for entry in daemon.images.shelf.catalog.values():
                try:
                    daemon.images.shelf.source(entry.source).plan(entry, place.root / "nowhere")
                except BangerError as error:
                    stage.outcomes[f"plan: {type(error).__name__}"] += 1

    place.publish(published(1))
    each()


# -- kernels and file systems -----------------------------------------------------------------------------------------------------------------------

PLAIN = kernel(config=GOOD)
IMAGES = {
    "elf": PLAIN,
    "gzip": bz_image(gzip.compress(PLAIN), size=len(PLAIN)),
    "zstd": bz_image(zstd(PLAIN), size=len(PLAIN)),
    "xz": bz_image(lzma.compress(PLAIN, check=lzma.CHECK_CRC32), size=len(PLAIN)),
    "arm64": bytes(56) + b"ARMd" + bytes(1 << 12),
}
EXTRA = {"a.ko": module("a"), "b.ko.xz": lzma.compress(module("b")), "c.ko.gz": gzip.compress(module("c")), "d.ko.zst": zstd(module("d"))}


@st.composite
def kernels(draw: st.DrawFn) -> tuple[bytes, bytes, tuple[str, bytes]]:
    """A kernel, its configuration and a module: one of them is wrong."""
    form = draw(st.sampled_from(sorted(IMAGES)))
    name = draw(st.sampled_from(sorted(EXTRA)))
    parts = [bytearray(IMAGES[form]), bytearray(GOOD.encode()), bytearray(EXTRA[name])]
    spoil(draw, parts[draw(st.sampled_from([0, 0, 0, 1, 2, 2]))])
    return bytes(parts[0]), bytes(parts[1]), (name, bytes(parts[2]))


def test_tampered_kernels_of_ones_own(stage: Stage) -> None:
    daemon, folder = stage.daemon, stage.place.home / "taken"

    @tried
    @given(kernels())
    def each(found: tuple[bytes, bytes, tuple[str, bytes]]) -> None:
        (folder / "modules").mkdir(parents=True, exist_ok=True)
        for path in (folder / "modules").iterdir():
            path.unlink()
        for name, data in (("vmlinuz", found[0]), ("config", found[1]), (f"modules/{found[2][0]}", found[2][1])):
            (folder / name).write_bytes(data)
        stage.attempt(lambda: result(daemon.kernels.take("mine", file=str(folder), force=False)))

    each()


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    tar = bytearray(gzip.decompress(archive()))
    for _ in range(draw(st.integers(0, 3))):
        spoil_tar(draw, tar)
    blob = bytearray(draw(st.sampled_from(PACKERS))(bytes(tar)))
    if draw(st.integers(0, 4)) == 0:
        spoil(draw, blob)
    return bytes(blob)


def test_tampered_archives_of_kernels(stage: Stage) -> None:
    daemon, place = stage.daemon, stage.place
    entry = daemon.kernels.shelf.catalog["debian-6.1"]

    @tried
    @given(archives())
    def each(data: bytes) -> None:
        place.fake.web.pages[entry.url] = data
        daemon.kernels.shelf.catalog = {"linux": type(entry)(name="linux", source="tarball", url=entry.url, sha256=hashlib.sha256(data).hexdigest())}
        stage.attempt(lambda: daemon.kernels.need("linux"))

    each()


HEADS = (ext4(blocks=64), qcow2(), with_mark(1024, b"\xe2\xe1\xf5\xe0"), with_mark(0, b"hsqs"), with_mark(510, b"\x55\xaa"), bytearray())


@st.composite
def volumes(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(HEADS))) + bytes(draw(st.sampled_from([0, 1, 256 << 10])))
    spoil(draw, data)
    return bytes(data)


def test_tampered_file_systems(stage: Stage) -> None:
    daemon, file = stage.daemon, stage.place.home / "volume"

    async def take() -> None:
        await result(daemon.images.register("mine", rootfs=str(file), kernel=None, force=False))
        await result(daemon.images.promote("mine"))

    @tried
    @given(volumes())
    def each(data: bytes) -> None:
        file.write_bytes(data)
        stage.attempt(take)

    each()
