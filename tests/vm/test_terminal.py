"""Sessions on a real terminal, with a real shell at the other end; and the terminal afterwards."""

from __future__ import annotations

import hashlib
import os
import pty
import re
import select
import signal
import subprocess
import termios
import time
from collections.abc import Callable, Iterator

import pytest

from tests.world import GOLDEN, World, alive, until

SECONDS = 60
PASTING = re.compile(rb"\x1b\[\?2004(h|l\r?)")  # what bash says around each line
Open = Callable[..., "Window"]


class Window:
    """A terminal of 80 columns with `banger` as the leader of its session, as in a terminal emulator."""

    def __init__(self, world: World, *words: str, **environment: str) -> None:
        self.ours, self.theirs = pty.openpty()
        termios.tcsetwinsize(self.theirs, (24, 80))
        self.before = termios.tcgetattr(self.theirs)
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *world.command(*words)],
            env=world.env | {"TERM": "xterm-256color"} | environment,
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
        )
        self.said = b""

    def read(self, pattern: bytes) -> bytes:
        """Everything up to and with what matches; what was read before is not looked at again."""
        deadline = time.monotonic() + SECONDS
        while not (found := re.search(pattern, self.said)):
            ready = select.select([self.ours], [], [], max(0.0, deadline - time.monotonic()))[0]
            assert ready, f"{pattern!r} did not come, but {self.said!r}"
            self.said = PASTING.sub(b"", self.said + os.read(self.ours, 65536))
        told, self.said = self.said[: found.end()], self.said[found.end() :]
        return told

    def prompt(self) -> bytes:
        """Wait for the shell."""
        return self.read(rb"root@[a-z-]+:[^#]*# ")

    def type(self, keys: bytes) -> None:
        os.write(self.ours, keys)

    def ask(self, command: str) -> list[str]:
        """The lines that a command prints."""
        self.type(f"echo $((5*6))begin; {command}; echo $((6*7))end\r".encode())
        self.read(rb"30begin\r\n")
        return self.read(rb"42end\r\n").decode().splitlines()[:-1]

    def rest(self) -> bytes:
        """What is said until the process ends."""
        while self.process.poll() is None or select.select([self.ours], [], [], 0)[0]:
            if select.select([self.ours], [], [], 0.05)[0]:
                self.said = PASTING.sub(b"", self.said + os.read(self.ours, 65536))
        return self.said

    def ended(self) -> int:
        """The exit status; the terminal is as it was."""
        self.rest()
        assert termios.tcgetattr(self.theirs) == self.before
        return self.process.wait(SECONDS)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(SECONDS)
        for descriptor in (self.ours, self.theirs):
            if descriptor >= 0:
                os.close(descriptor)


@pytest.fixture
def window(shared: World) -> Iterator[Open]:
    """Opens terminals in the shared world."""
    opened: list[Window] = []

    def begin(*words: str, world: World = shared, **environment: str) -> Window:
        opened.append(Window(world, *words, **environment))
        return opened[-1]

    yield begin
    for one in opened:
        one.close()


def settled(text: bytes) -> list[str]:
    """The lines as they stay on the screen: what a later line has overwritten is left out."""
    return [line.rpartition("\r\x1b[2K")[2].rstrip("\r") for line in text.decode().split("\n")]


# -- sessions ---------------------------------------------------------------------------------------------------------------------------------------


def test_run_alone_is_a_login_shell_on_a_terminal_and_the_machine_is_kept(shared: World, window: Open) -> None:
    one = window("vm", "run", "--name", "wren", "--network", "none")
    shown = settled(one.prompt())
    assert shown[-1] == "root@wren:~# "
    assert one.ask("echo $0 $TERM; tty; stty size") == ["-bash xterm-256color", "/dev/pts/0", "24 80"]
    one.type(b"exit 3\r")
    assert one.ended() == 3
    assert "wren is running. Back in: banger vm shell wren · stop: banger vm stop wren" in settled(one.said)
    assert "  delete: banger vm delete wren" in settled(one.said)
    shared.ok("vm", "stop", "wren")
    shared.ok("vm", "delete", "wren")


def test_progress_is_one_line_that_goes_away_and_nothing_is_broken_in_the_middle(window: Open) -> None:
    one = window("vm", "run", "--rm", "--network", "none")
    told = one.prompt()
    assert b"\r\x1b[2Kagent: waiting for the guest" in told
    lines = settled(told)
    assert lines[0].startswith("spec: 1 vcpu · 256 MiB")
    long = re.compile(r"(network|machine|agent) \d+s")  # what has taken long is said for good
    assert [line for line in lines[1:-1] if not line.startswith("  ") and not long.fullmatch(line)] == []
    assert max(map(len, lines)) < 80
    one.type(b"\x04")
    assert one.ended() == 0


