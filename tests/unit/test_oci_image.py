"""From a reference to an image: which one is meant, what it is called here, what is fetched, and what is left when that fails."""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from banger.backends import load
from banger.daemon.artefacts import Shelf
from banger.daemon.images import Images, Kernels
from banger.daemon.operations import Operations
from banger.model import oci
from banger.model.catalog import ImageEntry, ImageManifest, ImagePart, KernelEntry, KernelManifest, Wish
from banger.model.config import Settings
from banger.model.errors import AlreadyExists, BadRequest, BangerError, Busy, Corrupt, DownloadFailed, NoSpace, NotFound, WrongState
from banger.model.event import Event, listening
from banger.testing import FakeHost
from banger.testing.registry import LAYER
from tests.unit.test_autopull import KernelSource
from tests.unit.test_oci import mutate

LAYERS = [b"a" * 1000, b"b" * 2000]
CONFIG = {
    "Env": ["PATH=/bin", "X=a=b", "EMPTY="],
    "Entrypoint": ["/run"],
    "Cmd": None,
    "WorkingDir": "srv",
    "User": "1000:1000",
    "StopSignal": "SIGINT",
}
CATALOG = {name: ImageEntry(name=name, source="oci", kernel="debian-6.1", reference="registry.example/x") for name in ("debian-bookworm",)}


class Bench:
    """Images over a fake host whose registry has some."""

    def __init__(self, root: Path, tasks: asyncio.TaskGroup, **settings: str) -> None:
        self.fake = FakeHost(root, Settings(**settings))  # type: ignore[arg-type]
        host = self.fake.host
        for folder in (self.fake.paths.images, self.fake.paths.kernels):
            folder.mkdir(parents=True)
        self.registry = self.fake.registry
        self.registry.image("registry.example/team/app:1", LAYERS, config=CONFIG)
        self.registry.image("docker.io/library/alpine:latest", LAYERS[:1])
        self.registry.image("docker.io/library/debian:bookworm", LAYERS[1:])
        self.kernel = KernelSource()
        kernels = {name: KernelEntry(name=name, source="scripted") for name in ("debian-6.1", "other")}
        self.kernels = Shelf(
            "kernel", host=host, folder=self.fake.paths.kernels, catalog=kernels, manifest=KernelManifest, source=lambda _: self.kernel
        )
        self.shelf = Shelf(
            "image", host=host, folder=self.fake.paths.images, catalog=CATALOG, manifest=ImageManifest, source=lambda name: load("image", name, host)
        )
        operations = Operations(host.clock, tasks)
        self.used: list[str] = []

        async def evict(name: str) -> None:
            raise WrongState(name)

        self.images = Images(
            self.shelf, operations, Kernels(self.kernels, operations, lambda _: []), lambda name: self.used if name == "app-1" else [], evict
        )

    async def pull(self, text: str, *, force: bool = False, **wish: str | int | bool) -> ImageManifest:
        """By the operation."""
        *_, made = [item async for item in self.images.pull(text, Wish(**wish), force=force)]  # type: ignore[arg-type]
        assert isinstance(made, ImageManifest)
        return made

    def names(self) -> list[str]:
        """What is here, staging and all."""
        return sorted(path.name for path in self.fake.paths.images.iterdir())


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with asyncio.TaskGroup() as tasks:
        yield Bench(tmp_path, tasks)


async def test_an_image_is_made_of_the_layers_in_their_order(bench: Bench) -> None:
    made = await bench.pull("registry.example/team/app:1")
    assert (made.name, made.reference, made.kernel, made.architecture) == ("app-1", "registry.example/team/app:1", "debian-6.1", "x86_64")
    ((path, layers),) = bench.fake.rootfs.made
    assert [Path(layer.path).read_bytes() for layer in layers] == LAYERS
    assert path.name == "rootfs.ext4"
    assert bench.names() == ["app-1"]
    assert bench.kernel.made == ["debian-6.1"]
    assert made.config.env == {"PATH": "/bin", "X": "a=b", "EMPTY": ""}
    assert (made.config.entrypoint, made.config.cmd, made.config.workdir, made.config.user) == (("/run",), (), "/srv", "1000:1000")


