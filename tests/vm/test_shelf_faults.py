"""What comes in from files is whole or not at all, whenever the daemon is killed; and the same command succeeds afterwards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.gates import SECONDS, Gate
from tests.world import KERNEL, SHELF, SLIM, World, alive, until

ROOTFS = SHELF / "images" / SLIM / "rootfs.ext4"
MADE = SHELF / "kernels" / KERNEL


@pytest.fixture
def own(tmp_path: Path) -> Iterator[World]:
    """A world with images and kernels of its own."""
    made = World(tmp_path / "w", images_dir=str(tmp_path / "w" / "images"), kernels_dir=str(tmp_path / "w" / "kernels"))
    yield made
    made.close()


def there(own: World) -> list[str]:
    """Everything on the shelves, also what is hidden."""
    return sorted(f"{shelf}/{path.name}" for shelf in ("images", "kernels") for path in (own.root / shelf).iterdir())


@pytest.mark.parametrize("moment", [0, 10, 40, 120, 250])
def test_a_daemon_killed_while_a_kernel_comes_in_leaves_all_of_it_or_nothing(own: World, moment: int, tmp_path: Path) -> None:
    own.ok("vm", "list")
    pid, folder = own.daemon_pid(), own.root / "kernels"
    taking = own.begin("kernel", "import", "mine", "--from", str(MADE))
    until(
        lambda: any(path.name != ".fd" and sum(1 for _ in path.rglob("*")) > moment for path in folder.iterdir()) or taking.poll() is not None, "files"
    )
    os.kill(pid, signal.SIGKILL)
    taking.communicate(timeout=SECONDS)
    until(lambda: not alive(pid), "the daemon's end")
    rows = json.loads(own.ok("kernel", "list", "--json"))
    assert there(own) == (["kernels/mine"] if rows else [])
    own.ok("kernel", "import", "mine", "--force", "--from", str(MADE))
    assert there(own) == ["kernels/mine"]


def test_a_daemon_killed_while_a_qcow2_file_is_unfolded_leaves_nothing_and_no_tool_behind(own: World, tmp_path: Path) -> None:
    packed = tmp_path / "packed.qcow2"
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", ROOTFS, packed], check=True)
    own.env["PATH"] = f"{own.root}/bin:{own.env['PATH']}"
    own.ok("image", "list")
    gate = Gate(own.root / "bin", "qemu-img")
    registering = own.begin("image", "register", "mine", "--rootfs", str(packed), "--kernel", "debian-6.1")
    gate.wait()
    own.kill_daemon()
    registering.communicate(timeout=SECONDS)
    own.ok("vm", "list")
    assert there(own) == []
    gate.open()
    own.ok("image", "register", "mine", "--rootfs", str(packed))
    assert there(own) == ["images/mine"]


def test_a_cancelled_promotion_leaves_the_registered_image_as_it_was(own: World, tmp_path: Path) -> None:
    copy = tmp_path / "root.img"
    shutil.copy(ROOTFS, copy)
    own.ok("image", "register", "mine", "--rootfs", str(copy))
    promoting = own.begin("image", "promote", "mine")
    until(lambda: any(path.name.startswith(".staging") for path in (own.root / "images").iterdir()) or promoting.poll() is not None, "the copy")
    promoting.send_signal(signal.SIGINT)
    promoting.communicate(timeout=SECONDS)
    until(lambda: there(own) == ["images/mine"], "the end of the copy", instead=lambda: there(own))
    shown = json.loads(own.ok("image", "show", "mine", "--json"))
    assert shown["file"] in (str(copy), "")
