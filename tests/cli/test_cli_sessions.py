"""exec, shell, dial and run: bytes, exit status, signals, terminals; and machines that are deleted however the command ends."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import termios
import time
from collections.abc import Iterator

import pytest

from tests.cli.command import Banger

SECONDS = 20


def test_stdout_and_stderr_stay_apart_and_bytes_as_they_are(banger: Banger) -> None:
    done = banger("vm", "exec", "vm1", "--", "both")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"out\xff\x00\n", b"err\n")


@pytest.mark.parametrize("status", [0, 1, 120, 255])
def test_the_exit_status_passes_through(banger: Banger, status: int) -> None:
    assert banger("vm", "exec", "vm1", "--", "exit", str(status)).returncode == status


def test_stdin_is_piped_through_whatever_its_size(banger: Banger) -> None:
    data = os.urandom(5 << 20)
    assert banger("vm", "exec", "vm1", "cat", stdin=data).stdout == data


def test_dial_is_a_pipe(banger: Banger) -> None:
    assert banger("vm", "dial", "vm1", "22", stdin=b"\x00\xffhello").stdout == b"\x00\xffhello"


def test_flags_reach_the_guest(banger: Banger) -> None:
    done = banger("vm", "exec", "-e", "A=1", "-eB=x=y", "-w", "/srv", "-u", "me", "-n", "vm1", "--", "request")
    request = eval(done.stdout)
    assert (request["env"], request["cwd"], request["user"], request["stdin"]) == ({"A": "1", "B": "x=y"}, "/srv", "me", False)


def test_run_passes_its_flags_on_and_leaves_the_rest_to_the_image(banger: Banger) -> None:
    done = banger("vm", "run", "-eA=1", "--env", "B=x=y", "-w", "/srv", "-u", "me:us", "--", "request")
    request = eval(done.stdout)
    assert (request["argv"], request["env"], request["cwd"], request["user"]) == (["request"], {"A": "1", "B": "x=y"}, "/srv", "me:us")


FLAGS = ("-e", "A=1", "-w", "/srv", "-u", "me")
GIVEN = {"env": {"A": "1"}, "cwd": "/srv", "user": "me"}
NEVER = {"entrypoint": False, "attended": False, "env": {}, "cwd": None, "user": None}


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (("run", "-d", *FLAGS), {"entrypoint": True, "attended": False} | GIVEN),
        (("run", "-d", "--no-entrypoint", *FLAGS), {"entrypoint": False, "attended": False} | GIVEN),
        (("run", *FLAGS), {"entrypoint": True, "attended": True} | GIVEN),
        (("run", "--shell", *FLAGS), NEVER),
        (("run", "--no-entrypoint", *FLAGS), NEVER),
        (("run", *FLAGS, "--", "exit", "0"), NEVER),
        (("create", *FLAGS), {"entrypoint": True, "attended": False} | GIVEN),
        (("create", "--no-entrypoint"), NEVER),
    ],
)
def test_what_the_image_runs_is_started_with_the_machine_unless_something_else_is_asked_for(
    banger: Banger, words: tuple[str, ...], asked: dict[str, object]
) -> None:
    done = banger("vm", words[0], "--name", "asked", *words[1:])
    assert done.returncode == 0, done.stderr
    assert eval(json.loads(banger("vm", "show", "--json", "asked").stdout)["note"]) == asked


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("-e", "A", "--", "true"), b"--env 'A' is not KEY=VALUE"),
        (("--shell", "--", "true"), b"--shell and a command exclude each other"),
        (("--shell", "-d"), b"--shell and --detach exclude each other"),
    ],
)
def test_run_refuses_what_cannot_be_meant(banger: Banger, words: tuple[str, ...], says: bytes) -> None:
    done = banger("vm", "run", *words)
    assert done.returncode == 120
    assert says in done.stderr


def test_a_command_that_is_not_there(banger: Banger) -> None:
    done = banger("vm", "exec", "vm1", "--", "absent")
    assert (done.returncode, done.stderr) == (127, b"error: there is no command absent\n")


def heard(process: subprocess.Popen[bytes], what: bytes) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == what


def test_an_interrupt_goes_to_the_guest(banger: Banger) -> None:
    process = banger.begin("vm", "exec", "vm1", "--", "wait")
    heard(process, b"waiting\n")
    process.send_signal(signal.SIGINT)
    assert process.wait(SECONDS) == 128 + signal.SIGINT


def test_a_second_interrupt_gives_up(banger: Banger) -> None:
    process = banger.begin("vm", "exec", "vm1", "--", "hang")
    heard(process, b"waiting\n")
    process.send_signal(signal.SIGINT)
    until = time.monotonic() + SECONDS
    while process.poll() is None and time.monotonic() < until:
        process.send_signal(signal.SIGINT)
        select.select([], [], [], 0.05)
    assert process.returncode == 130


def test_run_says_what_it_does_and_how_to_go_on(banger: Banger) -> None:
    done = banger("vm", "run", "--name", "web", "--", "exit", "3")
    assert (done.returncode, done.stdout) == (3, b"")
    assert done.stderr.decode().splitlines() == [
        "spec: 2 vcpu · 2048 MiB · 8G disk · qemu (tcg: no kvm) · network user",
        "[vm run] boot: starting qemu 1M/4M",
        "web is running. Back in: banger vm shell web · stop: banger vm stop web · delete: banger vm delete web",
    ]


def test_run_for_programs(banger: Banger) -> None:
    done = banger("vm", "run", "-d", "--json")
    assert json.loads(done.stdout)["name"] == "calm-otter"
    assert [next(iter(json.loads(line))) for line in done.stderr.splitlines()] == ["operation", "event", "event"]


def test_a_failed_creation_shows_stage_tail_and_hint_made_harmless(banger: Banger) -> None:
    done = banger("vm", "create", "--name", "broken")
    assert done.returncode == 124
    assert done.stderr.decode().splitlines()[-4:] == [
        "error: the agent did not answer: nothing heard",
        "  stage: boot",
        "    kernel panic \\x1b[2J",
        "  hint: banger vm logs broken",
    ]


def test_rm_deletes_after_the_command(banger: Banger) -> None:
    assert banger("vm", "run", "--rm", "--name", "web", "--", "exit", "3").returncode == 3
    assert banger("vm", "list", "-q").stdout == b"vm0\nvm1\nvm2\n"
    assert banger.calls()[:2] == ["create:web", "delete:000000001000"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_rm_deletes_when_a_signal_ends_the_command(banger: Banger, number: signal.Signals, status: int) -> None:
    process = banger.begin("vm", "run", "--rm", "--name", "web", "--", "hang")
    heard(process, b"waiting\n")
    process.send_signal(number)
    assert process.wait(SECONDS) == status
    assert banger("vm", "list", "-q").stdout == b"vm0\nvm1\nvm2\n"


def test_rm_deletes_when_the_command_is_killed(banger: Banger) -> None:
    process = banger.begin("vm", "run", "--rm", "--name", "web", "--", "hang")
    heard(process, b"waiting\n")
    process.kill()
    process.wait(SECONDS)
    until = time.monotonic() + SECONDS
    while "released" not in banger.calls():
        assert time.monotonic() < until
    assert banger("vm", "list", "-q").stdout == b"vm0\nvm1\nvm2\n"


def test_an_interrupt_takes_a_creation_back(banger: Banger) -> None:
    process = banger.begin("vm", "run", "--name", "slow")
    assert process.stderr is not None
    while not process.stderr.readline().startswith(b"[vm run] boot"):
        pass
    process.send_signal(signal.SIGINT)
    assert process.wait(SECONDS) == 130
    assert "cancelled" in banger.calls()


class Window:
    """A terminal with `banger` in it."""

    def __init__(self, banger: Banger, *words: str) -> None:
        self.ours, self.theirs = pty.openpty()
        termios.tcsetwinsize(self.theirs, (33, 101))
        self.before = termios.tcgetattr(self.theirs)
        self.process = subprocess.Popen(
            [*banger.command, *words], env=banger.environ, stdin=self.theirs, stdout=self.theirs, stderr=self.theirs, start_new_session=True
        )
        self.said = b""

    def read_until(self, what: bytes) -> bytes:
        until = time.monotonic() + SECONDS
        while what not in self.said:
            ready = select.select([self.ours], [], [], max(0.0, until - time.monotonic()))[0]
            assert ready, self.said
            self.said += os.read(self.ours, 65536)
        return self.said

    def type(self, what: bytes) -> None:
        os.write(self.ours, what)

    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.theirs)[3] & termios.ICANON

    def end(self) -> int:
        status = self.process.wait(SECONDS)
        assert termios.tcgetattr(self.theirs) == self.before
        return status

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(SECONDS)
        os.close(self.ours)
        os.close(self.theirs)


@pytest.fixture
def windows() -> Iterator[list[Window]]:
    found: list[Window] = []
    yield found
    for window in found:
        window.close()


def test_a_shell_is_raw_while_it_lasts_and_the_window_as_before_afterwards(banger: Banger, windows: list[Window]) -> None:
    window = Window(banger, "vm", "shell", "vm1")
    windows.append(window)
    window.read_until(b"$ ")
    assert window.is_raw()
    window.type(b"\x03")  # only a byte for the guest
    window.read_until(b"\x03")
    window.type(b"\x04")
    assert window.end() == 0


def test_run_without_a_command_is_a_shell_and_says_how_to_come_back(banger: Banger, windows: list[Window]) -> None:
    window = Window(banger, "vm", "run", "--name", "web")
    windows.append(window)
    window.read_until(b"$ ")
    window.type(b"\x04")
    window.read_until(b"banger vm shell web")
    assert window.end() == 0


def test_the_size_is_told_at_the_start_and_when_it_changes(banger: Banger, windows: list[Window]) -> None:
    window = Window(banger, "vm", "exec", "-it", "vm1", "--", "size")
    windows.append(window)
    window.read_until(b"'rows': 33, 'cols': 101, 'term': 'xterm'}\r\n")
    termios.tcsetwinsize(window.theirs, (20, 60))
    window.process.send_signal(signal.SIGWINCH)
    window.read_until(b"{'resize': {'rows': 20, 'cols': 60}}")
    assert window.end() == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGQUIT, 131)])
def test_a_signal_restores_the_window(banger: Banger, windows: list[Window], number: signal.Signals, status: int) -> None:
    window = Window(banger, "vm", "shell", "vm1")
    windows.append(window)
    window.read_until(b"$ ")
    window.process.send_signal(number)
    assert window.end() == status


def test_a_creation_on_a_terminal_is_one_live_line_and_ctrl_c_takes_it_back(banger: Banger, windows: list[Window]) -> None:
    window = Window(banger, "vm", "run", "--name", "slow")
    windows.append(window)
    window.read_until(b"\r\x1b[2Kboot: starting qemu 1M/4M")
    window.process.send_signal(signal.SIGINT)
    assert window.end() == 130
    assert "cancelled" in banger.calls()
