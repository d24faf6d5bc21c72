"""Full disks, for real: a small file system that fills up. What fails says so, leaves nothing, and works once there is room."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.world import KERNEL, World, each_event, until

NO_SPACE = 123
MIB = 1 << 20


class Small:
    """A file system of few MiB."""

    def __init__(self, folder: Path, mib: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=700", "banger-test", folder], check=True)

    def grow(self, mib: int) -> None:
        """Give it more room."""
        subprocess.run(["mount", "-o", f"remount,size={mib}m", self.folder], check=True)

    def fill(self) -> None:
        """Take all the room there is."""
        with contextlib.suppress(OSError), (self.folder / "filler").open("wb", buffering=0) as file:
            for size in (MIB, 4096):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass

    def free(self) -> None:
        """Give that room back."""
        (self.folder / "filler").unlink()


@pytest.fixture
def place(short_path: Path) -> Iterator[Path]:
    """A folder in which file systems may be mounted; they are unmounted last."""
    if os.geteuid():
        pytest.skip("root is needed to mount a small file system")
    yield short_path
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in sorted((mount for mount in mounts if mount.startswith(f"{short_path}/")), reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=True)


def full(world: World, *arguments: str, needs: str = "") -> str:
    """The command fails for want of space and says how much it needs; its stderr."""
    done = world.banger(*arguments, timeout=60)
    said = done.stderr.decode()
    assert done.returncode == NO_SPACE, f"{done.returncode}: {said}\n{world.log()[-3000:]}"
    assert needs in said
    assert "hint: " in said
    assert "Traceback" not in said
    return said


def tiny_catalog(world: World, size_mib: int) -> None:
    """A user's catalog with one small image, which is the default."""
    folder = world.root / "catalog"
    folder.mkdir()
    entry = {"name": "tiny", "source": "debian", "kernel": KERNEL, "suite": "bookworm", "variant": "extract", "packages": ["busybox-static"]}
    (folder / "images.json").write_text(json.dumps({"version": 1, "entries": [entry | {"size_mib": size_mib}]}))
    world.env |= {"BANGER_CATALOG": str(folder), "BANGER_DEFAULT_IMAGE": "tiny", "BANGER_IMAGES_DIR": str(world.root / "images")}


@contextlib.contextmanager
def banger(place: Path) -> Iterator[World]:
    """A world in that folder, which must be left clean."""
    world = World(place)
    yield world
    world.close()


def test_an_image_that_cannot_fit_is_refused_before_anything_is_fetched(place: Path) -> None:
    small = Small(place / "images", 24)
    with banger(place) as world:
        tiny_catalog(world, 16)
        said = full(world, "vm", "create", "--name", "otter", "--network", "none", needs="needs about 32M")
        assert "24M are free" in said
        assert "stage: make image" in said
        assert list((place / "images").iterdir()) == []
        assert world.rows() == []
        small.grow(160)
        world.ok("vm", "create", "--name", "otter", "--network", "none")
        assert world.ok("vm", "exec", "otter", "--", "busybox", "uname") == "Linux\n"


def test_a_disk_that_fills_up_during_a_build_is_told_as_that_and_leaves_no_image(place: Path) -> None:
    small = Small(place / "images", 160)
    with banger(place) as world:
        tiny_catalog(world, 16)
        building = world.begin("image", "pull", "--json", "tiny")
        assert building.stderr is not None
        for event in each_event(map(json.loads, building.stderr)):
            if event.get("detail") in ("update package lists", "download"):
                small.fill()
                break
        _, said = building.communicate(timeout=60)
        assert building.returncode == NO_SPACE, said
        assert b"no space left while making image tiny" in said
        assert [path.name for path in (place / "images").iterdir()] == ["filler"]
        small.free()
        world.ok("image", "pull", "tiny")


def test_a_machine_whose_disk_cannot_be_made_leaves_nothing(place: Path) -> None:
    small = Small(place / "state" / "banger", 32)
    with banger(place) as world:
        said = full(world, "vm", "create", "--name", "otter", "--network", "none", needs="a new disk needs")
        assert "stage: disk" in said
        assert world.rows() == []
        assert world.machine_files() == []
        small.grow(256)
        world.ok("vm", "create", "--name", "otter", "--network", "none")


@pytest.mark.parametrize("folder", ["state/banger", "cache/banger"])
def test_a_file_system_without_a_byte_left_is_told_as_that_and_all_else_goes_on(place: Path, folder: str) -> None:
    small = Small(place / folder, 256)
    with banger(place) as world:
        world.ok("vm", "create", "--name", "wren", "--network", "none")
        for cached in [path for path in (place / "cache").rglob("*") if path.is_file()]:
            cached.unlink()
        small.fill()
        full(world, "vm", "create", "--name", "otter", "--network", "none", "--disk-size", "65M")
        assert [row["name"] for row in world.rows()] == ["wren"]
        assert world.ok("vm", "exec", "wren", "--", "echo", "here") == "here\n"
        assert {path.split("/")[3] for path in world.machine_files() if path.count("/") > 2} == {world.row("wren")["id"]}
        world.ok("vm", "delete", "wren")
        small.free()
        world.ok("vm", "create", "--name", "otter", "--network", "none", "--disk-size", "65M")


def test_a_machine_that_fills_the_disk_is_paused_and_goes_on_by_itself_with_nothing_lost(place: Path) -> None:
    small = Small(place / "state" / "banger", 128)
    with banger(place) as world:
        world.ok("vm", "create", "--name", "otter", "--network", "none")
        writing = "head -c 200000000 /dev/zero | tr '\\0' x > /root/large; sync; echo > /root/whole"
        world.ok("vm", "exec", "otter", "--", "sh", "-c", 'setsid sh -c "$0" > /dev/null 2>&1 < /dev/null &', writing)
        until(lambda: world.row("otter")["state"] == "paused", "the pause", seconds=60)
        assert "no space left for" in str(world.row("otter")["note"])
        said = full(world, "vm", "exec", "otter", "--", "true", needs="goes on once 64M are free")
        assert "machine otter is paused" in said
        world.kill_daemon()
        world.ok("vm", "list")
        until(lambda: world.row("otter")["state"] == "paused", "the pause, seen by the next daemon")
        small.grow(512)
        until(lambda: world.row("otter")["state"] == "running", "the end of the pause")
        assert world.row("otter")["note"] == ""
        until(lambda: world.banger("vm", "exec", "otter", "--", "test", "-e", "/root/whole").returncode == 0, "all of it", seconds=60)
        assert world.ok("vm", "exec", "otter", "--", "sh", "-c", "wc -c < /root/large; tr -d x < /root/large | wc -c") == "200000000\n0\n"
        assert "EXT4-fs error" not in world.ok("vm", "exec", "otter", "--", "dmesg")


def test_a_daemon_starts_and_adopts_although_the_disk_is_full(place: Path) -> None:
    small = Small(place / "state" / "banger", 256)
    with banger(place) as world:
        world.ok("vm", "create", "--name", "otter", "--network", "none")
        small.fill()
        world.kill_daemon()
        assert world.ok("vm", "exec", "otter", "--", "echo", "here") == "here\n"
        small.free()
