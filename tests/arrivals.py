"""All ways in which images, kernels and catalogs come to banger and go, on a pretended host whose files are real; and what must be true of its folders.

Each `Way` is what must have been before, and one command. So faults can be laid at any point of any of them: whatever happens, `unsound` finds nothing
once the next daemon has begun, `state` is of things that were before or that the command makes, and the same command ends well afterwards.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import random
import subprocess
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec

from banger.daemon import Daemon
from banger.model import codec
from banger.model.bundle import Bundle, BundledFile
from banger.model.catalog import ImageEntry, ImageManifest, KernelEntry, KernelManifest, Wish
from banger.model.errors import BangerError, every_error
from banger.testing import FakeHost
from tests.elf import kernel, module
from tests.place import IMAGE, KERNEL, SETTINGS, NoModules, Place
from tests.signer import Signer
from tests.unit.test_bundles import digest, packed
from tests.unit.test_guest_kernels import GOOD
from tests.unit.test_volume import ext4

REFERENCE, CATALOG, BUNDLE, ARCHIVE = "registry.example/team/app:1", "https://example.org/team.json", "https://example.org/b", "https://example.org/k"
ALICE = Signer(1)
VMLINUX, OLDER = kernel(config=GOOD), kernel("6.0.0", config=GOOD)
MODULES = {"kernels/linux/modules/kernel/extra.ko": module("extra"), "kernels/linux/modules/modules.builtin": b"kernel/fs/ext4/ext4.ko\n"}


def rootfs(number: int) -> bytes:
    """A file system's beginning, some content, and holes."""
    return bytes(ext4(blocks=256)) + random.Random(number).randbytes(300_000) + bytes(1 << 20)


def bundle(number: int) -> tuple[Bundle, dict[str, bytes]]:
    """An image, which is another one by each number, and its kernel."""
    data = rootfs(number)
    files = {"images/box/rootfs.ext4": data, "kernels/linux/vmlinux": VMLINUX, **MODULES}
    image = msgspec.structs.replace(IMAGE, digest=digest(data), size_bytes=len(data))
    linux = msgspec.structs.replace(KERNEL, digest=digest(VMLINUX), size_bytes=len(VMLINUX))
    listed = tuple(BundledFile(path=path, size=len(content), digest=digest(content)) for path, content in files.items())
    return Bundle(images=(image,), kernels=(linux,), files=listed), files


def archive() -> bytes:
    """A kernel as those of source `tarball` come."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, content in {"vmlinux": VMLINUX, "config": GOOD.encode(), "modules/kernel/extra.ko": module("extra")}.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), 1, mtime=0)


def published(serial: int) -> bytes:
    """Somebody's catalog."""
    node = {"name": "node", "source": "bundle", "kernel": "linux-node", "url": BUNDLE, "sha256": "0" * 64}
    return json.dumps({"version": 1, "serial": serial, "images": [node], "kernels": []}).encode()


BUNDLES = {number: packed(*bundle(number)) for number in (1, 2)}
ARCHIVED = archive()