async def test_what_is_here_is_not_asked_for_again_by_any_of_its_names(bench: Bench) -> None:
    first = await bench.pull("registry.example/team/app:1")
    asked = len(bench.registry.asked)
    assert await bench.images.need("registry.example/team/app:1") == first
    assert await bench.images.need("app-1") == first
    assert bench.images.show("registry.example/team/app:1") == first
    assert len(bench.registry.asked) == asked
    await bench.images.delete("registry.example/team/app:1")
    assert bench.names() == []
    with pytest.raises(NotFound, match=r"no image here came from registry\.example/team/app:1"):
        bench.images.show("registry.example/team/app:1")


async def test_a_bare_word_is_looked_up_here_then_in_the_catalog_then_at_docker_hub_and_that_is_said(bench: Bench) -> None:
    events: list[Event] = []
    with listening(events.append):
        made = await bench.images.need("alpine")
    assert (made.name, made.reference) == ("alpine", "docker.io/library/alpine:latest")
    assert [one.detail for one in events if "Docker Hub" in one.detail] == [
        "alpine is neither here nor in the catalog: pulling docker.io/library/alpine:latest from Docker Hub"
    ]
    asked = len(bench.registry.asked)
    assert await bench.images.need("alpine") == made
    assert await bench.images.need("docker.io/library/alpine") == made
    assert len(bench.registry.asked) == asked


async def test_a_bare_word_that_docker_hub_does_not_have_either_says_where_it_was_looked_for(bench: Bench) -> None:
    with pytest.raises(NotFound, match=r"neither here nor in the image catalog, so it was looked for at Docker Hub"):
        await bench.images.need("unheard-of")


@pytest.mark.parametrize("word", ["debain-bookworm", "Debian-Bookworm", "No Name"])
async def test_a_slip_is_no_short_name(bench: Bench, word: str) -> None:
    with pytest.raises((NotFound, BadRequest)):
        await bench.images.need(word)
    assert bench.registry.asked == []


async def test_short_names_can_be_forbidden(tmp_path: Path) -> None:
    async with asyncio.TaskGroup() as tasks:
        bench = Bench(tmp_path, tasks, short_names="no")
        with pytest.raises(NotFound, match="neither among the local ones"):
            await bench.images.need("alpine")
        assert (await bench.images.need("library/alpine")).name == "alpine"


async def test_a_catalogs_name_is_left_to_the_catalog(bench: Bench) -> None:
    assert (await bench.pull("debian:bookworm")).name == "library-debian-bookworm"
    with pytest.raises(AlreadyExists, match="debian-bookworm is the name of an image of the catalog"):
        await bench.pull("alpine:latest", local="debian-bookworm")


async def test_a_name_that_is_taken_by_another_origin_is_never_replaced(bench: Bench) -> None:
    await bench.pull("registry.example/team/app:1")
    bench.registry.image("other.example/app:1", LAYERS[:1])
    assert (await bench.pull("other.example/app:1")).name == "other.example-app-1"
    for force in (False, True):
        with pytest.raises(AlreadyExists, match="app-1 already"):
            await bench.pull("alpine:latest", local="app-1", force=force)
    assert bench.images.show("app-1").reference == "registry.example/team/app:1"


async def test_a_name_kernel_and_size_of_ones_own(bench: Bench) -> None:
    made = await bench.pull("registry.example/team/app:1", local="mine", kernel="other", size_mib=64, plain_http=True)
    assert (made.name, made.kernel, made.size_bytes) == ("mine", "other", 64 << 20)
    assert bench.registry.plain == [True]
    assert bench.kernel.made == ["other"]
    with pytest.raises(NotFound, match="kernel 'none'"):
        await bench.pull("registry.example/team/app:1", kernel="none")


