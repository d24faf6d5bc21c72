"""Commands in a real guest: status, bytes, environment, signals, and ports of the guest."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.world import World, until

SECONDS = 30


def guest(world: World, *words: str, data: bytes = b"") -> tuple[int, bytes, bytes]:
    """Run a command in the machine: its status, stdout and stderr."""
    done = world.banger("vm", "exec", *words, data=data, timeout=SECONDS)
    return done.returncode, done.stdout, done.stderr


def shell(world: World, script: str, data: bytes = b"") -> tuple[int, bytes, bytes]:
    """Run a script in the machine."""
    return guest(world, "otter", "--", "sh", "-c", script, data=data)


def first_line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


def pids(world: World, name: str) -> bytes:
    """The guest's processes of that name."""
    return shell(world, f"pgrep -x {name}")[1]


# -- status ---------------------------------------------------------------------------------------------------------------------------------------


def test_every_exit_status_is_the_commands(shared: World) -> None:
    with ThreadPoolExecutor(8) as crowd:
        assert list(crowd.map(lambda status: shell(shared, f"exit {status}"), range(256))) == [(status, b"", b"") for status in range(256)]


@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "ABRT", "KILL", "USR1", "SEGV", "PIPE", "TERM"])
def test_a_command_that_a_signal_ended_has_128_and_its_number(shared: World, name: str) -> None:
    assert shell(shared, f"kill -{name} $$")[0] == 128 + getattr(signal, f"SIG{name}")


@pytest.mark.parametrize("command", ["no-such-command", "/usr/bin/no-such-command", "./no-such-command"])
def test_a_command_that_is_not_there_is_127(shared: World, command: str) -> None:
    status, out, err = guest(shared, "otter", "--", command)
    assert (status, out) == (127, b"")
    assert err.startswith(b'error: command "')
    assert b"is not found" in err


def test_a_command_whose_interpreter_is_not_there_is_127(shared: World) -> None:
    shell(shared, "printf '#!/no/such/interpreter\\n' > /tmp/orphan; chmod +x /tmp/orphan")
    status, _, err = guest(shared, "otter", "--", "/tmp/orphan")
    assert status == 127
    assert b"its interpreter or loader is missing" in err


@pytest.mark.parametrize("command", ["/etc/passwd", "/tmp", "/tmp/unlike-any-program"])
def test_a_command_that_cannot_be_executed_is_126(shared: World, command: str) -> None:
    shell(shared, "head -c 64 /dev/urandom > /tmp/unlike-any-program; chmod +x /tmp/unlike-any-program")
    assert guest(shared, "otter", "--", command)[0] == 126


def test_a_folder_that_the_user_may_not_enter_is_named(shared: World) -> None:
    status, _, err = guest(shared, "-u", "nobody", "-w", "/root", "otter", "--", "ls")
    assert status == 126
    assert b'in "/root" as nobody: permission denied' in err


def test_a_user_or_folder_that_is_not_there_is_bangers_own_failure(shared: World) -> None:
    assert guest(shared, "-u", "stranger", "otter", "--", "true")[0] == 121
    assert guest(shared, "-u", "root:strangers", "otter", "--", "true")[0] == 121
    status, _, err = guest(shared, "-w", "/nowhere", "otter", "--", "true")
    assert status == 121
    assert b"/nowhere" in err


# -- bytes ----------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.conformance
def test_stdout_and_stderr_stay_apart(shared: World) -> None:
    assert shell(shared, "echo out; echo err >&2; printf 'o\\377\\000ut'; printf 'e\\377\\000rr' >&2") == (
        0,
        b"out\no\xff\x00ut",
        b"err\ne\xff\x00rr",
    )


@pytest.mark.conformance
def test_bytes_pass_both_ways_unchanged(shared: World) -> None:
    data = os.urandom(1 << 20)
    status, out, _ = guest(shared, "otter", "--", "cat", data=data)
    assert status == 0
    assert hashlib.sha256(out).digest() == hashlib.sha256(data).digest()
    assert shell(shared, "sha256sum", data)[1].split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_50_megabytes_of_output_come_completely(shared: World) -> None:
    status, out, _ = shell(shared, "seq 1 6500000")
    assert status == 0
    assert len(out) > 50_000_000
    assert out.endswith(b"\n6499999\n6500000\n")
    assert out.count(b"\n") == 6500000


