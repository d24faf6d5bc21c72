"""Many at once: machines, names, and commands for one machine from several sides."""

from __future__ import annotations

import random
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.world import World

SMALL = ("--network", "none", "--memory", "128M")
#: What a command may say when another was quicker: it did its work, or was told why not.
KNOWN = {0, 121, 122, 124, 130}
#: How a command in a guest ends that is powered off.
SWEPT_AWAY = {129, 137, 143}


def creation(world: World, name: str, *more: str) -> subprocess.CompletedProcess[bytes]:
    return world.banger("vm", "create", "--name", name, *SMALL, *more, timeout=240)


def test_six_machines_at_once_and_all_deleted_at_once(world: World) -> None:
    names = [f"otter-{number}" for number in range(6)]
    with ThreadPoolExecutor(6) as crowd:
        done = list(crowd.map(lambda name: creation(world, name, "--vcpu", "1"), names))
    assert [(one.returncode, one.stdout.decode().strip()) for one in done] == [(0, name) for name in names], [one.stderr.decode() for one in done]
    rows = world.rows()
    assert {str(row["name"]): row["state"] for row in rows} == dict.fromkeys(names, "running")
    assert len({str(row["id"]) for row in rows}) == 6
    script = "hostname; cat /proc/sys/kernel/random/boot_id /etc/machine-id"
    with ThreadPoolExecutor(6) as crowd:
        boots = list(crowd.map(lambda name: world.ok("vm", "exec", name, "--", "sh", "-c", script), names))
    assert [boot.split()[0] for boot in boots] == names
    assert len({boot.split()[1] for boot in boots}) == len({boot.split()[2] for boot in boots}) == 6
    world.ok("vm", "delete", *names)
    assert world.rows() == []
    assert world.machine_files() == []


def test_machines_with_a_network_have_addresses_of_their_own(world: World) -> None:
    with ThreadPoolExecutor(2) as crowd:
        done = list(crowd.map(lambda name: world.banger("vm", "create", "--name", name, "--memory", "128M"), ("otter", "wren")))
    assert [one.returncode for one in done] == [0, 0]
    hardware = {world.ok("vm", "exec", name, "--", "sh", "-c", "cat /sys/class/net/e*/address") for name in ("otter", "wren")}
    assert len(hardware) == 2


def test_of_two_who_want_one_name_one_gets_it(world: World) -> None:
    with ThreadPoolExecutor(2) as crowd:
        done = list(crowd.map(lambda _: creation(world, "otter"), range(2)))
    assert sorted(one.returncode for one in done) == [0, 122]
    loser = next(one for one in done if one.returncode)
    assert b"otter" in loser.stderr
    assert [row["name"] for row in world.rows()] == ["otter"]
    assert world.ok("vm", "exec", "otter", "--", "hostname") == "otter\n"


def test_of_two_daemons_that_are_started_at_once_one_stays(world: World) -> None:
    with ThreadPoolExecutor(8) as crowd:
        done = list(crowd.map(lambda _: world.banger("vm", "list", "-q"), range(8)))
    assert [(one.returncode, one.stdout, one.stderr) for one in done] == [(0, b"", b"")] * 8
    assert len([words for words in world.log().splitlines() if "listening" in words]) <= 8
    assert world.daemon_pid()


@pytest.mark.parametrize("seed", [1, 2])
def test_a_storm_of_commands_for_one_machine_ends_well(world: World, seed: int) -> None:
    chance = random.Random(seed)
    creation(world, "otter")
    commands = [("start",), ("stop",), ("kill",), ("restart",), ("stop", "--force"), ("exec", "otter", "--", "true")]
    plans = [chance.choices(commands, weights=(4, 3, 1, 1, 1, 2), k=5) for _ in range(3)]

    def storm(plan: list[tuple[str, ...]]) -> list[tuple[tuple[str, ...], int, bytes]]:
        words = [("vm", *command) if command[0] == "exec" else ("vm", *command, "otter") for command in plan]
        done = [(one, world.banger(*one, timeout=90)) for one in words]
        return [
            (one, result.returncode, result.stderr)
            for one, result in done
            if result.returncode not in (KNOWN | SWEPT_AWAY if one[1] == "exec" else KNOWN)
        ]

    with ThreadPoolExecutor(3) as crowd:
        assert list(crowd.map(storm, plans)) == [[], [], []]
    world.ok("vm", "start", "otter")
    assert world.row("otter")["state"] == "running"
    assert world.ok("vm", "exec", "otter", "--", "echo", "here") == "here\n"
    assert "Traceback" not in world.log()


def test_deleting_while_it_is_started_and_stopped_leaves_nothing(world: World) -> None:
    creation(world, "otter", "--no-start")
    with ThreadPoolExecutor(4) as crowd:
        done = list(crowd.map(lambda verb: world.banger("vm", verb, "otter", timeout=60), ("start", "delete", "stop", "delete")))
    assert {one.returncode for one in done} <= KNOWN
    world.banger("vm", "delete", "otter")
    assert world.rows() == []
    assert world.machine_files() == []
    assert "Traceback" not in world.log()


def test_deleting_what_is_being_created_takes_the_creation_back(world: World) -> None:
    process = world.begin("vm", "create", "--name", "otter", *SMALL)
    assert process.stderr is not None
    while not process.stderr.readline().startswith(b"[vm create] agent: "):
        assert process.poll() is None
    world.ok("vm", "delete", "otter")
    assert process.wait(60) == 130
    assert world.rows() == []
    assert world.machine_files() == []