class Ground(Place):
    """A place with nothing on its shelves. What may come lies ready: in a registry, on the web, in the folder `home`; `home/out` is for what goes."""

    def __init__(self, fake: FakeHost, stack: AsyncExitStack) -> None:
        self.fake, self.stack = fake, stack
        self.host = dataclasses.replace(fake.host, kmod=NoModules())
        self.root, self.home = fake.paths.state.parent, fake.paths.state.parent / "home"
        paths = fake.paths
        for folder in (paths.state, paths.run, paths.cache, paths.config, paths.machines, paths.running, paths.images, paths.kernels):
            folder.mkdir(parents=True, exist_ok=True)
        (self.home / "out").mkdir(parents=True, exist_ok=True)
        self._lay_ready()

    def _lay_ready(self) -> None:
        self.serve(1)
        self.offer(BUNDLES[1], ARCHIVED)
        self.publish(published(1))
        files = {"one": BUNDLES[1], "two": BUNDLES[2], "root.img": rootfs(3), "kernel/vmlinux": VMLINUX, "kernel/config": GOOD.encode(), "older": OLDER}
        files |= {f"kernel/{path.removeprefix('kernels/linux/')}": content for path, content in MODULES.items()}
        for name, content in files.items():
            path = self.home / name
            path.parent.mkdir(exist_ok=True, parents=True)
            if not path.exists():
                path.write_bytes(content)
        (self.fake.paths.state / "agent").write_bytes(b"agent")

    def serve(self, number: int) -> None:
        """What the registry has under the reference."""
        layers = [random.Random(number).randbytes(200_000), b"b" * 5000]
        self.fake.registry.image(REFERENCE, layers, config={"Env": ["A=b"], "Cmd": ["/run"]})

    def offer(self, box: bytes, linux: bytes) -> None:
        """What the shipped catalogs have: the image `box` of a bundle, the kernels `linux` of it and `debian-6.1` of an archive."""
        self.fake.web.pages |= {BUNDLE: box, ARCHIVE: linux}
        one, other = hashlib.sha256(box).hexdigest(), hashlib.sha256(linux).hexdigest()
        image = ImageEntry(name="box", source="bundle", kernel="linux", url=BUNDLE, sha256=one)
        kernels = (
            KernelEntry(name="linux", source="bundle", url=BUNDLE, sha256=one),
            KernelEntry(name="debian-6.1", source="tarball", url=ARCHIVE, sha256=other),
        )
        for name, entries in (("images", (image,)), ("kernels", kernels)):
            path = self.fake.paths.config / f"{name}.json"
            data = codec.encode({"version": 1, "entries": entries})
            if not path.exists() or path.read_bytes() != data:
                path.write_bytes(data)

    def publish(self, document: bytes, signature: bytes | None = None) -> None:
        """What somebody's catalog is at the moment."""
        self.fake.web.pages |= {CATALOG: document, f"{CATALOG}.minisig": ALICE.sign(document) if signature is None else signature}

    async def daemon(self) -> Daemon:
        """One that begins as bangerd does."""
        made = await super().daemon()
        await made.images.shelf.clean()
        await made.kernels.shelf.clean()
        made.catalogs.clean()
        return made


@asynccontextmanager
async def ground(root: Path) -> AsyncIterator[Ground]:
    """In a folder; what an earlier one has left there is still there."""
    async with FakeHost(root, msgspec.structs.replace(SETTINGS, default_kernel="debian-6.1")) as fake, AsyncExitStack() as stack:
        yield Ground(fake, stack)


async def result(stream: AsyncIterator[object]) -> object:
    """What an operation comes to."""
    return [item async for item in stream][-1]


# -- what must be true ----------------------------------------------------------------------------------------------------------------------------


def copy(source: Path, target: Path) -> None:
    """All of a place, holes and all."""
    subprocess.run(["cp", "-a", "--sparse=always", source, target], check=True)


def unsound(place: Ground) -> list[str]:
    """What is half made or not what it says, anywhere."""
    paths = place.fake.paths
    found = [str(path) for path in place.root.rglob("*") if path.name.startswith(".staging") or path.name.endswith((".new", ".old"))]
    for folder, kind, file in ((paths.images, ImageManifest, "rootfs.ext4"), (paths.kernels, KernelManifest, "vmlinux")):
        for path in folder.iterdir():
            found += [f"{path}: {why}" for why in (_artefact(path, kind, file),) if why]
    for blob in paths.blobs.glob("blobs/sha256/*"):
        if hashlib.sha256(blob.read_bytes()).hexdigest() != blob.name:
            found.append(f"{blob} is not what it is called")
    for left in paths.cache.glob("bundles/*"):
        if left.name != f"{hashlib.sha256(left.read_bytes()).hexdigest()}.tar.zst":
            found.append(f"{left} is not what it is called")
    return found


def _artefact(folder: Path, kind: type[ImageManifest] | type[KernelManifest], file: str) -> str:
    try:
        made = codec.decode((folder / "manifest.json").read_bytes(), kind, what=folder.name)
    except (OSError, BangerError) as error:
        return str(error)
    if isinstance(made, ImageManifest) and made.file:
        return "" if not (folder / file).exists() else "two files"
    data = (folder / file).read_bytes() if (folder / file).exists() else b""
    by_bytes = made.source != "oci"
    whole = made.name == folder.name and len(data) == made.size_bytes and (not by_bytes or digest(data) == made.digest)
    return "" if whole else f"{len(data)} bytes, which are not those of {made}"


def state(place: Ground) -> dict[str, str]:
    """What there is, and which: images, kernels, catalogs, and files that were written for the user."""
    paths, found = place.fake.paths, dict[str, str]()
    for kind, folder in (("images", paths.images), ("kernels", paths.kernels)):
        for manifest in folder.glob("*/manifest.json"):
            said = json.loads(manifest.read_bytes())
            found[f"{kind}/{manifest.parent.name}"] = f"{said['digest']} {Path(said.get('file', '')).name}"
    for catalog in paths.catalogs.glob("[!.]*.json"):
        found[f"catalogs/{catalog.stem}"] = str(json.loads(catalog.read_bytes())["serial"])
    return found | {f"out/{path.name}": digest(path.read_bytes()) for path in (place.home / "out").iterdir()}


