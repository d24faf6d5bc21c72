"""An image from a registry to a root file system that boots, against what one would do without banger: `skopeo copy`, `umoci unpack`, `mkfs.ext4 -d`.

The image is made of this checkout's Python and Go: five layers, packed by gzip as Docker packs them. A second one shares four of them. Both sides ask
the same registry, on loopback, and begin each time with nothing, but for banger's second pull, which has the first one's layers.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

from banger.host.rootfs import Layer
from banger.model import oci
from bench.bare import memory_kib
from bench.measure import Figure, in_turn, seconds
from tests.registry import GZIP, Daemon, registry, sha256
from tests.world import ROOT, World

LAYERS = 5
SIZE = 1 << 30
LEAST_BYTES, LEAST_FILES = 300 << 20, 20_000
PATIENCE = 300.0
AGAINST = "skopeo copy + umoci unpack + mkfs.ext4 -d"


def image(place: Path) -> list[Layer]:
    """Five layers, each with a fifth of the bytes; the last also removes and replaces a little."""
    tree = place / "tree"
    subprocess.run(["cp", "-a", ROOT / ".venv/lib", tree], check=True)
    for number in range(8):
        subprocess.run(["cp", "-a", ROOT / "src", tree / f"src-{number}"], check=True)
    names = sorted(path for path in tree.rglob("*") if path.is_symlink() or path.is_file())
    sizes = [path.lstat().st_size for path in names]
    assert sum(sizes) >= LEAST_BYTES, f"only {sum(sizes)} bytes"
    assert len(names) >= LEAST_FILES, f"only {len(names)} files"
    found, at, done = [], 0, 0
    for number in range(LAYERS):
        first = at
        while at < len(names) and done < sum(sizes) * (number + 1) // LAYERS:
            done += sizes[at]
            at += 1
        found.append(_layer(place, tree, names[first:at], number))
    shutil.rmtree(tree)
    return found


def _layer(place: Path, tree: Path, names: list[Path], number: int) -> Layer:
    listed = "\n".join(str(name.relative_to(tree)) for name in names)
    command = ["tar", "--create", "--format=posix", f"--directory={tree}", "--no-recursion", "--files-from=-", "--transform=s,^,opt/,S"]
    data = subprocess.run(command, input=listed.encode(), capture_output=True, check=True).stdout
    path = place / f"{number}.gzip"
    path.write_bytes(subprocess.run(["gzip", "-6", "-n"], input=data, capture_output=True, check=True).stdout)
    return Layer(path=str(path), diff_id=f"sha256:{hashlib.sha256(data).hexdigest()}")


def push(daemon: Daemon, tag: str, layers: list[Layer]) -> None:
    """The image of these layers, in the registry."""
    rows = [{"mediaType": GZIP, **daemon.push_blob("bench", Path(layer.path).read_bytes())} for layer in layers]
    config = {"os": "linux", "architecture": "amd64", "config": {}, "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]}}
    described = {"mediaType": oci.OCI_CONFIG, **daemon.push_blob("bench", json.dumps(config).encode())}
    document = {"schemaVersion": 2, "mediaType": oci.OCI_MANIFEST, "config": described, "layers": rows}
    daemon.push_document("bench", tag, document, oci.OCI_MANIFEST)


def pulling() -> Iterator[Figure]:
    """A pull, a second one that shares four layers, and the memory that it takes."""
    place = Path(tempfile.mkdtemp(prefix="banger-bench-", dir="/tmp"))
    here = World(place / "w", images_dir=str(place / "images"))
    try:
        with registry(place / "registry") as daemon:
            layers = image(place)
            push(daemon, "1", layers)
            push(daemon, "2", [*layers[:-1], changed(place, layers[-1])])
            peak = Peak(here)
            yield figure("pull of 5 layers", here, daemon, tag="1", kept=False, bound=0.7)
            here.ok("image", "pull", "--plain-http", f"{daemon.host}/bench:1", timeout=PATIENCE)
            yield figure("pull of 5 layers, 4 of them here", here, daemon, tag="2", kept=True, bound=0.35)
            yield Figure(name="peak memory of a pull", ours=peak.end(), baseline=0, unit="MiB", against="daemon and its worker", bound=150, runs=1)
    finally:
        here.close()
        shutil.rmtree(place)


def figure(name: str, here: World, daemon: Daemon, *, tag: str, kept: bool, bound: float) -> Figure:
    """Both ways in turn. What is `kept` is the layers of other images."""
    reference, place = f"{daemon.host}/bench:{tag}", here.root / "theirs"

    def ours() -> float:
        here.banger("image", "delete", reference)
        here.ok("image", "cache", "prune")
        return seconds(lambda: here.ok("image", "pull", "--plain-http", reference, timeout=PATIENCE))

    def theirs() -> float:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        return seconds(lambda: without(reference, place))

    mine, baseline = in_turn(ours, theirs)
    return Figure(name=name, ours=mine, baseline=baseline, unit="s", against=AGAINST, bound=bound)


def without(reference: str, place: Path) -> None:
    """By the usual tools."""
    path = place / "rootfs.ext4"

    def run(*words: str) -> None:
        subprocess.run(words, capture_output=True, check=True)

    run("skopeo", "copy", "--src-tls-verify=false", f"docker://{reference}", f"oci:{place / 'image'}:latest")
    run("umoci", "unpack", "--image", f"{place / 'image'}:latest", str(place / "bundle"))
    with path.open("wb") as file:
        file.truncate(SIZE)
    run("mkfs.ext4", "-q", "-F", "-m", "0", "-d", str(place / "bundle" / "rootfs"), str(path))


def changed(place: Path, layer: Layer) -> Layer:
    """Another last layer: the same, with one more file."""
    data = subprocess.run(["gzip", "-dc", layer.path], capture_output=True, check=True).stdout
    tree, path = place / "more", place / "more.tar"
    (tree / "opt").mkdir(parents=True)
    (tree / "opt" / "more").write_bytes(b"more")
    path.write_bytes(data)
    subprocess.run(["tar", "--append", f"--file={path}", f"--directory={tree}", "opt/more"], capture_output=True, check=True)
    packed = place / "more.gzip"
    packed.write_bytes(subprocess.run(["gzip", "-6", "-n"], input=path.read_bytes(), capture_output=True, check=True).stdout)
    return Layer(path=str(packed), diff_id=sha256(path.read_bytes()))


class Peak:
    """The most memory that the daemon of a world and its children have had, looked up until `end`; a process keeps its own peak, so none is missed
    but of one that lives less than a look takes."""

    def __init__(self, here: World) -> None:
        self.pid, self.most, self.over = self._daemon(here), 0, Event()
        self.watching = Thread(target=self._watch)
        self.watching.start()

    @staticmethod
    def _daemon(here: World) -> int:
        here.ok("image", "list")
        return here.daemon_pid()

    def _watch(self) -> None:
        while not self.over.wait(0.02):
            self.most = max(self.most, memory_kib(self.pid, "VmHWM") + sum(self._children()))

    def _children(self) -> Iterator[int]:
        for child in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
            with suppress(OSError, ValueError):  # it has ended
                yield memory_kib(int(child), "VmHWM")

    def end(self) -> float:
        """In MiB."""
        self.over.set()
        self.watching.join()
        return self.most / 1024
