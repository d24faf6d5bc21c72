"""What a real Firecracker counts, behind the jailer and without it, read by a daemon and by the next one."""

from __future__ import annotations

import json
import os
import stat

import pytest

from tests.inventory import take
from tests.world import World

MIB = 1 << 20


def told(world: World) -> dict[str, int]:
    """The numbers of the machine otter."""
    found = json.loads(world.ok("vm", "metrics", "otter", "--json"))
    assert isinstance(found.pop("since"), str)
    return {name: int(value) for name, value in found.items()}


@pytest.mark.parametrize("jailer", ["yes", "no"])
def test_what_a_guest_does_is_counted_and_counted_on_by_the_next_daemon(world: World, jailer: str) -> None:
    world.env["BANGER_JAILER"] = jailer
    world.ok("vm", "list")
    before = take(world.root)
    world.ok("vm", "create", "--name", "otter")
    row = world.row("otter")
    first = told(world)
    assert first["disk_read_bytes"] > 0
    assert first["disk_reads"] > 0
    assert first["vsock_sent_bytes"] > 0
    assert (first["seccomp_faults"], first["vcpu_failures"], first["net_received_bytes"]) == (0, 0, 0)
    pipe = world.state / "run" / str(row["id"]) / "metrics.pipe"
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert stat.S_IMODE(pipe.stat().st_mode) == 0o600
    assert (pipe.stat().st_uid != os.geteuid()) == (jailer == "yes")
    world.ok("vm", "exec", "otter", "--", "sh", "-c", "dd if=/dev/urandom of=/written bs=1M count=8 && sync")
    second = told(world)
    assert second["disk_written_bytes"] - first["disk_written_bytes"] >= 8 * MIB
    assert second["disk_writes"] > first["disk_writes"]
    world.kill_daemon()
    world.ok("vm", "list")
    assert world.row("otter")["pid"] == row["pid"]
    third = told(world)
    assert third["disk_written_bytes"] >= second["disk_written_bytes"]
    assert third["reports"] > second["reports"]
    assert "makes no sense" not in world.log()
    world.ok("vm", "delete", "otter")
    left = take(world.root).beyond(before)
    assert set(left) <= {"processes"}, left
    assert all("bangerd" in each for each in left.get("processes", ())), left


def test_a_machine_in_qemu_has_none(world: World) -> None:
    world.env["BANGER_VMM"] = "qemu"
    world.ok("vm", "create", "--no-start", "--name", "otter")
    done = world.banger("vm", "metrics", "otter")
    assert done.returncode != 0
    assert b"runs in qemu, which counts nothing" in done.stderr