# -- the ways -------------------------------------------------------------------------------------------------------------------------------------

Act = Callable[[Ground, Daemon], Awaitable[object]]


@dataclasses.dataclass(frozen=True)
class Way:
    """What was `before`, and the command itself. `again`: it may be said twice, and the second time it is as if the first had not been."""

    name: str
    act: Act
    before: tuple[Act, ...] = ()


async def pull(place: Ground, daemon: Daemon) -> object:
    return await result(daemon.images.pull(REFERENCE, Wish(), force=False))


async def pull_newer(place: Ground, daemon: Daemon) -> object:
    place.serve(2)
    return await result(daemon.images.pull(REFERENCE, Wish(), force=True))


async def pull_box(place: Ground, daemon: Daemon) -> object:
    return await result(daemon.images.pull("box", Wish(), force=False))


async def load(place: Ground, daemon: Daemon) -> object:
    return await result(daemon.bundles.load(file=str(place.home / "one")))


async def load_other(place: Ground, daemon: Daemon) -> object:
    return await result(daemon.bundles.load(file=str(place.home / "two"), force=True))


async def load_from_web(place: Ground, daemon: Daemon) -> object:
    return await result(daemon.bundles.load(file=BUNDLE, sha256=hashlib.sha256(BUNDLES[1]).hexdigest()))


async def save(place: Ground, daemon: Daemon) -> object:
    if (place.home / "out" / "saved").exists():
        return None
    return await result(daemon.bundles.save(["box"], file=str(place.home / "out" / "saved")))


async def export(place: Ground, daemon: Daemon) -> object:
    """Into a folder, by a name after its content."""
    return None if list((place.home / "out").iterdir()) else await result(daemon.bundles.save(["box"], file=str(place.home / "out")))


async def register(place: Ground, daemon: Daemon) -> object:
    return await result(daemon.images.register("mine", rootfs=str(place.home / "root.img"), kernel="linux", force=True))


async def promote(place: Ground, daemon: Daemon) -> object:
    return await result(daemon.images.promote("mine"))


async def take_kernel(place: Ground, daemon: Daemon) -> object:
    return await result(daemon.kernels.take("own", file=str(place.home / "kernel"), force=True))


async def take_older_kernel(place: Ground, daemon: Daemon) -> object:
    return await result(daemon.kernels.take("own", file=str(place.home / "older"), force=True))


async def tag(place: Ground, daemon: Daemon) -> object:
    return None if daemon.images.shelf.here("second") else await daemon.images.tag("box", "second")


async def delete(place: Ground, daemon: Daemon) -> object:
    return await daemon.images.delete("box") if daemon.images.shelf.here("box") else None


async def forget(place: Ground, daemon: Daemon) -> object:
    return await daemon.images.delete("app-1")


async def add_catalog(place: Ground, daemon: Daemon) -> object:
    return await result(daemon.catalogs.add(CATALOG, name=None, key=ALICE.key, unsigned=False))


async def update_catalog(place: Ground, daemon: Daemon) -> object:
    place.publish(published(2))
    return await result(daemon.catalogs.update(None))


async def prune(place: Ground, daemon: Daemon) -> object:
    rows = await daemon.housekeeping.prune(keep=(), newest=0, dry=False)
    for row in rows:
        if row.failure is not None:
            raise every_error()[row.failure.code](row.failure.message)
    return rows


async def prune_cache(place: Ground, daemon: Daemon) -> object:
    return daemon.images.prune_cache(dry=False)


WAYS = (
    Way("pull", pull),
    Way("pull what has moved", pull_newer, (pull,)),
    Way("pull from a catalog", pull_box),
    Way("load a bundle", load),
    Way("load another over it", load_other, (load,)),
    Way("load from the web", load_from_web),
    Way("save", save, (load,)),
    Way("export", export, (load,)),
    Way("register", register, (load,)),
    Way("promote", promote, (load, register)),
    Way("import a kernel", take_kernel),
    Way("import another kernel over it", take_kernel, (take_older_kernel,)),
    Way("tag", tag, (load,)),
    Way("delete", delete, (load,)),
    Way("add a catalog", add_catalog),
    Way("update a catalog", update_catalog, (add_catalog,)),
    Way("prune", prune, (pull, load, forget)),
    Way("prune the cache", prune_cache, (pull, load, forget)),
)
