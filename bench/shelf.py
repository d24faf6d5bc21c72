"""What an image's size costs a machine that is made from it: nothing, in time and on disk, since its file is only read."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from banger.host.ext4 import RealExt4
from banger.host.proc import RealProc
from bench.measure import Figure, in_turn, seconds
from tests.world import World

MIB = 1 << 20
SMALL, LARGE = 50, 2048
PIECE = 4


def sized() -> Iterator[Figure]:
    """`vm create` from an image of 2 GB against one of 50 MB, both full of noise; and what a new machine takes on disk."""
    folder = Path(tempfile.mkdtemp(prefix="banger-bench-", dir="/var/tmp"))
    here = World(folder / "w", images_dir=str(folder / "images"))
    try:
        for mib in (SMALL, LARGE):
            here.ok("image", "register", f"of-{mib}", "--rootfs", str(_image(folder, mib)), timeout=600)

        def create(mib: int) -> float:
            return seconds(lambda: here.ok("vm", "create", "--name", f"vm-{mib}", "--image", f"of-{mib}"))

        def once(mib: int) -> float:
            taken = create(mib)
            here.ok("vm", "delete", f"vm-{mib}")
            return taken

        large, small = in_turn(lambda: once(LARGE), lambda: once(SMALL), runs=7)
        yield Figure(name="create from a 2 GB image", ours=large, baseline=small, unit="s", against="from one of 50 MB", bound=1.1, runs=7)
        create(LARGE)
        used = sum(path.lstat().st_blocks * 512 for path in (here.state / "vms").rglob("*")) / MIB
        yield Figure(name="disk of a new machine of it", ours=used, baseline=0, unit="MiB", against="absolute", bound=20, runs=1)
    finally:
        here.close()
        shutil.rmtree(folder)


def _image(folder: Path, mib: int) -> Path:
    """A file system with so much in it that does not shrink."""
    tree, image = folder / f"tree-{mib}", folder / f"of-{mib}.ext4"
    tree.mkdir()
    for number in range(mib // PIECE):
        (tree / f"noise-{number}").write_bytes(os.urandom(PIECE * MIB))
    asyncio.run(RealExt4(RealProc(os.environ["PATH"])).make_root(image, (mib + mib // 10 + 32) * MIB, folder=tree, label=f"of-{mib}"))
    shutil.rmtree(tree)
    return image
