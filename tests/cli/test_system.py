"""`banger system`: what it would do, who may, and what it refuses. Installing for real is tested in the lab machine, where systemd runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from banger.daemon.system import MAIN, PACKAGES
from banger.host.frozen import freeze, packages, refusal
from tests.cli.command import Banger

ROOT_RUNS_IT = not refusal(Path(sys.executable).resolve())
pytestmark = pytest.mark.skipif(not ROOT_RUNS_IT and os.geteuid() != 0, reason="root is needed, as the owner of Python")


def test_without_an_installation_the_status_says_how_to_get_one(alone: Banger) -> None:
    done = alone("system", "status")
    assert (done.returncode, done.stdout) == (123, b"not installed; as root: banger system install --owner USER\n")
    assert json.loads(alone("system", "status", "--json").stdout)["owner"] == ""


def test_where_there_is_nothing_to_remove_that_is_said(alone: Banger) -> None:
    done = alone("system", "uninstall")
    assert (done.returncode, done.stderr) == (0, b"note: nothing is installed\n")


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        ("", 120, b"--owner USER"),
        ("--owner nobody-of-that-name", 121, b"no user"),
        ("--owner root", 120, b"root needs no helper"),
        ("--owner daemon --root relative", 120, b"no absolute path"),
        ("--owner daemon --root /", 120, b"no absolute path"),
        ("--owner daemon --root /proc/self/cwd", 120, b"leads over a link"),
        ("--owner", 120, b"needs a value"),
    ],
)
def test_what_cannot_be_installed_is_refused_before_anything_is_done(alone: Banger, words: str, status: int, says: bytes) -> None:
    done = alone("system", "install", *words.split())
    assert (done.returncode, says in done.stderr) == (status, True), done.stderr


def test_a_dry_run_names_the_steps_or_that_there_is_no_systemd(alone: Banger) -> None:
    done = alone("system", "install", "--owner", "daemon", "--root", "/srv/images", "--dry-run")
    if Path("/run/systemd/system").is_dir():
        assert b"would: systemctl daemon-reload" in done.stdout
    else:
        assert (done.returncode, b"does not run systemd" in done.stderr) == (123, True)


def test_the_copy_of_the_code_is_a_helper_without_anything_else_of_python(tmp_path: Path) -> None:
    freeze(packages(PACKAGES), tmp_path / "code", MAIN)
    command = [str(Path(sys.executable).resolve()), "-I", "-S", "-B", str(tmp_path / "code"), "--owner", "1:1", "--root", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, timeout=30, check=False, env={}, cwd="/")
    assert (done.returncode, b"started by systemd" in done.stderr) == (1, True), done.stderr
