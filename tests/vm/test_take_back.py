"""The user takes it back: Ctrl-C, a closed terminal, a request from elsewhere. What was being made is undone before the command ends."""

from __future__ import annotations

import signal

import pytest

from tests.vm.gates import SECONDS, STAGES, Held, clean, nothing_left, under_way
from tests.world import World

INTERRUPTED, GUEST_FAILED = 130, 124


@pytest.fixture(params=STAGES)
def held(request: pytest.FixtureRequest, world: World) -> Held:
    return Held(world, str(request.param))


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
