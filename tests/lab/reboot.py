"""Runs in the lab machine, before and after its power is cut: `python3 -m tests.lab.reboot before|after`. What must hold is asserted here."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.inventory import take
from tests.world import World

#: Not below /tmp, which systemd empties at each boot.
PLACE = Path("/srv/reboot")
KINDS = ("links", "tables", "loops", "maps", "namespaces")


def before(world: World) -> None:
    """A machine that runs and has written something, and one that does not run."""
    world.ok("vm", "create", "--name", "otter")
    world.ok("vm", "exec", "otter", "--", "sh", "-c", "echo kept > /root/file; sync")
    world.ok("vm", "create", "--name", "wren", "--no-start")


def after(world: World) -> None:
    """Both are stopped, nothing of them is on the host, they start, what was synced is there; and they can be deleted."""
    fresh = take(world.root)
    rows = {row["name"]: row["state"] for row in json.loads(world.ok("vm", "list", "--json"))}
    assert rows == {"otter": "stopped", "wren": "stopped"}, rows
    left = take(world.root).beyond(fresh)
    assert not [kind for kind in KINDS if kind in left], left
    for name in rows:
        world.ok("vm", "start", name)
    assert world.ok("vm", "exec", "otter", "--", "cat", "/root/file") == "kept\n"
    world.close()


if __name__ == "__main__":
    here = World(PLACE, disk="devmapper", network="bridge", disk_size="1G")
    {"before": before, "after": after}[sys.argv[1]](here)
