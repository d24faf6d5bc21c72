"""Fixtures of all tests, and the rule that with BANGER_REQUIRE set (as `make` does) nothing is skipped for want of something.

What only root may do (mount, become another user) is still skipped for an ordinary user: no set-up can give that.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance import hear, told
from tests.world import World, fill_shelf


def pytest_configure() -> None:
    """What tests start gets Ctrl-C as on a terminal, also where the tests themselves were started with SIGINT ignored (`make test &`)."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Turn skips into failures where everything is required."""
    report = yield
    excused = os.geteuid() != 0 and "root is needed" in str(report.longrepr)
    if os.environ.get("BANGER_REQUIRE") and report.skipped and not excused and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped although BANGER_REQUIRE is set: {report.longrepr}"
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep what the conformance table is made of."""
    hear(report)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show it."""
    for line in told():
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def shelf() -> None:
    """The images are there."""
    fill_shelf()


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder with a short path: sockets below pytest's own would have names that tools other than banger cannot reach."""
    folder = Path(tempfile.mkdtemp(prefix="banger-test-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def world(short_path: Path) -> Iterator[World]:
    """A banger of this test's own; what it leaves behind is a failure."""
    made = World(short_path)
    yield made
    made.close()
