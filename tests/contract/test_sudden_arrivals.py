"""A daemon that is killed before any single change that it makes to a file system, in any way in which images, kernels and catalogs come and go: what
the next one finds is whole, either as it was before or as it was to become, and the same command does what it is for. dying.py does it."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.world import ROOT

MEMORY = Path("/dev/shm")


def test_wherever_a_daemon_is_killed_all_is_whole_and_the_same_command_succeeds() -> None:
    with tempfile.TemporaryDirectory(prefix="banger-dying-", dir=MEMORY if MEMORY.is_dir() else None) as folder:
        done = subprocess.run([sys.executable, "-m", "tests.dying", folder], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = [line for line in done.stdout.splitlines() if not re.fullmatch(r"[a-z ]+: \d+ kills|\d+ kills", line)]
    assert wrong == []
    assert int(done.stdout.splitlines()[-1].split()[0]) > 300
