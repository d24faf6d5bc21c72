"""What is Firecracker's own: that it is chosen, how it runs, and its end."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.lab.inside.test_firecracker_user import confined
from tests.world import World


def test_kvm_is_real_here() -> None:
    assert "svm" in Path("/proc/cpuinfo").read_text()
    assert Path("/dev/kvm").is_char_device()


def test_auto_is_firecracker_where_it_can_be(world: World) -> None:
    world.env["BANGER_VMM"] = "auto"
    done = world.banger("vm", "run", "--rm", "--", "uname", "-r")
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.startswith(b"6.1.")
    assert b"Firecracker 1.12.1 (PATH): /dev/kvm is usable" in done.stderr


def test_without_the_jailer_it_runs_confined_in_its_own_folder_and_leaves_nothing_there(world: World) -> None:
    world.env["BANGER_JAILER"] = "no"
    world.ok("vm", "create", "--name", "otter")
    row = world.row("otter")
    assert (row["vmm"], row["accelerator"]) == ("firecracker", "kvm")
    confined(int(str(row["pid"])))
    assert os.readlink(f"/proc/{row['pid']}/root") == "/"
    folder = Path(f"/proc/{row['pid']}/cwd").readlink()
    assert folder == world.state / "run" / str(row["id"])
    assert {path.name for path in folder.iterdir()} == {
        "api.sock",
        "vsock.sock",
        "console.pipe",
        "machine.json",
        "metrics.json",
        "metrics.pipe",
        "vmm.json",
    }
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())
    world.ok("vm", "stop", "otter")
    assert not folder.exists()


def test_doctor_names_it(world: World) -> None:
    found = json.loads(world.banger("doctor", "--json").stdout)
    assert {"firecracker": "PASS"}.items() <= {row["subject"]: row["level"] for row in found}.items()
