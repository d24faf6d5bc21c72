"""A host's disk that is full under a mapped one: the kernel gives all of that up, the machine is told as that, and what it had synced is not lost."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.inventory import take
from tests.vm.test_space import MIB, Small, banger, full, place
from tests.world import World, until

__all__ = ["place"]
ROOM = 384


class OnFile(Small):
    """An ext4 of few MiB in a file."""

    def __init__(self, folder: Path, mib: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        image = folder.parents[2] / "small.ext4"
        with image.open("wb") as file:
            file.truncate(mib * MIB)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, folder], check=True)
        (folder / "lost+found").rmdir()
        folder.chmod(0o700)


def note(world: World, name: str = "otter") -> str:
    """What is told of a machine, also by the command."""
    return str(json.loads(world.ok("vm", "show", name, "--json"))["note"])


@contextmanager
def crowded(place: Path) -> Iterator[tuple[World, Small]]:
    """A banger on a small disk, with two machines: otter has a mapped disk with something in it, and wren has none."""
    small = OnFile(place / "state" / "banger", ROOM)
    with banger(place) as world:
        world.env |= {"BANGER_DISK_SIZE": "1G"}
        world.ok("vm", "create", "--name", "wren", "--disk", "overlay")
        world.ok("vm", "create", "--name", "otter", "--disk", "devmapper")
        world.ok("vm", "exec", "otter", "--", "sh", "-c", "echo kept > /root/kept; sync")
        yield world, small


def test_a_full_disk_breaks_the_machine_that_writes_and_says_so_and_what_was_synced_is_there_again(place: Path) -> None:
    with crowded(place) as (world, small):
        small.fill()
        world.banger("vm", "exec", "otter", "--", "sh", "-c", "head -c 50000000 /dev/urandom > /root/large; sync")
        until(lambda: "cannot be read or written any more" in note(world), "the note", instead=lambda: note(world))
        assert "make room" in note(world)
        assert world.ok("vm", "exec", "wren", "--", "echo", "here") == "here\n"
        world.kill_daemon()
        assert "make room" in note(world)
        world.ok("vm", "stop", "--force", "otter")
        assert take(world.root).maps == frozenset()
        full(world, "vm", "start", "otter", needs="a mapped disk needs 64M")
        assert take(world.root).maps == frozenset()
        small.free()
        said = world.banger("vm", "start", "otter")
        assert said.returncode == 0, said.stderr
        assert b"what it had synced before is there" in said.stderr
        assert note(world) == ""
        assert world.ok("vm", "exec", "otter", "--", "cat", "/root/kept") == "kept\n"
        world.ok("vm", "exec", "otter", "--", "sh", "-c", "echo more > /root/more; sync")
        small.fill()
        world.banger("vm", "exec", "otter", "--", "sh", "-c", "head -c 50000000 /dev/urandom > /root/large; sync")
        until(lambda: note(world) != "", "the note")
        world.ok("vm", "delete", "otter")
        assert take(world.root).maps == frozenset()
        assert {path.split("/")[3] for path in world.machine_files() if path.count("/") > 2} == {world.row("wren")["id"]}
        assert world.ok("vm", "exec", "wren", "--", "echo", "here") == "here\n"
        small.free()