def test_without_stdin_there_is_none_and_ours_is_left_alone(shared: World) -> None:
    assert guest(shared, "-n", "otter", "--", "cat", data=b"ours") == (0, b"", b"")


def test_an_stdin_that_we_close_ends_the_guests(shared: World) -> None:
    assert subprocess.run(shared.command("vm", "exec", "otter", "--", "cat"), env=shared.env, stdin=subprocess.DEVNULL, timeout=SECONDS).returncode == 0
    closed = ["sh", "-c", 'exec "$0" "$@" <&-', *shared.command("vm", "exec", "otter", "--", "cat")]
    assert subprocess.run(closed, env=shared.env, timeout=SECONDS).returncode == 0


def test_a_command_that_reads_only_the_beginning_of_its_stdin(shared: World) -> None:
    assert guest(shared, "otter", "--", "head", "-c", "1", data=b"y" * (8 << 20)) == (0, b"y", b"")


def test_a_reader_of_our_stdout_that_leaves_is_no_reason_to_talk(shared: World) -> None:
    process = shared.begin("vm", "exec", "otter", "--", "yes")
    assert first_line(process) == b"y\n"
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(SECONDS) == 128 + signal.SIGPIPE
    assert process.stderr is not None
    assert process.stderr.read() == b""
    until(lambda: pids(shared, "yes") == b"", "the end of yes in the guest")


def test_what_is_left_in_the_background_holds_nobody_up_and_lives_on(shared: World) -> None:
    done = shared.banger("vm", "exec", "otter", "--", "sh", "-c", "sleep 321 & echo done", timeout=10)
    assert (done.returncode, done.stdout) == (0, b"done\n")
    assert pids(shared, "sleep") != b""
    shell(shared, "pkill -x sleep")


# -- arguments ------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.conformance
def test_arguments_arrive_as_they_were_given(shared: World) -> None:
    words = ["a b", "", "*", "$HOME", "--", "-x", "--rm", "é\n", "'\"\\"]
    assert guest(shared, "otter", "--", "printf", "[%s]", *words)[1].decode() == "".join(f"[{word}]" for word in words)


def test_the_separator_may_be_left_out_and_flags_after_the_command_are_its_own(shared: World) -> None:
    assert guest(shared, "otter", "ls", "-d", "/") == (0, b"/\n", b"")
    assert guest(shared, "otter", "-w", "/usr", "--", "pwd") == (0, b"/usr\n", b"")


@pytest.mark.parametrize("words", [[], ["--"], ["--", ""]])
def test_no_command_is_wrong_usage(shared: World, words: list[str]) -> None:
    status, out, err = guest(shared, "otter", *words)
    assert (status, out) == (120, b"")
    assert err.startswith(b"error: ")


@pytest.mark.parametrize("count", [1, 11, 15])
def test_arguments_as_long_as_the_host_passes_arrive_whole(shared: World, count: int) -> None:
    script = 'for word; do printf "%s\\n" "${#word}"; done'
    status, out, err = guest(shared, "otter", "--", "sh", "-c", script, "sh", *["x" * 100_000] * count)
    assert (status, out.split(), err) == (0, [b"100000"] * count, b"")


def test_the_environment_is_a_logins_and_what_was_asked_for(shared: World) -> None:
    out = guest(shared, "-e", "A=1", "-eB=x=y z", "-e", "EMPTY=", "otter", "--", "env")[1].decode().splitlines()
    assert {"A=1", "B=x=y z", "EMPTY=", "HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/bash"} <= set(out)
    assert not [line for line in out if line.startswith(("BANGER", "TERM=", "XDG"))]


@pytest.mark.conformance
def test_a_command_runs_as_the_user_and_where_it_was_asked_to(shared: World) -> None:
    assert guest(shared, "otter", "--", "pwd")[1] == b"/root\n"
    assert (
        guest(shared, "-u", "nobody", "-w", "/usr/share", "otter", "--", "sh", "-c", "id -un; pwd; echo $HOME")[1]
        == b"nobody\n/usr/share\n/nonexistent\n"
    )
    assert guest(shared, "-u", "65534", "otter", "--", "id", "-un")[1] == b"nobody\n"
    assert guest(shared, "-u", "1234:50", "otter", "--", "sh", "-c", "id -u; id -g; id -G")[1] == b"1234\n50\n50\n"


