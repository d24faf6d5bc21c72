"""One daemon for one state, whatever becomes of the runtime folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.world import World, alive, until

BOOT_ID = ("cat", "/proc/sys/kernel/random/boot_id")


def test_machines_and_their_daemon_survive_the_loss_of_the_runtime_folder(world: World) -> None:
    world.ok("vm", "create", "--name", "otter", "--network", "none")
    before = world.ok("vm", "exec", "otter", "--", *BOOT_ID)
    former = world.daemon_pid()
    shutil.rmtree(world.run)
    assert world.ok("vm", "exec", "otter", "--", *BOOT_ID) == before
    until(lambda: not alive(former), "the end of the daemon that nobody could reach", seconds=5)
    world.ok("vm", "delete", "otter")
    until(lambda: world.processes() == {}, "the end of the machine's processes", seconds=5)


def test_two_runtime_folders_lead_to_one_daemon(world: World) -> None:
    world.ok("vm", "create", "--name", "otter", "--no-start")
    other = World(world.root / "other")
    other.env["XDG_STATE_HOME"] = world.env["XDG_STATE_HOME"]
    assert "otter" in other.ok("vm", "list")
    assert other.daemon_pid() == world.daemon_pid()
    assert (other.run / "bangerd.sock").is_symlink()
    other.ok("daemon", "stop")
    assert "otter" in other.ok("vm", "list")
    assert "otter" in world.ok("vm", "list")
    assert other.daemon_pid() == world.daemon_pid()


def test_the_services_daemon_takes_over_from_those_that_serve_before_it(world: World) -> None:
    world.ok("vm", "create", "--name", "otter", "--no-start")
    former = world.daemon_pid()
    with subprocess.Popen([sys.executable, "-P", "-m", "banger.bangerd", "replace"], env=world.env) as service:
        until(lambda: not alive(former), "the end of the former daemon")
        until(lambda: "otter" in world.ok("vm", "list") and world.daemon_pid() == service.pid, "the service's daemon")
        world.ok("vm", "delete", "otter")
        world.ok("daemon", "stop")
        assert service.wait(30) == 0


def test_records_of_a_former_boot_mean_nothing(world: World, tmp_path: Path) -> None:
    world.ok("vm", "create", "--name", "otter", "--no-start")
    identity = str(world.row("otter")["id"])
    world.kill_daemon()
    folder = world.state / "run" / identity
    folder.mkdir(parents=True)
    start = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    (folder / "vmm.json").write_text(f'{{"version":1,"pid":{Path("/proc/self").readlink()},"start":{start}}}')
    (world.state / "boot").write_text("another boot")
    assert world.ok("vm", "list").split("\n")[1].split()[2] == "stopped"
    assert not folder.exists()
