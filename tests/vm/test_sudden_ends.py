"""Daemon and VMM are killed at each stage of a machine's life, in every disk and network mode. What is left is whole or is nothing, and the same
command repeated succeeds.

A stage is known by the event that announces it: the kill comes as soon as that line has arrived. All stages of one verb share a world, so that what one
leaves behind would trip the next. The modes are those of modes.py. A creation, and every step between the stages: test_ends_anywhere.py.
"""

from __future__ import annotations

import contextlib
import os
import signal

import pytest

from banger.model.errors import BangerError
from tests.vm.modes import SECONDS, Stage
from tests.world import alive, until

START = ("plan", "disk", "network", "machine", "agent")


def test_a_daemon_killed_at_any_stage_of_a_start_leaves_a_machine_that_starts(stage: Stage) -> None:
    world = stage.world
    world.ok("vm", "create", "--name", "otter")
    world.ok("vm", "exec", "otter", "--", "sh", "-c", "echo kept > /root/file; sync")
    for each in START:  # that it starts is seen by the next, which comes further
        world.ok("vm", "stop", "otter")
        stage.kill_daemon_at(each, "vm.start", vm="otter")
        if world.row("otter")["state"] == "running":
            stage.works()
        else:
            assert world.row("otter")["state"] == "stopped", each
    world.ok("vm", "start", "otter")
    assert world.ok("vm", "exec", "otter", "--", "cat", "/root/file") == "kept\n"
    world.ok("vm", "delete", "otter")
    stage.clean()


def test_a_daemon_killed_while_it_stops_or_deletes_can_do_it_again(stage: Stage) -> None:
    world = stage.world
    world.ok("vm", "create", "--name", "otter")
    for words in (("stop",), ("stop", "--force"), ("delete",)):
        pid = world.daemon_pid()
        machine = int(str(world.row("otter")["pid"]))
        os.kill(machine, signal.SIGSTOP)
        ending = world.begin("vm", *words, "otter")
        if words == ("stop",):
            until(lambda: "stopping otter" in world.log(), "the request")
        else:
            until(lambda machine=machine: not alive(machine), "the VMM's end")  # type: ignore[misc]
        os.kill(pid, signal.SIGKILL)
        ending.communicate(timeout=SECONDS)
        until(lambda pid=pid: not alive(pid), "the daemon's end")  # type: ignore[misc]
        world.ok("vm", "list")
        if words[0] == "stop":
            world.ok("vm", "stop", "--force", "otter")
            world.ok("vm", "start", "otter")
            stage.works()
    world.banger("vm", "delete", "otter")
    assert world.rows() == []
    stage.clean()


def test_a_vmm_killed_while_it_boots_fails_the_creation_and_leaves_nothing(stage: Stage) -> None:
    for moment in ("machine", "agent"):
        with pytest.raises(BangerError):
            stage.kill_vmm_at(moment, "vm.create", name="otter")
        assert stage.world.rows() == []
        stage.clean()
    stage.world.ok("vm", "create", "--name", "otter")
    stage.works()


def test_a_vmm_killed_while_it_is_stopped_or_deleted_is_what_was_asked_for(stage: Stage) -> None:
    world = stage.world
    world.ok("vm", "create", "--name", "otter")
    for verb in ("stop", "delete"):
        machine, said = int(str(world.row("otter")["pid"])), len(world.log())
        os.kill(machine, signal.SIGSTOP)
        ending = world.begin("vm", verb, "otter")
        if verb == "stop":
            until(lambda said=said: "stopping otter" in world.log()[said:], "the request")  # type: ignore[misc]
        with contextlib.suppress(ProcessLookupError):
            os.kill(machine, signal.SIGKILL)
        _, complaint = ending.communicate(timeout=SECONDS)
        assert ending.returncode == 0, complaint
        if verb == "stop":
            world.ok("vm", "start", "otter")
            stage.works()
    assert world.rows() == []
    stage.clean()


def test_a_vmm_killed_while_no_daemon_runs_leaves_a_machine_that_starts(stage: Stage) -> None:
    world = stage.world
    world.ok("vm", "create", "--name", "otter")
    world.ok("vm", "exec", "otter", "--", "sh", "-c", "echo kept > /root/file; sync")
    pid = int(str(world.row("otter")["pid"]))
    world.kill_daemon()
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid), "the VMM's end")
    world.ok("vm", "list")
    assert world.row("otter")["state"] == "stopped"
    world.ok("vm", "start", "otter")
    assert world.ok("vm", "exec", "otter", "--", "cat", "/root/file") == "kept\n"
    world.ok("vm", "delete", "otter")
    stage.clean()