def test_on_a_dumb_terminal_there_are_plain_lines(window: Open) -> None:
    one = window("vm", "run", "--rm", "--network", "none", "--", "true", TERM="dumb")
    assert one.ended() == 0
    assert b"\x1b" not in one.said
    assert b"[vm run] agent: waiting for the guest\r\n" in one.said


def test_what_stopped_meanwhile_is_not_said_to_be_running(shared: World, window: Open) -> None:
    one = window("vm", "run", "--name", "wren", "--network", "none")
    one.prompt()
    shared.ok("vm", "kill", "wren")
    assert one.ended() == 124
    assert "wren is stopped. Start it: banger vm start wren" in one.said.decode()
    shared.ok("vm", "delete", "wren")


@pytest.mark.conformance
def test_keys_reach_the_guest_as_keys(window: Open) -> None:
    one = window("vm", "shell", "otter")
    one.prompt()
    one.type(b"sh -c 'echo beg''un; exec sleep 331'\r")
    one.read(rb"begun\r\n")
    one.type(b"\x03")
    one.prompt()
    one.type(b"echo its status: $?\r")
    one.read(rb"its status: 130")
    one.prompt()
    one.type(b"sh -c 'echo beg''un; exec sleep 332'\r")
    one.read(rb"begun\r\n")
    one.type(b"\x1a")
    one.read(rb"Stopped +sh -c")
    one.prompt()
    one.type(b"kill %1; sh -c 'echo beg''un; exec cat'\r")
    one.read(rb"begun\r\n")
    one.type(b"line\r\x04")
    one.read(rb"line\r\nline\r\n")
    one.prompt()
    one.type(b"\x04")
    assert one.ended() == 0


@pytest.mark.conformance
def test_a_resize_reaches_the_guest(window: Open) -> None:
    script = "trap 'stty size; exit' WINCH; stty size; while :; do sleep 0.05; done"
    one = window("vm", "exec", "-it", "otter", "--", "sh", "-c", script)
    one.read(rb"24 80\r\n")
    termios.tcsetwinsize(one.theirs, (41, 123))
    one.read(rb"41 123\r\n")
    assert one.ended() == 0


def test_a_program_that_fills_the_screen(window: Open) -> None:
    one = window("vm", "shell", "otter")
    one.prompt()
    one.type(b"top\r")
    one.read(rb"(?s)load average.*PID USER.*top")
    one.type(b"q")
    one.prompt()
    one.type(b"exit\r")
    assert one.ended() == 0


def test_a_paste_of_many_lines_arrives_completely(window: Open) -> None:
    one = window("vm", "exec", "-it", "otter", "--", "sh", "-c", "stty -echo -icanon; echo ready; head -c 200000 | sha256sum; echo done")
    one.read(rb"ready\r\n")
    text = b"all the words of a long letter\r" * 6452
    for start in range(0, 200_000, 4096):
        one.type(text[start : min(start + 4096, 200_000)])
    assert hashlib.sha256(text[:200_000].replace(b"\r", b"\n")).hexdigest().encode() in one.read(rb"done")
    assert one.ended() == 0


def test_output_that_is_not_for_a_terminal_stays_as_it_is(shared: World) -> None:
    """With stdout in a pipe there is no terminal in the guest, whatever stdin is."""
    ours, theirs = pty.openpty()
    command = shared.command("vm", "run", "--rm", "--network", "none", "--", "sh", "-c", "tty; printf 'a\\nb\\n'")
    done = subprocess.run(command, env=shared.env, stdin=theirs, capture_output=True, timeout=SECONDS)
    os.close(ours)
    os.close(theirs)
    assert done.stdout == b"not a tty\na\nb\n"


# -- the ways out -----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGQUIT, 131)])
def test_a_signal_to_us_leaves_the_terminal_as_it_was_and_nothing_in_the_guest(shared: World, window: Open, number: int, status: int) -> None:
    one = window("vm", "exec", "-it", "otter", "--", "sh", "-c", "echo ready; exec sleep 333")
    one.read(rb"ready\r\n")
    one.process.send_signal(number)
    assert one.ended() == status
    until(lambda: shared.banger("vm", "exec", "otter", "--", "pgrep", "-x", "sleep").stdout == b"", "the end of sleep in the guest")


