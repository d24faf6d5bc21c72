"""What is Firecracker's own: that it is chosen, how it runs, its console and its end."""

from __future__ import annotations

import fcntl
import json
import os
import re
import struct
import subprocess
import termios
from pathlib import Path

from tests.world import World, until


def test_kvm_is_real_here() -> None:
    assert "svm" in Path("/proc/cpuinfo").read_text()
    assert Path("/dev/kvm").is_char_device()


def test_auto_is_firecracker_where_it_can_be(world: World) -> None:
    world.env["BANGER_VMM"] = "auto"
    done = world.banger("vm", "run", "--rm", "--", "uname", "-r")
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.startswith(b"6.1.")
    assert b"Firecracker 1.12.1 (PATH): /dev/kvm is usable" in done.stderr


def test_it_runs_in_its_own_folder_and_leaves_nothing_there(world: World) -> None:
    world.env["BANGER_JAILER"] = "no"
    world.ok("vm", "create", "--name", "otter")
    row = world.row("otter")
    assert (row["vmm"], row["accelerator"]) == ("firecracker", "kvm")
    folder = Path(f"/proc/{row['pid']}/cwd").readlink()
    assert folder == world.state / "run" / str(row["id"])
    assert {path.name for path in folder.iterdir()} == {"api.sock", "vsock.sock", "console.pipe", "machine.json", "vmm.json"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())
    world.ok("vm", "stop", "otter")
    assert not folder.exists()


def test_the_console_is_in_the_log_and_bounded(world: World) -> None:
    world.env["BANGER_CONSOLE_BYTES"] = "4096"
    world.ok("vm", "create", "--name", "otter")
    world.ok("vm", "exec", "otter", "--", "sh", "-c", "seq 1500 > /dev/ttyS0; echo the-last-line > /dev/ttyS0")
    until(lambda: "the-last-line" in world.ok("vm", "logs", "otter"), "the last line")
    assert "\n1500\nthe-last-line\n" in world.ok("vm", "logs", "otter")
    assert len(world.ok("vm", "logs", "otter")) <= 4096


def test_stdin_stdout_and_status_of_commands(world: World) -> None:
    world.ok("vm", "create", "--name", "otter")
    data = os.urandom(300_000)
    done = world.banger("vm", "exec", "-i", "otter", "--", "sh", "-c", "cat; exit 7", data=data)
    assert (done.returncode, done.stdout == data) == (7, True), done.stderr.decode()


def test_a_terminal_has_the_size_that_was_asked_for(world: World) -> None:
    world.ok("vm", "create", "--name", "otter")
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
    command = world.command("vm", "exec", "-t", "otter", "--", "sh", "-c", "stty size")
    with subprocess.Popen(command, env=world.env, stdin=slave, stdout=slave, stderr=slave, start_new_session=True) as talk:
        os.close(slave)
        talk.wait(timeout=60)
    assert b"33 101" in os.read(master, 4096)
    os.close(master)


def test_powering_off_ends_firecracker_in_time(world: World) -> None:
    world.ok("vm", "create", "--name", "otter")
    pid = int(str(world.row("otter")["pid"]))
    world.ok("vm", "stop", "otter")
    assert not Path(f"/proc/{pid}").exists()
    assert "is forced" not in world.log()
    assert re.search(r"cannot power off", world.log()) is None


def test_doctor_names_it(world: World) -> None:
    found = json.loads(world.banger("doctor", "--json").stdout)
    assert {"firecracker": "PASS"}.items() <= {row["subject"]: row["level"] for row in found}.items()
