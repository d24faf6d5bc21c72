"""`vm run` and `vm create` as they are typed and as programs call them."""

from __future__ import annotations

import json
import re
import signal
import time

import pytest

from tests.world import SLIM, World

QUICK = ("--network", "none", "--memory", "192M")
SPEC = rf"spec: 1 vcpu · 192 MiB · 8G disk · {SLIM} on debian-6\.1 · network none · QEMU with (TCG|KVM): .+"


def test_detached_it_prints_the_name_and_leaves_the_machine_running(world: World) -> None:
    done = world.banger("vm", "run", "-d", *QUICK)
    name = done.stdout.decode().strip()
    assert done.returncode == 0
    assert re.fullmatch(r"[a-z]+-[a-z]+", name)
    assert re.search(SPEC, done.stderr.decode())
    assert world.row(name)["state"] == "running"
    assert world.ok("vm", "exec", name, "--", "hostname") == f"{name}\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("-d", "--", "true"), "vm run --detach runs no command"),
        (("-d", "--rm"), "--detach and --rm exclude each other"),
        (("--",), "there is no command after --"),
        (("--imagine", "x"), "did you mean --image"),
        (("--memroy=1G",), "did you mean --memory"),
        (("--detach=yes",), "--detach takes no value"),
        (("uname", "-a"), "write the command after --"),
        (("--image", "debian-bokworm"), "did you mean"),
        (("--network", "usr"), "user"),
        (("--name", "Not_A_Name"), "Not_A_Name"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_made(world: World, words: tuple[str, ...], says: str) -> None:
    done = world.banger("vm", "run", *words)
    assert done.returncode in (120, 121)
    assert done.stdout == b""
    assert says in done.stderr.decode()
    assert world.banger("vm", "list", "-q").stdout == b""


def test_for_programs_progress_is_json_lines_and_the_result_alone_is_on_stdout(world: World) -> None:
    done = world.banger("vm", "run", "-d", "--json", "--name", "otter", *QUICK)
    assert json.loads(done.stdout) == json.loads(world.ok("vm", "show", "otter", "--json"))
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert list(lines[0]) == ["operation"]
    assert lines[0]["operation"]["name"] == "vm.create"
    assert {key for line in lines[1:] for key in line} == {"event"}
    stages = [line["event"]["stage"] for line in lines[1:]]
    assert list(dict.fromkeys(stages)) == ["image", "kernel", "plan", "disk", "network", "machine", "agent"]


def test_for_programs_a_commands_output_is_its_own(world: World) -> None:
    done = world.banger("vm", "run", "--rm", "--json", *QUICK, "--", "sh", "-c", "echo out; echo err >&2; exit 5")
    assert (done.returncode, done.stdout) == (5, b"out\n")
    objects = [json.loads(line) for line in done.stderr.splitlines() if line != b"err"]
    assert objects[-1]["result"]["state"] == "running"


def test_for_programs_an_error_is_one_object(world: World) -> None:
    done = world.banger("vm", "run", "--json", "--image", "nowhere", "--", "true")
    assert (done.returncode, done.stdout) == (121, b"")
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    assert error["code"] == "not-found"
    assert "nowhere" in error["message"]


def test_stdin_is_the_commands_and_its_status_is_ours(world: World) -> None:
    done = world.banger("vm", "run", "--rm", *QUICK, "--", "sh", "-c", "wc -c; exit 9", data=b"\0\xff" * 150_000)
    assert (done.returncode, done.stdout) == (9, b"300000\n")
    assert world.rows() == []


def test_without_a_command_and_without_a_terminal_the_shell_reads_stdin(world: World) -> None:
    done = world.banger("vm", "run", "--name", "otter", *QUICK, data=b"echo $0; hostname\nexit 6\n")
    assert (done.returncode, done.stdout) == (6, b"-bash\notter\n")
    assert done.stderr.decode().splitlines()[-1] == (
        "otter is running. Back in: banger vm shell otter · stop: banger vm stop otter · delete: banger vm delete otter"
    )


def test_a_command_that_is_not_there_leaves_a_throwaway_machine_no_chance(world: World) -> None:
    done = world.banger("vm", "run", "--rm", *QUICK, "--", "no-such-command")
    assert (done.returncode, done.stdout) == (127, b"")
    assert world.rows() == []


def test_ctrl_c_during_the_command_goes_to_it_and_the_throwaway_machine_goes_after_it(world: World) -> None:
    process = world.begin("vm", "run", "--rm", *QUICK, "--", "sh", "-c", "echo ready; exec sleep 341")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert world.rows() == []


def test_waiting_for_the_boot_waits_until_the_init_has_settled(world: World) -> None:
    done = world.banger(
        *("vm", "run", "--rm", "--wait", "boot", "--image", "debian-bookworm", "--memory", "512M", "--network", "none"),
        *("--", "systemctl", "is-system-running"),
    )
    assert (done.returncode, done.stdout) == (0, b"running\n"), done.stderr.decode()


def test_the_first_words_come_within_a_second_though_no_daemon_runs(world: World) -> None:
    began = time.monotonic()
    process = world.begin("vm", "run", "--rm", *QUICK, "--", "true")
    assert process.stderr is not None
    first = process.stderr.readline()
    took = time.monotonic() - began
    process.communicate(timeout=60)
    assert first.startswith(b"[vm run] image: ")
    assert took < 1.0


def test_sizes_are_what_was_asked_for(world: World) -> None:
    script = "nproc; grep MemTotal /proc/meminfo; df -k --output=size / | tail -1; ls /sys/class/net"
    out = world.ok("vm", "run", "--rm", "--vcpu", "2", "--memory", "300M", "--disk-size", "3G", "--network", "none", "--", "sh", "-c", script)
    cpus, memory, disk, links = out.splitlines()
    assert (cpus, links) == ("2", "lo")
    assert 220 << 10 < int(memory.split()[1]) <= 300 << 10
    assert 2.6 * 2**20 < int(disk) <= 3 * 2**20
