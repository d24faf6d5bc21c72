"""Sudden ends: the CLI, the daemon and the VMM are killed, or the user takes back, at each stage. What is left is whole or is nothing.

A stage is held open by putting a gate in front of the tool that it runs: the gate is a script that waits at a FIFO before it becomes the tool. Stages
that run no tool are over in milliseconds; there, kills come at many moments instead.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger.model.errors import BangerError
from tests.world import KERNEL, SHELF, World, alive, each_event, until

QEMU = "qemu-system-x86_64"
#: The stages of a creation that run a tool, and the tool. The agent's is held by freezing the VMM.
TOOLS = {"image": "mmdebstrap", "kernel": "mmdebstrap", "disk": "mkfs.ext4", "network": "passt", "machine": QEMU}
STAGES = (*TOOLS, "agent")
INTERRUPTED, GUEST_FAILED = 130, 124
SECONDS = 15.0


class Gate:
    """A command of the host that waits before it begins."""

    def __init__(self, folder: Path, command: str) -> None:
        real = shutil.which(command, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        assert real is not None
        folder.mkdir(exist_ok=True)
        self.reached, self.fifo, self.script = folder / f"{command}.reached", folder / f"{command}.fifo", folder / command
        os.mkfifo(self.fifo)
        self.script.write_text(f'#!/bin/sh\n: > {self.reached}\nread -r go < {self.fifo}\nexec {real} "$@"\n')
        self.script.chmod(0o755)

    def wait(self) -> None:
        """Until somebody stands at the gate."""
        until(self.reached.exists, f"the call of {self.script.name}", seconds=SECONDS)

    def open(self) -> None:
        """Let all pass, who stands there and who comes."""
        self.script.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            os.close(os.open(self.fifo, os.O_WRONLY | os.O_NONBLOCK))


class Held:
    """A banger whose creations can be held at one stage."""

    def __init__(self, world: World, stage: str) -> None:
        self.world, self.stage = world, stage
        self.network = "user" if stage == "network" else "none"
        world.env["PATH"] = f"{world.root}/bin:{world.env['PATH']}"
        self._own_shelves()
        world.ok("vm", "list")
        self.gate = Gate(world.root / "bin", TOOLS[stage]) if stage in TOOLS else None

    def _own_shelves(self) -> None:
        """Where images or kernels are to be made, they go to folders of our own, and what is made is tiny."""
        if self.stage == "image":
            catalog(self.world)
        elif self.stage == "kernel":
            self.world.env["BANGER_KERNELS_DIR"] = str(self.world.root / "kernels")

    def wait(self) -> None:
        """Until the creation is at the stage."""
        if self.gate is not None:
            self.gate.wait()
            return
        until(lambda: [each for each in under_way(self.world) if each["stage"] == "agent"], "the stage agent", seconds=SECONDS)
        os.kill(self.vmm(), signal.SIGSTOP)

    def vmm(self) -> int:
        """The VMM's pid."""
        return next(int(str(row["pid"])) for row in self.world.rows() if row["pid"])

    def go(self) -> None:
        """Let the stage end."""
        if self.gate is not None:
            self.gate.open()
        else:
            os.kill(self.vmm(), signal.SIGCONT)

    def words(self, *more: str) -> tuple[str, ...]:
        """A command that creates."""
        return ("vm", "create", "--name", "otter", "--network", self.network, *more)


def under_way(world: World) -> list[dict[str, object]]:
    """The operations."""
    found = world.client().call("daemon.operations")
    assert isinstance(found, list)
    return [each for each in found if each["finished"] is None]


def catalog(world: World) -> None:
    """A user's catalog with one tiny image, which is the default."""
    folder = world.root / "catalog"
    folder.mkdir()
    entry = {
        "name": "tiny",
        "source": "debian",
        "kernel": KERNEL,
        "suite": "bookworm",
        "variant": "extract",
        "packages": ["busybox-static"],
        "size_mib": 16,
    }
    (folder / "images.json").write_text(json.dumps({"version": 1, "entries": [entry]}))
    world.env |= {"BANGER_CATALOG": str(folder), "BANGER_DEFAULT_IMAGE": "tiny", "BANGER_IMAGES_DIR": str(world.root / "images")}


