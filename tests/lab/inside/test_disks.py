"""Disks with the VMM that they are not with elsewhere: Firecracker on a clone."""

from __future__ import annotations

from pathlib import Path

from tests.vm.modes import btrfs
from tests.world import World


def wrote(world: World) -> None:
    """Its machine otter writes to its root, which is the disk itself, and is stopped."""
    world.ok("vm", "create", "--name", "otter")
    world.ok("vm", "exec", "otter", "--", "sh", "-c", "grep -q '^/dev/vda / ext4 rw' /proc/mounts && echo mine > /root/kept")
    world.ok("vm", "stop", "otter")


def test_firecracker_on_a_clone_boots_and_keeps_what_was_written(short_path: Path, shelf: None) -> None:
    with btrfs(short_path) as place:
        world = World(place, disk="reflink", images_dir=str(place / "images"), disk_size="1G")
        try:
            wrote(world)
            row = world.row("otter")
            assert (row["vmm"], row["disk"]) == ("firecracker", "reflink")
            world.ok("vm", "start", "otter")
            assert world.ok("vm", "exec", "otter", "--", "cat", "/root/kept") == "mine\n"
        finally:
            world.close()