@pytest.mark.parametrize(
    ("wish", "words"), [({"local": "../x"}, "is not the name"), ({"platform": "windows/amd64"}, "windows"), ({"platform": "a b"}, "platform")]
)
async def test_what_cannot_be_wished_for_is_refused_at_once(bench: Bench, wish: dict[str, str], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        await bench.pull("registry.example/team/app:1", **wish)
    with pytest.raises(BadRequest, match="is no reference"):
        await bench.pull("debian-bookworm", local="x")
    assert bench.registry.asked == []


async def test_force_makes_it_anew_unless_a_machine_uses_it(bench: Bench) -> None:
    first = await bench.pull("registry.example/team/app:1")
    bench.registry.image("registry.example/team/app:1", LAYERS[:1])
    again = await bench.pull("registry.example/team/app:1", force=True)
    assert (again.name, again.resolved != first.resolved) == ("app-1", True)
    bench.used.append("web")
    with pytest.raises(WrongState, match="app-1 is used by web"):
        await bench.pull("registry.example/team/app:1", force=True)


async def test_the_hosts_platform_is_chosen_and_another_one_by_wish(bench: Bench) -> None:
    arm = bench.registry.image("", LAYERS[:1], architecture="arm64")
    bench.registry.index("registry.example/many:1", {"linux/arm64/v8": arm, "linux/amd64": bench.registry.image("", LAYERS)})
    assert (await bench.pull("registry.example/many:1")).architecture == "x86_64"
    made = await bench.pull("registry.example/many:1", platform="linux/arm64")
    assert (made.architecture, made.name) == ("aarch64", "registry.example-many-1")
    bench.registry.index("registry.example/arm:1", {"linux/arm64/v8": arm})
    bench.registry.tags["registry.example/single:1"] = arm.digest
    for name in ("arm", "single"):
        with pytest.raises(NotFound, match=r"not there for linux/amd64: it is made for linux/arm64"):
            await bench.pull(f"registry.example/{name}:1")


async def test_layers_are_shared_and_fetched_once_by_two_at_once(bench: Bench) -> None:
    bench.registry.image("registry.example/more:1", [*LAYERS, b"c" * 500])
    bench.registry.go.clear()
    both = asyncio.gather(bench.pull("registry.example/team/app:1"), bench.pull("registry.example/more:1"), bench.pull("registry.example/team/app:1"))
    await bench.registry.begun.wait()
    bench.registry.go.set()
    first, second, third = await both
    assert (first, second.name) == (third, "more-1")
    blobs = [one for one in bench.registry.asked if ":" in one]
    assert len(blobs) == len(set(blobs))


async def test_with_a_digest_what_is_in_the_cache_needs_no_registry(bench: Bench) -> None:
    made = await bench.pull("registry.example/team/app:1")
    bench.registry.contents.clear()
    again = await bench.pull(f"registry.example/team/app@{made.resolved}")
    assert (again.resolved, again.name) == (made.resolved, f"app-{made.resolved[7:19]}")


@pytest.mark.parametrize("failure", [DownloadFailed("cut"), Corrupt("wrong"), RuntimeError("bug")])
async def test_a_failure_leaves_no_image_and_the_next_pull_works(bench: Bench, failure: Exception) -> None:
    bench.registry.failures.append(failure)
    with pytest.raises(type(failure)):
        await bench.pull("registry.example/team/app:1")
    assert bench.names() == []
    assert (await bench.pull("registry.example/team/app:1")).name == "app-1"


async def test_taken_back_it_leaves_no_image(bench: Bench) -> None:
    bench.registry.go.clear()
    task = asyncio.create_task(bench.images.need("registry.example/team/app:1"))
    await bench.registry.begun.wait()
    task.cancel()
    await asyncio.wait([task])
    assert bench.names() == []


async def test_a_layer_that_unpacks_to_something_else_makes_no_image(bench: Bench) -> None:
    bench.fake.rootfs.refused.add("sha256:" + hashlib.sha256(LAYERS[1]).hexdigest())
    with pytest.raises(Corrupt):
        await bench.pull("registry.example/team/app:1")
    assert bench.names() == []


async def test_no_room_is_said_before_anything_is_fetched(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("banger.host.files.RealFiles.free_bytes", lambda *_: 1 << 20)
    with pytest.raises(NoSpace, match=r"registry\.example/team/app:1 needs 64M at .*, and 1M are free"):
        await bench.pull("registry.example/team/app:1")
    assert not any("layer" in one for one in bench.registry.asked)
    assert bench.names() == []


@pytest.mark.parametrize("config", [{"Env": ["=x"]}, {"Cmd": ["a\0b"]}, {"User": "\0"}, {"Env": [5]}])
async def test_a_configuration_that_nothing_could_run_is_refused(bench: Bench, config: dict[str, object]) -> None:
    bench.registry.image("registry.example/odd:1", LAYERS, config=config)
    with pytest.raises(Corrupt):
        await bench.pull("registry.example/odd:1")
    assert bench.names() == []


async def test_layers_without_their_unpacked_digests_are_refused(bench: Bench) -> None:
    bench.registry.image("registry.example/odd:1", LAYERS, diff_ids=False)
    with pytest.raises(Corrupt, match="2 layers, but its configuration names 0"):
        await bench.pull("registry.example/odd:1")


async def test_the_cache_is_pruned_of_what_no_image_was_made_of(bench: Bench) -> None:
    await bench.pull("registry.example/team/app:1")
    await bench.pull("alpine:latest")
    every = set(bench.fake.paths.blobs.glob("blobs/*/*"))
    assert bench.images.prune_cache(dry=False).removed == 0
    await bench.images.delete("app-1")
    dry = bench.images.prune_cache(dry=True)
    assert set(bench.fake.paths.blobs.glob("blobs/*/*")) == every
    assert bench.images.prune_cache(dry=False) == dry
    assert (dry.removed, dry.kept) == (3, 3)  # its manifest, its configuration, and the one layer that nobody shares
    index = json.loads((bench.fake.paths.blobs / "index.json").read_bytes())
    assert [one["annotations"]["org.opencontainers.image.ref.name"] for one in index["manifests"]] == ["docker.io/library/alpine:latest"]
    await bench.images.delete("alpine")
    assert bench.images.prune_cache(dry=False).kept == 0


async def test_nothing_is_pruned_while_an_image_is_pulled(bench: Bench) -> None:
    bench.registry.go.clear()
    task = asyncio.create_task(bench.pull("registry.example/team/app:1"))
    await bench.registry.begun.wait()
    bench.images.prune_cache(dry=True)
    with pytest.raises(Busy, match="an image is being pulled"):
        bench.images.prune_cache(dry=False)
    bench.registry.go.set()
    await task
    assert bench.images.prune_cache(dry=True).removed == 0


async def test_a_catalog_may_name_a_reference(bench: Bench) -> None:
    bench.registry.image("registry.example/x:latest", LAYERS)
    made = await bench.images.need("debian-bookworm")
    assert (made.name, made.source, made.reference) == ("debian-bookworm", "oci", "registry.example/x:latest")


@pytest.mark.parametrize(
    "changes", [{"reference": ""}, {"reference": "A"}, {"kernel": ""}, {"platform": "windows/amd64"}, {"size_mib": -1}, {"size_mib": 1 << 30}]
)
def test_an_entry_that_cannot_be_meant_is_refused(bench: Bench, tmp_path: Path, changes: dict[str, str]) -> None:
    entry = ImageEntry(**{"name": "x", "source": "oci", "kernel": "k", "reference": "a", **changes})  # type: ignore[arg-type]
    source = load("image", "oci", bench.fake.host)
    with pytest.raises(BadRequest):
        source.plan(entry, tmp_path)
    assert isinstance(source.plan(CATALOG["debian-bookworm"], tmp_path), ImagePart)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_hostile_registry_makes_no_half_image(data: st.DataObject) -> None:
    """Its documents are changed anywhere, and found by the digests that they have then."""

    async def attempt(root: Path) -> None:
        async with asyncio.TaskGroup() as tasks:
            bench = Bench(root, tasks)
            changed = data.draw(st.sampled_from(["config", "manifest", "index"]))
            documents = hostile(bench, data, changed)
            bench.registry.tags["registry.example/odd:1"] = documents
            try:
                made = await bench.pull("registry.example/odd:1")
            except BangerError:
                assert bench.names() == []
            else:
                assert bench.names() == [made.name]
                assert made.architecture == "x86_64"

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(attempt(Path(folder)))


def hostile(bench: Bench, data: st.DataObject, changed: str) -> str:
    """The digest of an index of an image, of which one document is not as it should be."""
    registry = bench.registry

    def put(document: object, kind: str, name: str) -> dict[str, object]:
        mutated = mutate(data, document) if name == changed else document
        made = registry.put(json.dumps(mutated).encode(), kind)
        return {"mediaType": kind, "digest": made.digest, "size": made.size}

    layers = [registry.put(layer, LAYER) for layer in LAYERS]
    rows = [{"mediaType": LAYER, "digest": one.digest, "size": one.size} for one in layers]
    config = {"os": "linux", "architecture": "amd64", "config": CONFIG, "rootfs": {"type": "layers", "diff_ids": [one.digest for one in layers]}}
    manifest = {"schemaVersion": 2, "mediaType": oci.OCI_MANIFEST, "config": put(config, oci.OCI_CONFIG, "config"), "layers": rows}
    image = put(manifest, oci.OCI_MANIFEST, "manifest") | {"platform": {"os": "linux", "architecture": "amd64"}}
    index = {"schemaVersion": 2, "mediaType": oci.OCI_INDEX, "manifests": [image]}
    return str(put(index, oci.OCI_INDEX, "index")["digest"])