def nothing_left(world: World) -> bool:
    """No row, no process, no file of a machine, nothing half made on a shelf."""
    shelves = [path.name for shelf in ("images", "kernels") for path in (world.root / shelf).glob(".*")]
    blanks = list((world.root / "cache").rglob("*.new"))
    return not (world.rows() or world.processes() or world.machine_files() or shelves or blanks)


def clean(world: World) -> None:
    """Soon nothing is left."""
    until(lambda: nothing_left(world), f"a clean host: {world.rows()}, {world.processes()}, {world.machine_files()}", seconds=SECONDS)


@pytest.fixture(params=STAGES)
def held(request: pytest.FixtureRequest, world: World) -> Held:
    return Held(world, str(request.param))


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


# --- the user takes it back


def test_ctrl_c_at_each_stage_leaves_nothing(held: Held) -> None:
    world, creating = held.world, held.world.begin(*held.words())
    held.wait()
    creating.send_signal(signal.SIGINT)
    _, said = creating.communicate(timeout=SECONDS)
    assert creating.returncode == INTERRUPTED
    assert b"cancel" in said
    assert nothing_left(world)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_throwaway_machine_ends_with_its_command(world: World, number: signal.Signals) -> None:
    running = world.begin("vm", "run", "--rm", "--network", "none", "--", "sh", "-c", "echo begun; sleep 60")
    assert running.stdout is not None
    assert running.stdout.readline() == b"begun\n"
    running.send_signal(number)
    running.communicate(timeout=SECONDS)
    assert running.returncode == 128 + number
    assert nothing_left(world)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_throwaway_machine_that_is_being_made_ends_with_its_command(world: World, number: signal.Signals) -> None:
    held = Held(world, "agent")
    running = world.begin("vm", "run", "--rm", "--network", "none", "--", "true")
    held.wait()
    running.send_signal(number)
    running.communicate(timeout=SECONDS)
    assert running.returncode == 128 + number
    assert nothing_left(world)


def test_a_throwaway_machine_does_not_outlive_a_killed_daemon(world: World) -> None:
    running = world.begin("vm", "run", "--rm", "--network", "none", "--", "sh", "-c", "echo begun; sleep 60")
    assert running.stdout is not None
    assert running.stdout.readline() == b"begun\n"
    world.kill_daemon()
    _, said = running.communicate(timeout=SECONDS)
    assert running.returncode == GUEST_FAILED
    assert b"Traceback" not in said
    world.ok("vm", "list")
    clean(world)


def test_an_operation_can_be_taken_back_from_elsewhere(world: World) -> None:
    held = Held(world, "agent")
    creating = world.begin(*held.words())
    held.wait()
    world.ok("daemon", "cancel", str(under_way(world)[0]["id"]))
    creating.communicate(timeout=SECONDS)
    assert creating.returncode == INTERRUPTED
    assert nothing_left(world)


def test_deleting_a_machine_that_is_being_made_takes_it_back(world: World) -> None:
    held = Held(world, "agent")
    creating = world.begin(*held.words())
    held.wait()
    world.ok("vm", "delete", "otter", timeout=SECONDS)
    creating.communicate(timeout=SECONDS)
    assert creating.returncode == INTERRUPTED
    assert nothing_left(world)


def test_stopping_the_daemon_by_force_takes_back_what_is_under_way(world: World) -> None:
    held = Held(world, "agent")
    creating = world.begin(*held.words())
    held.wait()
    refused = world.banger("daemon", "stop")
    assert refused.returncode == 122
    assert b"under way" in refused.stderr
    world.ok("daemon", "stop", "--force", timeout=SECONDS)
    creating.communicate(timeout=SECONDS)
    assert creating.returncode == INTERRUPTED
    world.ok("vm", "list")
    clean(world)


@pytest.fixture(autouse=True)
def _shelf_is_as_it_was() -> Iterator[None]:
    before = sorted(path.name for shelf in ("images", "kernels") for path in (SHELF / shelf).iterdir())
    yield
    assert sorted(path.name for shelf in ("images", "kernels") for path in (SHELF / shelf).iterdir()) == before
