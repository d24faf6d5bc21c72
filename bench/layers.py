"""An image's layers to a root file system that boots, against what one would do without banger: `umoci unpack`, then `mkfs.ext4 -d`.

The image is made of this checkout's Python and Go: five layers, packed by gzip as Docker packs them. Both read the same blobs from the local disk.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from banger.host.proc import RealProc
from banger.host.rootfs import Layer, RealRootFs
from bench.measure import Figure, in_turn, seconds
from tests.layers import packed_layout
from tests.world import ROOT

LAYERS = 5
SIZE = 1 << 30
LEAST_BYTES, LEAST_FILES = 300 << 20, 20_000


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


def unpacking() -> Iterator[Figure]:
    """The root file system of five layers, and the memory that making it takes."""
    place = Path(tempfile.mkdtemp(prefix="banger-bench-", dir="/tmp"))
    try:
        layers = image(place)
        layout, path, bundle = packed_layout(place / "image", layers), place / "rootfs.ext4", place / "bundle"
        rootfs = RealRootFs(RealProc(os.environ["PATH"]))

        def ours() -> float:
            path.unlink(missing_ok=True)
            return seconds(lambda: asyncio.run(rootfs.write(path, layers, label="bench", size=SIZE)))

        def theirs() -> float:
            shutil.rmtree(bundle, ignore_errors=True)
            path.unlink(missing_ok=True)
            return seconds(lambda: _unpack(layout, bundle, path))

        mine, baseline = in_turn(ours, theirs)
        name = "5 layers to a root file system"
        yield Figure(name=name, ours=mine, baseline=baseline, unit="s", against="umoci unpack + mkfs.ext4 -d", bound=0.7)
    finally:
        shutil.rmtree(place)


def _unpack(layout: Path, bundle: Path, path: Path) -> None:
    subprocess.run(["umoci", "unpack", "--image", f"{layout}:latest", bundle], capture_output=True, check=True)
    with path.open("wb") as file:
        file.truncate(SIZE)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", "-d", bundle / "rootfs", path], capture_output=True, check=True)
