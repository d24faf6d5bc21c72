"""Transcripts: what is typed, what comes out, and with which exit status."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.command import Banger


def test_list_is_a_table(banger: Banger) -> None:
    lines = banger("vm", "list").stdout.decode().splitlines()
    assert lines[0].split() == ["ID", "NAME", "STATE", "IMAGE", "VCPU", "MEM", "DISK", "ADDRESS", "CREATED"]
    assert lines[2].split()[:7] == ["000000000001", "vm1", "running", "debian-bookworm", "2", "2G", "8G"]


def test_ps_and_quiet_give_names(banger: Banger) -> None:
    assert banger("ps", "-q").stdout == b"vm0\nvm1\nvm2\n"


def test_json_is_the_daemon_s_answer(banger: Banger) -> None:
    assert [row["name"] for row in json.loads(banger("vm", "list", "--json").stdout)] == ["vm0", "vm1", "vm2"]


def test_an_error_is_words_on_stderr_and_a_status(banger: Banger) -> None:
    done = banger("vm", "show", "nope")
    assert (done.returncode, done.stdout) == (121, b"")
    assert done.stderr == b"error: there is no machine nope\n  hint: banger vm list\n"


def test_an_error_is_json_for_programs(banger: Banger) -> None:
    done = banger("vm", "show", "nope", "--json")
    assert json.loads(done.stderr)["error"]["code"] == "not-found"


def test_several_targets_each_have_their_result_and_the_first_failure_is_the_status(banger: Banger) -> None:
    done = banger("vm", "stop", "vm0", "vm2", "nope", "vm1", "vm0", "000000000001")
    assert done.returncode == 122
    assert done.stdout == b"vm0\nvm1\n"
    assert done.stderr.decode().splitlines() == [
        "note: 000000000001 is vm1, named before",
        "error: vm2: vm2 is busy",
        "  hint: later",
        "error: nope: there is no machine nope",
        "  hint: banger vm list",
    ]
    assert sorted(banger.calls()) == ["stop:nope", "stop:vm0", "stop:vm1", "stop:vm2"]


def test_several_targets_as_json_are_rows(banger: Banger) -> None:
    rows = json.loads(banger("vm", "start", "vm0", "nope", "--json").stdout)
    assert [(row["target"], row["ok"]) for row in rows] == [("vm0", True), ("nope", False)]


def test_one_target_shows_its_progress(banger: Banger) -> None:
    done = banger("vm", "start", "vm1")
    assert (done.stdout, done.stderr) == (b"vm1\n", b"[vm start vm1] boot: starting vm1\n")


def test_deleting_says_what_is_gone(banger: Banger) -> None:
    assert banger("vm", "rm", "vm1").stdout == b"vm1\n"
    assert banger("vm", "list", "-q").stdout == b"vm0\nvm2\n"


def test_logs_come_as_they_are(banger: Banger) -> None:
    assert banger("vm", "logs", "vm1").stdout == b"first\nsecond\n"


def test_metrics_are_for_people_and_for_programs(banger: Banger) -> None:
    lines = banger("vm", "metrics", "vm1").stdout.decode().splitlines()
    assert lines[0].split() == ["since", "2026-01-02T03:04:05Z"]
    assert [line.split() for line in lines if line.startswith("disk written")] == [["disk", "written", "bytes", "4096", "(4K)"]]
    assert json.loads(banger("vm", "metrics", "vm1", "--json").stdout)["disk_written_bytes"] == 4096
    done = banger("vm", "metrics", "vm2")
    assert (done.returncode, done.stdout) == (122, b"")
    assert done.stderr == b"error: machine vm2 runs in qemu, which counts nothing\n  hint: create it with --vmm firecracker\n"


def test_prune_does_not_act_unasked(banger: Banger) -> None:
    assert banger("vm", "prune").returncode == 120
    assert banger("vm", "prune", "-f").stdout == b"vm1\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("vm", "stp", "x"), "did you mean stop"),
        (("vmm",), "did you mean vm?"),
        (("vm", "run", "--memmory", "1G"), "did you mean --memory?"),
        (("vm", "run", "ls"), "write the command after --"),
        (("vm", "run", "--memory", "lots"), "write it as 512M, 8G or 4GiB"),
        (("vm", "run", "--vcpu", "two"), "is not a whole number"),
        (("vm", "run", "-d", "--", "ls"), "runs no command"),
        (("vm", "run", "-d", "--rm"), "exclude each other"),
        (("vm", "exec", "vm1"), "needs a command"),
        (("vm", "exec", "-t", "vm1", "ls"), "needs a terminal"),
        (("vm", "stop"), "needs NAME"),
        (("completion", "bsh"), "bash"),
    ],
)
def test_a_mistake_costs_120_and_is_explained(alone: Banger, words: tuple[str, ...], says: str) -> None:
    done = alone(*words)
    assert done.returncode == 120
    assert says in done.stderr.decode()


def test_help_needs_no_daemon(alone: Banger) -> None:
    for words in ((), ("vm",), ("vm", "run", "--help"), ("help", "vm", "exec"), ("--version",)):
        done = alone(*words)
        assert (done.returncode, done.stderr) == (0, b"")
    assert not list(Path(alone.environ["XDG_RUNTIME_DIR"]).iterdir())


def test_completion_offers_living_names_once(banger: Banger) -> None:
    assert banger("__complete", "vm", "stop", "vm1", "v").stdout == b"vm0\trunning\nvm2\trunning\n"
    assert banger("__complete", "vm", "run", "--network", "").stdout == b"user\nbridge\nnone\n"
    assert banger("__complete", "vm", "exec", "vm1", "--", "").stdout == b""


def test_completion_is_silent_without_a_daemon_and_starts_none(alone: Banger) -> None:
    done = alone("__complete", "vm", "stop", "")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("rows", [3, 1000])
def test_list_imports_little(daemon: Callable[[int], Banger], rows: int) -> None:
    """A budget of modules: what slows the start down is seen here before it is felt."""
    banger = daemon(rows)
    banger.command = [
        banger.command[0],
        "-c",
        "import os, sys\n"
        "from banger.frontends.cli import main\n"
        "main.leave = lambda status: (sys.stderr.write(' '.join(sys.modules)), sys.stderr.flush(), os._exit(status))\n"
        "main.main()",
    ]
    modules = set(banger("vm", "list").stderr.decode().split())
    heavy = {"argparse", "asyncio", "dataclasses", "typing", "inspect", "msgspec", "pathlib", "http", "logging", "socket", "signal", "subprocess"}
    assert not modules & heavy
    ours = {name for name in modules if name.startswith("banger")}
    assert len(ours) <= 20, sorted(ours)
    assert len(modules) <= 95, sorted(modules)


def test_a_runtime_folder_that_others_can_write_is_refused(alone: Banger) -> None:
    folder = Path(alone.environ["XDG_RUNTIME_DIR"]) / "banger"
    folder.mkdir()
    folder.chmod(0o777)
    done = alone("vm", "list")
    assert (done.returncode, b"can be written by others" in done.stderr) == (125, True)


def test_a_runtime_folder_that_is_a_link_is_refused(alone: Banger, tmp_path: Path) -> None:
    os.symlink(tmp_path, Path(alone.environ["XDG_RUNTIME_DIR"]) / "banger")
    done = alone("vm", "list")
    assert (done.returncode, b"is not a folder" in done.stderr) == (125, True)


def test_a_reader_that_leaves_is_no_error(banger: Banger) -> None:
    import subprocess

    with subprocess.Popen(["head", "-c1"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as head:
        command = [*banger.command, "vm", "exec", "vm1", "--", "spew", str(64 << 20)]
        done = subprocess.run(command, env=banger.environ, stdout=head.stdin, stderr=subprocess.PIPE, check=False)
        assert head.stdin is not None
        head.stdin.close()
    assert (done.returncode, done.stderr) == (141, b"")


def test_stopping_a_daemon_that_is_not_there_starts_none(alone: Banger) -> None:
    done = alone("daemon", "stop")
    assert (done.returncode, done.stderr) == (0, b"note: the daemon is not running\n")
