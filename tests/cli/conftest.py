"""A daemon of canned records as a process, and `banger` beside it: what the command line's tests stand on. No machine, no network."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.command import SECONDS, Banger

FAKE = Path(__file__).with_name("fakedaemon.py")


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A private runtime folder whose path is short enough for a socket's address."""
    with tempfile.TemporaryDirectory(prefix="b-") as folder:
        yield Path(folder)


@pytest.fixture
def alone(runtime: Path) -> Banger:
    """`banger` where no daemon is."""
    return Banger(runtime)


@pytest.fixture
def daemon(runtime: Path) -> Iterator[Callable[[int], Banger]]:
    """Starts the fake daemon with so many machines."""
    started: list[subprocess.Popen[bytes]] = []

    def start(rows: int) -> Banger:
        banger = Banger(runtime)
        process = subprocess.Popen([sys.executable, str(FAKE), str(rows)], env=banger.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return banger

    yield start
    for process in started:
        process.communicate(timeout=SECONDS)


@pytest.fixture
def banger(daemon: Callable[[int], Banger]) -> Banger:
    """`banger` and a fake daemon with three machines: vm0, vm1, vm2."""
    return daemon(3)