def test_a_window_that_is_closed_ends_what_ran_in_it(shared: World, window: Open) -> None:
    one = window("vm", "exec", "-it", "otter", "--", "sh", "-c", "echo ready; exec sleep 334")
    one.read(rb"ready\r\n")
    for descriptor in (one.ours, one.theirs):
        os.close(descriptor)
    one.ours = one.theirs = -1
    assert one.process.wait(SECONDS) in (129, -signal.SIGHUP)
    until(lambda: shared.banger("vm", "exec", "otter", "--", "pgrep", "-x", "sleep").stdout == b"", "the end of sleep in the guest")


def test_a_shell_that_died_in_disorder_leaves_a_plain_screen(window: Open) -> None:
    one = window("vm", "shell", "otter")
    one.prompt()
    one.type(b"printf '\\033[?1049h\\033[?25l\\033[31m'; kill -9 $$\r")
    assert one.ended() == 137
    for what in (b"\x1b[?1047l", b"\x1b[?25h", b"\x1b[0m"):
        assert what in one.said.rpartition(b"\x1b[31m")[2]


@pytest.mark.conformance
def test_the_daemons_sudden_death_ends_the_session_but_not_the_machine(shared: World, window: Open) -> None:
    one = window("vm", "shell", "otter")
    one.prompt()
    shared.kill_daemon()
    assert one.ended() == 124
    assert b"error: the connection to the machine broke off\r\n  hint: " in one.said
    assert shared.ok("vm", "exec", "otter", "--", "echo", "here") == "here\n"


def test_the_machines_sudden_death_ends_the_session(shared: World, window: Open) -> None:
    one = window("vm", "shell", "otter")
    one.prompt()
    shared.ok("vm", "kill", "otter")
    assert one.ended() == 124
    assert b"error: the machine otter was stopped" in one.said
    shared.ok("vm", "start", "otter")


# -- throwaway machines -----------------------------------------------------------------------------------------------------------------------------


def names(world: World) -> set[object]:
    return {row["name"] for row in world.rows()}


@pytest.mark.parametrize("way", ["exit", "hangup", "killed"])
def test_a_throwaway_machine_is_gone_however_its_session_ends(shared: World, window: Open, way: str) -> None:
    one = window("vm", "run", "--rm", "--name", "wren", "--network", "none")
    one.prompt()
    pid = int(str(shared.row("wren")["pid"]))
    if way == "exit":
        one.type(b"exit\r")
        assert one.ended() == 0
        assert names(shared) == {"otter"}
    else:
        one.process.send_signal(signal.SIGHUP if way == "hangup" else signal.SIGKILL)
        one.process.wait(SECONDS)
    until(lambda: names(shared) == {"otter"}, "the machine's end", seconds=10)
    assert not alive(pid)


def test_a_throwaway_machine_is_gone_although_the_daemon_died_during_the_session(shared: World, window: Open) -> None:
    one = window("vm", "run", "--rm", "--name", "wren", "--network", "none")
    one.prompt()
    shared.kill_daemon()
    assert one.ended() == 124
    assert names(shared) == {"otter"}


def test_ctrl_c_while_it_is_made_takes_it_back(shared: World, window: Open) -> None:
    one = window("vm", "run", "--name", "wren", "--network", "none")
    one.read(rb"agent: waiting")
    one.type(b"\x03")
    assert one.ended() == 130
    assert settled(one.said)[-3:] == ["cancelling…", "error: vm run: cancelled", ""]
    assert names(shared) == {"otter"}


# -- colour -----------------------------------------------------------------------------------------------------------------------------------------


def test_colour_only_where_it_is_wanted(window: Open) -> None:
    plain, coloured = window("doctor", NO_COLOR="1"), window("doctor")
    assert b"\x1b" not in plain.rest()
    assert b"\x1b[" in coloured.rest()


# -- the golden image -------------------------------------------------------------------------------------------------------------------------------


def test_the_golden_image_is_a_box_to_work_in(world: World, window: Open) -> None:
    world.ok("vm", "create", "--name", "golden", "--image", GOLDEN, "--memory", "512M", "--network", "none", "--wait", "boot")
    one = window("vm", "shell", "golden", world=world)
    one.prompt()
    assert one.ask("echo $0 $TERM $HOME $USER $LANG; sudo -n whoami") == ["-bash xterm-256color /root root C.UTF-8", "root"]
    assert "running" in one.ask("systemctl is-system-running")
    assert [line for line in one.ask("systemctl status --no-pager | head -2") if "State: " in line and "running" in line]
    one.type(b"less /etc/services\r")
    one.read(rb"\x1b\[\?1049h")
    one.read(rb"/etc/services")
    one.type(b"q")
    one.prompt()
    one.type(b"logout\r")
    assert one.ended() == 0
