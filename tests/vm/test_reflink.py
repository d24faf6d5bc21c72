"""Disks that are clones of their image, for real: on btrfs in a file, with machines that write to them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.world import SHELF, SLIM, World, until

MIB = 1 << 20
BAD, LACKS = 120, 123


@pytest.fixture
def btrfs(short_path: Path) -> Iterator[Path]:
    """A btrfs of 2 GiB, unmounted at the end."""
    if os.geteuid():
        pytest.skip("root is needed to mount a file system")
    with (short_path / "btrfs.img").open("wb") as file:
        file.truncate(2 << 30)
    place = short_path / "btrfs"
    place.mkdir()
    subprocess.run(["mkfs.btrfs", "-q", short_path / "btrfs.img"], check=True)
    subprocess.run(["mount", "-o", "loop", short_path / "btrfs.img", place], check=True)
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture
def clones(btrfs: Path, shelf: None) -> Iterator[World]:
    """A world whose state and images are on btrfs, and whose machines have clones."""
    (btrfs / "images").mkdir(mode=0o700)
    shutil.copytree(
        SHELF / "images" / SLIM, btrfs / "images" / SLIM, copy_function=lambda a, b: subprocess.run(["cp", "--sparse=always", a, b], check=True)
    )
    world = World(btrfs, disk="reflink", images_dir=str(btrfs / "images"), network="none", disk_size="1G")
    yield world
    world.close()


def used(world: World) -> int:
    """What is taken of the file system, in bytes, once it has settled."""
    subprocess.run(["sync", "-f", world.root], check=True)
    found = os.statvfs(world.root)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def test_a_clone_takes_no_room_is_grown_by_the_guest_and_keeps_what_is_written(clones: World) -> None:
    before = used(clones)
    clones.ok("vm", "create", "--name", "otter", "--no-start")
    assert used(clones) - before < 16 * MIB
    assert clones.row("otter")["disk"] == "reflink"
    clones.ok("vm", "start", "otter")
    size = int(clones.ok("vm", "exec", "otter", "--", "sh", "-c", "df -B1 / | awk 'END {print $2}'"))
    assert 900 * MIB < size < 1024 * MIB
    assert "/dev/vda / ext4 rw" in clones.ok("vm", "exec", "otter", "--", "cat", "/proc/mounts")
    clones.ok("vm", "exec", "otter", "--", "sh", "-c", "echo mine > /root/kept")
    clones.ok("vm", "stop", "otter")
    disk = clones.state / "vms" / str(clones.row("otter")["id"]) / "disk.ext4"
    checked = subprocess.run(["e2fsck", "-fn", disk], capture_output=True, text=True, env=clones.env | {"PATH": "/usr/sbin:/sbin"})
    assert checked.returncode == 0, checked.stdout
    clones.ok("vm", "start", "otter")
    assert clones.ok("vm", "exec", "otter", "--", "cat", "/root/kept") == "mine\n"


def test_two_machines_of_one_image_do_not_see_each_others_writes_and_deleting_frees(clones: World) -> None:
    image = (clones.root / "images" / SLIM / "rootfs.ext4").read_bytes()
    for name in ("otter", "wren"):
        clones.ok("vm", "create", "--name", name)
        clones.ok("vm", "exec", name, "--", "sh", "-c", f"echo {name} > /root/who; sync")
    assert clones.ok("vm", "exec", "otter", "--", "cat", "/root/who") == "otter\n"
    clones.ok("vm", "exec", "wren", "--", "sh", "-c", "head -c 50000000 /dev/urandom > /root/large; sync")
    full = used(clones)
    clones.ok("vm", "delete", "wren")
    until(lambda: full - used(clones) > 40 * MIB, "the room that it took")
    clones.ok("vm", "delete", "otter")
    assert (clones.root / "images" / SLIM / "rootfs.ext4").read_bytes() == image


def test_a_killed_machine_starts_again_with_what_it_had_synced(clones: World) -> None:
    clones.ok("vm", "create", "--name", "otter")
    clones.ok("vm", "exec", "otter", "--", "sh", "-c", "echo synced > /root/kept; sync; head -c 20000000 /dev/urandom > /root/not")
    clones.ok("vm", "kill", "otter")
    clones.ok("vm", "start", "otter")
    assert clones.ok("vm", "exec", "otter", "--", "cat", "/root/kept") == "synced\n"
    assert "recovery" in clones.ok("vm", "exec", "otter", "--", "dmesg")


def test_a_machine_with_a_clone_becomes_an_image(clones: World) -> None:
    clones.ok("vm", "create", "--name", "otter")
    clones.ok("vm", "exec", "otter", "--", "sh", "-c", "echo mine > /root/kept; rm /etc/debian_version; sync")
    clones.ok("vm", "kill", "otter")
    assert clones.ok("image", "commit", "otter", "mine", timeout=240) == "mine\n"
    made = clones.banger("vm", "run", "--rm", "--image", "mine", "--", "sh", "-c", "cat /root/kept; ls /etc/debian_version; dpkg -l | tail -n 1")
    lines = made.stdout.decode().splitlines()
    assert (lines[0], lines[1][:3]) == ("mine", "ii ")
    assert b"/etc/debian_version" in made.stderr


def test_where_files_cannot_be_cloned_it_says_what_to_do(world: World) -> None:
    done = world.banger("vm", "create", "--disk", "reflink", "--network", "none")
    said = done.stderr.decode()
    assert done.returncode == LACKS, said
    assert "cannot clone files (btrfs and XFS can)" in said
    assert world.rows() == []


def test_an_image_on_another_file_system_is_told_as_that(clones: World, shelf: None) -> None:
    clones.env["BANGER_IMAGES_DIR"] = str(SHELF / "images")
    done = clones.banger("vm", "create", "--name", "otter")
    said = done.stderr.decode()
    assert done.returncode == LACKS, said
    assert "they are on two file systems" in said
    assert "hint: put both on one file system" in said
    assert clones.machine_files() == []


def test_a_disk_too_small_for_its_image_is_refused(clones: World) -> None:
    done = clones.banger("vm", "create", "--name", "otter", "--disk-size", "64M")
    assert done.returncode == BAD, done.stderr.decode()
    assert "cannot hold it" in done.stderr.decode()
    assert clones.machine_files() == []
