"""Images for a test's own shelf, made of files that are at hand: what a container image looks like once its layers are on a disk."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from banger.host.ext4 import root_command
from banger.model import codec
from banger.model.catalog import ImageConfig, ImageManifest
from banger.model.inits import init_of
from tests.world import KERNEL, ROOT, SHELF

MIB = 1 << 20
BUSYBOX = Path("/usr/bin/busybox")
#: What stands in a tree beside the content of files: a link, or a folder.
Node = bytes | str | Path | None


def compile_app(folder: Path) -> Path:
    """`program.go` as one static binary."""
    target = folder / "app"
    environment = {**os.environ, "CGO_ENABLED": "0", "GOPROXY": "off", "GOTOOLCHAIN": "local", "GO111MODULE": "off", "GOFLAGS": ""}
    go = ROOT / ".venv" / "bin" / "go"
    command = [str(go), "build", "-ldflags", "-s -w", "-o", str(target), str(ROOT / "tests" / "vm" / "program.go")]
    subprocess.run(command, env=environment, check=True)
    return target


def lay(tree: Path, nodes: dict[str, Node]) -> None:
    """Fill a folder: bytes are a file's content, a Path is a program to copy, text is where a link leads, None is a folder."""
    for name, node in nodes.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(node, Path):
            shutil.copyfile(node, path)
            path.chmod(0o755)
        elif isinstance(node, bytes):
            path.write_bytes(node)
            path.chmod(0o755 if node.startswith(b"#!") else 0o644)
        elif node is None:
            path.mkdir()
        else:
            path.symlink_to(node)


def shelve(shelf: Path, name: str, nodes: dict[str, Node], *, config: ImageConfig, architecture: str = "") -> None:
    """Make an image of these files and put it on a shelf (a world's `images_dir`)."""
    place, tree = shelf / name, shelf.parent / f"tree-{name}"
    tree.mkdir(mode=0o755)
    lay(tree, nodes)
    place.mkdir(parents=True)
    rootfs = place / "rootfs.ext4"
    with rootfs.open("xb") as file:
        file.truncate(16 * MIB)
    subprocess.run(root_command(rootfs, tree, name), check=True)
    paths = frozenset(str(path.relative_to(tree)) for path in tree.rglob("*"))
    write_manifest(place, init=init_of(paths), config=config, architecture=architecture)


def copy_shelved(shelf: Path, source: str, name: str, *, init: str, config: ImageConfig) -> None:
    """The file of an image that the tests have anyway, with another configuration."""
    place = shelf / name
    place.mkdir(parents=True)
    (place / "rootfs.ext4").symlink_to(SHELF / "images" / source / "rootfs.ext4")
    write_manifest(place, init=init, config=config)


def write_manifest(place: Path, *, init: str, config: ImageConfig, architecture: str = "") -> None:
    """What makes a folder an image."""
    rootfs = place / "rootfs.ext4"
    manifest = ImageManifest(
        name=place.name,
        source="test",
        digest=f"sha256:{hashlib.sha256(place.name.encode()).hexdigest()}",
        size_bytes=rootfs.stat().st_size,
        built=datetime.now(UTC),
        kernel=KERNEL,
        used_bytes=rootfs.stat().st_size,
        packages=0,
        init=init,
        architecture=architecture,
        config=config,
    )
    (place / "manifest.json").write_bytes(codec.encode(manifest))
