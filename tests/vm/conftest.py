"""Machines are booted here: the images must be there; one machine is shared by the tests of a file that only look at it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.modes import stage
from tests.world import World

__all__ = ["stage"]


@pytest.fixture(autouse=True)
def _images(shelf: None) -> None:
    """Every test here needs them."""


@pytest.fixture(scope="module")
def shared(shelf: None) -> Iterator[World]:
    """One world for the tests of a file, with a running machine `otter` without systemd."""
    folder = Path(tempfile.mkdtemp(prefix="banger-test-", dir="/tmp"))
    made = World(folder)
    made.ok("vm", "create", "--name", "otter")
    yield made
    made.close()
    shutil.rmtree(folder)