def test_a_user_of_the_guests_own_has_home_shell_and_groups(shared: World) -> None:
    shell(shared, "useradd -m -s /bin/sh -G staff wren")
    out = guest(shared, "-u", "wren", "otter", "--", "sh", "-c", "id -un; id -Gn; pwd; echo $HOME $SHELL $USER; touch mine && stat -c %U mine")[1]
    assert out.decode().splitlines() == ["wren", "wren staff", "/home/wren", "/home/wren /bin/sh wren", "wren"]


# -- signals and company ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.conformance
def test_ctrl_c_reaches_the_command_which_may_live_on(shared: World) -> None:
    process = shared.begin("vm", "exec", "otter", "--", "sh", "-c", "trap 'echo heard; exit 7' INT; echo ready; while :; do sleep 0.1; done")
    assert first_line(process) == b"ready\n"
    process.send_signal(signal.SIGINT)
    assert first_line(process) == b"heard\n"
    assert process.wait(SECONDS) == 7


def test_ctrl_c_ends_a_command_that_does_not_mind_it(shared: World) -> None:
    process = shared.begin("vm", "exec", "otter", "--", "sh", "-c", "echo ready; exec sleep 322")
    assert first_line(process) == b"ready\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(SECONDS) == 130
    assert pids(shared, "sleep") == b""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_end_of_ours_is_the_end_of_theirs(shared: World, number: signal.Signals) -> None:
    process = shared.begin("vm", "exec", "otter", "--", "sh", "-c", "echo ready; sleep 323")
    assert first_line(process) == b"ready\n"
    process.send_signal(number)
    process.wait(SECONDS)
    until(lambda: pids(shared, "sleep") == b"", "the end of sleep in the guest")


def test_twenty_commands_at_once(shared: World) -> None:
    with ThreadPoolExecutor(20) as crowd:
        found = list(crowd.map(lambda number: shell(shared, f"echo {number}; cat; exit {number}", b"in"), range(20)))
    assert found == [(number, f"{number}\nin".encode(), b"") for number in range(20)]


# -- ports ------------------------------------------------------------------------------------------------------------------------------------------

LISTEN = "use IO::Socket::INET; $| = 1; my $s = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1', LocalPort => 4000, ReuseAddr => 1) or die;"
ACCEPT = LISTEN + "print qq(ready\n); my $c = $s->accept; binmode $c;"


@pytest.mark.conformance
def test_dial_sends_its_end_and_still_hears_the_answer(shared: World) -> None:
    server = shared.begin("vm", "exec", "-n", "otter", "--", "perl", "-e", ACCEPT + "local $/; my $d = <$c>; print $c length($d), ':', $d; close $c")
    assert first_line(server) == b"ready\n"
    data = os.urandom(300_000)
    done = shared.banger("vm", "dial", "otter", "4000", data=data, timeout=SECONDS)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"300000:" + data, b"")
    assert server.wait(SECONDS) == 0


def test_dial_goes_on_sending_after_the_guest_has_finished(shared: World) -> None:
    server = shared.begin("vm", "exec", "-n", "otter", "--", "perl", "-e", ACCEPT + "print $c qq(greeting\n); $c->shutdown(1); print while <$c>")
    assert first_line(server) == b"ready\n"
    dialled = shared.begin("vm", "dial", "otter", "4000")
    assert dialled.stdout is not None
    assert dialled.stdin is not None
    assert dialled.stdout.read() == b"greeting\n"
    dialled.stdin.write(b"later\n")
    dialled.stdin.close()
    assert dialled.wait(SECONDS) == 0
    assert server.communicate(timeout=SECONDS)[0] == b"later\n"


def test_dialling_a_port_that_nobody_listens_on(shared: World) -> None:
    done = shared.banger("vm", "dial", "otter", "4001", timeout=SECONDS)
    assert done.returncode == 124
    assert b"connection refused" in done.stderr
