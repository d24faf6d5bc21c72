"""Machines from files of the user's: a raw one where it is, a qcow2 one unfolded; the user's file is as it was afterwards."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.world import SHELF, SLIM, World

ROOTFS = SHELF / "images" / SLIM / "rootfs.ext4"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[World]:
    """A world with images of its own."""
    made = World(tmp_path / "w", images_dir=str(tmp_path / "w" / "images"))
    yield made
    made.close()


def test_a_machine_runs_from_a_file_that_stays_the_users(own: World) -> None:
    before = ROOTFS.stat()
    own.ok("image", "register", "mine", "--rootfs", os.path.relpath(ROOTFS))
    assert own.ok("vm", "run", "--image", "mine", "--name", "otter", "--", "sh", "-c", "echo kept > /root/mark; cat /etc/debian_version").startswith(
        "12"
    )
    assert own.banger("image", "delete", "--force", "mine").returncode == 122, "it runs"
    own.ok("image", "tag", "mine", "also-mine")
    own.ok("image", "delete", "also-mine")
    own.ok("vm", "stop", "otter")
    own.ok("image", "delete", "--force", "mine")
    assert own.rows() == []
    after = ROOTFS.stat()
    assert (before.st_mtime_ns, before.st_size, before.st_mode, before.st_nlink) == (after.st_mtime_ns, after.st_size, after.st_mode, after.st_nlink)


def test_a_machine_does_not_start_over_a_file_that_has_changed(own: World, tmp_path: Path) -> None:
    copy = tmp_path / "root.img"
    subprocess.run(["cp", "--reflink=auto", "--sparse=always", ROOTFS, copy], check=True)
    own.ok("image", "register", "mine", "--rootfs", str(copy))
    own.ok("vm", "create", "--image", "mine", "--name", "otter", "--no-start")
    os.utime(copy, ns=(1, 1))
    refused = own.banger("vm", "start", "otter")
    assert refused.returncode == 122
    assert "has changed" in refused.stderr.decode()
    assert own.banger("vm", "create", "--image", "mine").returncode == 122


def test_a_qcow2_file_becomes_an_image_of_our_own(own: World, tmp_path: Path) -> None:
    packed, disk = tmp_path / "packed", tmp_path / "disk.img"
    subprocess.run(["qemu-img", "convert", "-c", "-O", "qcow2", ROOTFS, packed], check=True)
    own.ok("image", "register", "mine", "--rootfs", str(packed))
    packed.unlink()
    assert own.ok("vm", "run", "--rm", "--image", "mine", "--", "cat", "/etc/debian_version").startswith("12")
    made = own.state.parents[1] / "images" / "mine" / "rootfs.ext4"
    assert made.stat().st_blocks * 512 <= ROOTFS.stat().st_blocks * 512 * 1.1, "holes stay holes"
    disk.write_bytes(bytes(510) + b"\x55\xaa" + bytes(1 << 20))
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", disk, packed], check=True)
    refused = own.banger("image", "register", "table", "--rootfs", str(packed))
    assert refused.returncode == 120
    assert "partition table" in refused.stderr.decode()
