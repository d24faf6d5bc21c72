"""Machines on kernels that were imported: the debian one as a folder would have it, its modules packed, under another name."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.world import KERNEL, SHELF, SLIM, World

MADE = SHELF / "kernels" / KERNEL
ROOTFS = SHELF / "images" / SLIM / "rootfs.ext4"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[World]:
    """A world with images and kernels of its own."""
    made = World(tmp_path / "w", images_dir=str(tmp_path / "w" / "images"), kernels_dir=str(tmp_path / "w" / "kernels"))
    yield made
    made.close()


def test_a_machine_boots_an_imported_kernel_and_what_it_lacks_is_said(own: World, tmp_path: Path) -> None:
    folder = tmp_path / "linux"
    shutil.copytree(MADE / "modules", folder / "modules")
    for path in (folder / "modules").rglob("virtio*.ko"):
        path.with_suffix(".ko.gz").write_bytes(gzip.compress(path.read_bytes(), 1))
        path.unlink()
    (folder / "vmlinux").write_bytes((MADE / "vmlinux").read_bytes())
    (folder / "initrd.img").write_bytes(b"not looked at")
    shutil.copy(MADE / "config", folder / "config")
    own.ok("kernel", "import", "mine", "--from", str(folder))
    own.ok("image", "register", "box", "--rootfs", str(ROOTFS), "--kernel", "mine")
    assert own.ok("vm", "run", "--rm", "--image", "box", "--", "uname", "-r").startswith("6.1.")
    assert own.banger("kernel", "rm", "mine").returncode == 122, "an image uses it"
    (folder / "config").write_text((MADE / "config").read_text().replace("CONFIG_OVERLAY_FS=m", "# CONFIG_OVERLAY_FS is not set"))
    said = own.banger("kernel", "import", "bare", "--from", str(folder))
    assert said.returncode == 0
    told = " ".join(said.stderr.decode().split())
    assert (told.count("note: it lacks overlay"), told.count(f"note: {folder}/initrd.img is left out: machines boot")) == (1, 1), told
    own.ok("image", "register", "barebox", "--rootfs", str(ROOTFS), "--kernel", "bare")
    refused = own.banger("vm", "run", "--rm", "--image", "barebox", "--", "true")
    assert refused.returncode == 120
    assert "does not fit this machine" in refused.stderr.decode()
    assert own.rows() == []


def test_a_kernel_without_modules_that_needs_them_is_refused(own: World) -> None:
    refused = own.banger("kernel", "import", "mine", "--from", str(MADE / "vmlinux"))
    assert refused.returncode == 120
    assert "virtio_mmio" in refused.stderr.decode()
    assert "mine" not in own.ok("kernel", "list")
