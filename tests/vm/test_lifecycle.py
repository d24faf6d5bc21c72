"""A machine's life, on real machines."""

from __future__ import annotations

import json
import os
import signal

import pytest

from tests.world import World, alive, until

pytestmark = pytest.mark.conformance
BOOT_ID = ("cat", "/proc/sys/kernel/random/boot_id")


def test_one_command_runs_in_a_throwaway_machine_and_its_status_is_ours(world: World) -> None:
    done = world.banger("vm", "run", "--rm", "--", "sh", "-c", "uname -sr; echo oops >&2; exit 42")
    assert done.returncode == 42
    assert done.stdout.startswith(b"Linux 6.1.")
    assert b"oops" in done.stderr
    assert b"spec: 1 vcpu" in done.stderr
    assert world.rows() == []


def test_files_are_there_after_stop_and_start(world: World) -> None:
    world.ok("vm", "create", "--name", "otter")
    world.ok("vm", "exec", "otter", "--", "sh", "-c", "echo kept > /root/file; dd if=/dev/zero of=/root/big bs=1M count=64 2>/dev/null")
    world.ok("vm", "stop", "otter")
    assert world.row("otter")["state"] == "stopped"
    assert world.processes() == {}
    world.ok("vm", "start", "otter")
    assert world.ok("vm", "exec", "otter", "--", "sh", "-c", "cat /root/file; stat -c %s /root/big") == "kept\n67108864\n"


def test_machines_outlive_the_daemon_and_are_taken_over(world: World) -> None:
    world.ok("vm", "create", "--name", "otter")
    world.ok("vm", "create", "--name", "wren", "--no-start")
    before = world.ok("vm", "exec", "otter", "--", *BOOT_ID)
    world.kill_daemon()
    assert world.ok("vm", "exec", "otter", "--", *BOOT_ID) == before
    states = {str(row["name"]): row["state"] for row in world.rows()}
    assert states == {"otter": "running", "wren": "stopped"}
    world.ok("vm", "start", "wren")


def test_a_vmm_that_was_killed_behind_our_back_is_noticed_and_its_machine_starts_again(world: World) -> None:
    world.ok("vm", "create", "--name", "otter")
    pid = int(str(world.row("otter")["pid"]))
    os.kill(pid, signal.SIGKILL)
    until(lambda: world.row("otter")["state"] == "stopped", "the state stopped", seconds=2)
    until(lambda: world.processes() == {}, "the end of its network", seconds=5)
    world.ok("vm", "start", "otter")


def test_a_vmm_that_died_while_no_daemon_ran_is_shown_as_stopped(world: World) -> None:
    world.ok("vm", "create", "--name", "otter")
    pid = int(str(world.row("otter")["pid"]))
    world.kill_daemon()
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid), "the VMM's end")
    assert json.loads(world.ok("vm", "show", "otter", "--json"))["state"] == "stopped"
    world.ok("vm", "start", "otter")


def test_a_frozen_vmm_makes_nobody_else_wait(world: World) -> None:
    world.ok("vm", "create", "--name", "otter")
    world.ok("vm", "create", "--name", "wren")
    os.kill(int(str(world.row("otter")["pid"])), signal.SIGSTOP)
    assert {str(row["name"]): row["state"] for row in json.loads(world.ok("vm", "list", "--json", timeout=5))} == {
        "otter": "frozen",
        "wren": "running",
    }
    assert world.ok("vm", "exec", "wren", "--", "echo", "here", timeout=10) == "here\n"
    refused = world.banger("vm", "exec", "otter", "--", "true", timeout=10)
    assert refused.returncode == 122
    assert b"frozen" in refused.stderr
    world.kill_daemon()
    assert len(json.loads(world.ok("vm", "list", "--json", timeout=15))) == 2
    assert world.ok("vm", "exec", "wren", "--", "echo", "here", timeout=10) == "here\n"
    world.ok("vm", "delete", "otter", timeout=15)


def test_a_guest_that_does_not_power_off_is_forced_in_time_and_keeps_its_files(world: World) -> None:
    world.env["BANGER_STOP_TIMEOUT"] = "3"
    world.ok("vm", "create", "--name", "otter")
    world.ok("vm", "exec", "otter", "--", "sh", "-c", "echo kept > /root/file")
    os.kill(int(str(world.row("otter")["pid"])), signal.SIGSTOP)
    world.ok("vm", "stop", "otter", timeout=10)
    assert world.row("otter")["state"] == "stopped"
    world.ok("vm", "start", "otter")


def test_powering_off_from_inside_stops_the_machine(world: World) -> None:
    world.ok("vm", "create", "--name", "otter", "--image", "debian-bookworm", "--memory", "512M", "--wait", "boot")
    world.banger("vm", "exec", "otter", "--", "systemctl", "poweroff")
    until(lambda: world.row("otter")["state"] == "stopped", "the state stopped")
    world.ok("vm", "start", "otter")


def test_kill_and_restart_and_several_targets(world: World) -> None:
    for name in ("otter", "wren"):
        world.ok("vm", "create", "--name", name)
    first = world.ok("vm", "exec", "otter", "--", *BOOT_ID)
    world.ok("vm", "restart", "otter")
    assert world.ok("vm", "exec", "otter", "--", *BOOT_ID) != first
    world.ok("vm", "kill", "wren")
    assert world.row("wren")["state"] == "stopped"
    done = world.banger("vm", "delete", "otter", "nobody", "wren", "otter")
    assert done.returncode == 121
    assert b"nobody" in done.stderr
    assert world.rows() == []


def test_prune_deletes_what_does_not_run(world: World) -> None:
    world.ok("vm", "create", "--name", "otter")
    world.ok("vm", "create", "--name", "wren", "--no-start")
    world.ok("vm", "prune", "--force")
    assert [row["name"] for row in world.rows()] == ["otter"]


def test_a_taken_name_is_refused_and_a_deleted_id_is_gone(world: World) -> None:
    world.ok("vm", "create", "--name", "otter")
    identity = str(world.row("otter")["id"])
    again = world.banger("vm", "create", "--name", "otter")
    assert again.returncode == 122
    assert b"otter" in again.stderr
    world.ok("vm", "delete", "otter")
    for command in (("show", identity), ("exec", identity, "--", "true"), ("start", identity)):
        assert world.banger("vm", *command).returncode == 121


@pytest.mark.parametrize("name", ["debian-bookworm", "debian-bookworm-slim"])
def test_the_agent_stays_pid_1_only_where_the_image_has_no_init(world: World, name: str) -> None:
    world.ok("vm", "create", "--name", "otter", "--image", name, "--memory", "512M", "--wait", "boot")
    init = world.ok("vm", "exec", "otter", "--", "cat", "/proc/1/comm").strip()
    assert (init == "systemd") == (name == "debian-bookworm")
    assert world.ok("vm", "exec", "otter", "--", "hostname") == "otter\n"
    assert len(world.ok("vm", "exec", "otter", "--", "cat", "/etc/machine-id").strip()) == 32
