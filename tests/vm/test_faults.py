"""Sudden ends: the CLI, the daemon and the VMM are killed at each stage. What is left is whole or is nothing.

Stages that run no tool are over in milliseconds and cannot be held (see gates.py); there, kills come at many moments instead.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from banger.model.errors import BangerError
from tests.vm.gates import SECONDS, STAGES, Held, catalog, clean, under_way
from tests.world import SHELF, World, alive, each_event, until

GUEST_FAILED = 124


@pytest.fixture(params=STAGES)
def held(request: pytest.FixtureRequest, world: World) -> Held:
    return Held(world, str(request.param))


@pytest.fixture(autouse=True)
def _shelf_is_as_it_was() -> Iterator[None]:
    before = sorted(path.name for shelf in ("images", "kernels") for path in (SHELF / shelf).iterdir())
    yield
    assert sorted(path.name for shelf in ("images", "kernels") for path in (SHELF / shelf).iterdir()) == before


# --- the daemon is killed


def test_a_killed_daemon_leaves_nothing_of_a_creation_and_the_same_command_succeeds(held: Held) -> None:
    world, creating = held.world, held.world.begin(*held.words())
    held.wait()
    world.kill_daemon()
    _, said = creating.communicate(timeout=SECONDS)
    assert creating.returncode == 125
    assert b"daemon" in said
    assert b"Traceback" not in said
    if held.stage == "network" and held.gate is not None:
        held.gate.open()  # passt ends as soon as it finds that whoever started it has gone
    world.ok("vm", "list", timeout=SECONDS)
    clean(world)
    if held.gate is not None:
        held.gate.open()
    if held.stage not in ("image", "kernel"):
        world.ok(*held.words())
        assert world.ok("vm", "exec", "otter", "--", "echo", "here") == "here\n"


@pytest.mark.parametrize("moment", range(0, 40, 4))
def test_a_daemon_killed_at_any_moment_of_a_quick_creation_leaves_a_whole_machine_or_none(world: World, moment: int) -> None:
    world.ok("vm", "create", "--name", "first", "--no-start")
    pid = world.daemon_pid()
    with contextlib.suppress(BangerError, OSError, ValueError):
        lines = world.client().stream("vm.create", name="otter", start=False)
        time.sleep(moment / 1000)
        os.kill(pid, signal.SIGKILL)
        for _ in lines:
            pass
    until(lambda: not alive(pid), "the daemon's end")
    world.ok("vm", "list")
    names = [row["name"] for row in world.rows()]
    assert names in (["first"], ["first", "otter"])
    assert len([path for path in world.machine_files() if path.endswith("overlay.ext4")]) == len(names)
    assert len(list((world.state / "vms").iterdir())) == len(names)
    if "otter" in names:
        world.ok("vm", "delete", "otter")
    world.ok("vm", "create", "--name", "otter", "--no-start")


@pytest.mark.parametrize("moment", [0, 1, 2, 4, 8, 16])
def test_a_daemon_killed_at_any_moment_of_a_deletion_leaves_a_whole_machine_or_none(world: World, moment: int) -> None:
    world.ok("vm", "create", "--name", "otter", "--network", "user")
    pid = world.daemon_pid()
    deleting = world.begin("vm", "delete", "otter")
    if moment:
        until(lambda: [row["state"] for row in world.rows()] != ["running"], "the deletion")
    time.sleep(moment / 1000)
    os.kill(pid, signal.SIGKILL)
    deleting.communicate(timeout=SECONDS)
    world.ok("vm", "list")
    if world.rows():
        assert world.ok("vm", "exec", "otter", "--", "echo", "here") == "here\n"
        world.ok("vm", "delete", "otter")
    clean(world)


@pytest.mark.parametrize("stage", ["network", "machine", "agent"])
def test_a_daemon_killed_at_each_stage_of_a_start_leaves_a_machine_that_starts(world: World, stage: str) -> None:
    held = Held(world, stage)
    world.ok("vm", "create", "--name", "otter", "--network", held.network, "--no-start")
    starting = world.begin("vm", "start", "otter")
    held.wait()
    world.kill_daemon()
    starting.communicate(timeout=SECONDS)
    assert starting.returncode == 125
    world.ok("vm", "list", timeout=SECONDS)
    assert [row["state"] for row in world.rows()] in (["stopped"], ["running"], ["frozen"])
    held.go()
    until(lambda: world.row("otter")["state"] in ("running", "stopped"), "a state to start from")
    world.ok("vm", "start", "otter")
    assert world.ok("vm", "exec", "otter", "--", "echo", "here") == "here\n"


def test_a_daemon_killed_while_it_stops_a_machine_leaves_one_that_starts(world: World) -> None:
    world.ok("vm", "create", "--name", "otter", "--network", "none")
    world.ok("vm", "exec", "otter", "--", "sh", "-c", "echo kept > /root/file; sync")
    os.kill(int(str(world.row("otter")["pid"])), signal.SIGSTOP)
    stopping = world.begin("vm", "stop", "otter")
    until(lambda: "stopping otter" in world.log(), "the request")
    world.kill_daemon()
    stopping.communicate(timeout=SECONDS)
    world.ok("vm", "stop", "--force", "otter", timeout=SECONDS)
    world.ok("vm", "start", "otter")
    assert world.ok("vm", "exec", "otter", "--", "cat", "/root/file") == "kept\n"


def test_a_build_that_was_killed_is_no_image_and_is_made_by_the_same_command(world: World) -> None:
    """For real: in the midst of unpacking. Two who asked hear of it; the next ones get it, and it is made once."""
    catalog(world)
    world.ok("vm", "list")
    for event in each_event(world.client().stream("image.pull", name="tiny")):
        if event.get("detail") in ("extract packages", "clean up"):
            break
    builders = [pid for pid, words in world.processes().items() if "mmdebstrap" in words]
    assert builders
    world.kill_daemon()
    until(lambda: not any(alive(pid) for pid in builders), "the builders' end", seconds=SECONDS)
    assert "tiny" not in world.ok("image", "list")
    clean(world)
    first, second = (world.begin("vm", "create", "--name", name, "--network", "none") for name in ("otter", "wren"))
    for creating in (first, second):
        _, said = creating.communicate(timeout=120)
        assert creating.returncode == 0, said
    assert world.log().count("image tiny is ready") == 1
    assert world.ok("vm", "exec", "wren", "--", "busybox", "uname") == "Linux\n"


# --- the CLI is killed


def test_a_killed_cli_leaves_the_creation_going_on(held: Held) -> None:
    world, creating = held.world, held.world.begin(*held.words())
    held.wait()
    creating.kill()
    creating.communicate()
    held.go()
    if held.stage in ("image", "kernel"):
        operation = under_way(world)[0]
        assert operation["name"] == "vm.create"
        world.ok("daemon", "cancel", str(operation["id"]))
        clean(world)
        return
    until(lambda: world.rows() and world.row("otter")["state"] == "running", "the machine")
    assert world.ok("vm", "exec", "otter", "--", "echo", "here") == "here\n"


def test_a_killed_cli_with_rm_leaves_nothing(held: Held) -> None:
    world = held.world
    running = world.begin("vm", "run", "--rm", "--network", held.network, "--", "sleep", "60")
    held.wait()
    running.kill()
    running.communicate()
    clean(world)


# --- the VMM is killed


def ended(world: World, creating: subprocess.Popen[bytes], stage: str) -> str:
    """The creation has failed since its VMM ended, and says so; its stderr."""
    _, said = creating.communicate(timeout=SECONDS)
    text = said.decode()
    assert creating.returncode == GUEST_FAILED, text
    assert f"stage: {stage}" in text
    assert "ended" in text
    clean(world)
    return text


@pytest.mark.parametrize("stage", ["machine", "agent"])
def test_a_killed_vmm_is_told_with_stage_cause_and_next_command_and_the_same_command_succeeds(world: World, stage: str) -> None:
    held = Held(world, stage)
    creating = world.begin(*held.words())
    held.wait()
    os.kill(held.vmm(), signal.SIGKILL)
    text = ended(world, creating, stage)
    if stage == "agent":
        assert "was killed" in text
        assert "banger vm create --no-start" in text.partition("hint: ")[2]
    if held.gate is not None:
        held.gate.open()
    world.ok(*held.words())


def test_a_vmm_killed_while_its_init_settles_is_told_as_that(world: World) -> None:
    creating = world.begin("vm", "create", "--name", "otter", "--image", "debian-bookworm", "--memory", "512M", "--network", "none", "--wait", "boot")
    until(lambda: world.socket.exists() and [each for each in under_way(world) if each["stage"] == "boot"], "the stage boot")
    os.kill(int(str(world.row("otter")["pid"])), signal.SIGKILL)
    ended(world, creating, "boot")


def test_a_guest_that_panics_is_told_with_the_consoles_tail(world: World) -> None:
    """The initramfs is cut short, so the kernel finds no init."""
    world.ok("vm", "create", "--name", "otter", "--network", "none", "--no-start")
    next((world.root / "cache").rglob("*.cpio")).write_bytes(b"")
    done = world.banger("vm", "start", "otter")
    text = done.stderr.decode()
    assert done.returncode == GUEST_FAILED
    assert "its kernel panicked" in text
    assert "Kernel panic" in text
    assert "banger vm logs otter" in text
    assert world.row("otter")["state"] == "stopped"
    assert "Kernel panic" in world.ok("vm", "logs", "otter")
