"""The real daemon, without machines: started when absent, once however many ask, and replaced when its code is older."""

from __future__ import annotations

import json
import os
import select
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import banger
from tests.cli.command import SECONDS, Banger


def pid_of(command: Banger) -> int:
    return int(json.loads(command("daemon", "status", "--json").stdout)["pid"])


def ended(pid: int) -> bool:
    """Waits until a process that is no child of ours has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], SECONDS)[0])
    finally:
        os.close(descriptor)


@pytest.fixture
def real(alone: Banger, runtime: Path) -> Iterator[Banger]:
    """`banger` with a copy of the package, whose age can be changed, and no daemon yet."""
    shutil.copytree(Path(banger.__file__).parent, runtime / "code" / "banger", ignore=shutil.ignore_patterns("__pycache__"))
    alone.environ["PYTHONPATH"] = str(runtime / "code")
    yield alone
    pid = pid_of(alone)
    alone("daemon", "stop")
    assert ended(pid)


def test_a_command_starts_the_daemon_and_the_next_finds_it(real: Banger, runtime: Path) -> None:
    assert real("vm", "list").returncode == 0
    assert pid_of(real) == pid_of(real)
    assert (runtime / "banger").stat().st_mode & 0o777 == 0o700
    assert (runtime / "banger" / "bangerd.sock").stat().st_mode & 0o777 == 0o600


def test_commands_at_the_same_time_start_one_daemon(real: Banger) -> None:
    started = [real.begin("daemon", "status", "--json") for _ in range(4)]
    answers = [process.communicate(timeout=SECONDS)[0] for process in started]
    assert len({json.loads(answer)["pid"] for answer in answers}) == 1


def test_a_daemon_of_older_code_is_replaced(real: Banger, runtime: Path) -> None:
    old = pid_of(real)
    os.utime(runtime / "code" / "banger" / "wire.py")
    new = pid_of(real)
    assert new != old
    assert ended(old)
    assert pid_of(real) == new


def test_doctor_needs_no_daemon_and_changes_nothing(alone: Banger, runtime: Path) -> None:
    done = alone("doctor", "--json")
    assert {row["level"] for row in json.loads(done.stdout)} <= {"PASS", "WARN", "FAIL"}
    assert done.returncode == (123 if b'"FAIL"' in done.stdout else 0)
    assert not list(runtime.iterdir())


def test_a_daemon_that_cannot_start_says_why(alone: Banger, runtime: Path) -> None:
    (runtime / ".config" / "banger").mkdir(parents=True)
    (runtime / ".config" / "banger" / "config.toml").write_text("colour = 1\n")
    done = alone("vm", "list")
    assert done.returncode == 120
    assert b"colour" in done.stderr
