"""The launcher and what it sets up, in a checkout of paper: the programs that it would start only say that they were started."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from tests.world import ROOT


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Just the launcher, with a bootstrap that makes what it must make and a CLI that prints its arguments."""
    for folder in ("packaging", "agent/serve", ".venv/bin"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "banger", tmp_path / "banger")
    (tmp_path / "packaging" / "bootstrap.py").write_text(
        "import pathlib, sys\nroot = pathlib.Path(__file__).parent.parent\n(root / '.venv' / 'ready').touch()\nprint('set up')\n"
    )
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\nshift\necho "cli: $*"\n')
    python.chmod(0o755)
    for source in ("pyproject.toml", "hatch_build.py", "agent/main.go", "agent/serve/serve.go"):
        (tmp_path / source).touch()
        os.utime(tmp_path / source, (1_000_000_000, 1_000_000_000))
    return tmp_path


def launch(command: Path | str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(command), *arguments], capture_output=True, text=True, cwd=cwd, timeout=30, check=False)


def test_the_first_use_sets_up_and_later_ones_do_not(checkout: Path) -> None:
    first = launch(checkout / "banger", "vm", "run", "--", "uname", "-a")
    assert (first.returncode, first.stdout) == (0, "cli: vm run -- uname -a\n")
    assert first.stderr == "set up\n"
    again = launch(checkout / "banger", "vm", "list")
    assert (again.stdout, again.stderr) == ("cli: vm list\n", "")


@pytest.mark.parametrize("source", ["pyproject.toml", "hatch_build.py", "agent/main.go", "agent/serve/serve.go"])
def test_a_change_of_what_is_built_sets_up_anew(checkout: Path, source: str) -> None:
    launch(checkout / "banger")
    os.utime(checkout / source, (4_000_000_000, 4_000_000_000))
    assert launch(checkout / "banger").stderr == "set up\n"


def test_it_works_from_anywhere_and_through_a_link(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "banger"
    link.symlink_to(checkout / "banger")
    for command, cwd in ((link, None), ("./banger", checkout), ("../banger", checkout / "agent")):
        assert launch(command, "ps", cwd=cwd).stdout == "cli: ps\n"


def test_a_set_up_that_fails_ends_it_with_its_status(checkout: Path) -> None:
    (checkout / "packaging" / "bootstrap.py").write_text("raise SystemExit(123)\n")
    done = launch(checkout / "banger", "vm", "list")
    assert (done.returncode, done.stdout) == (123, "")


@pytest.fixture
def bootstrap() -> ModuleType:
    """The real one, as a module; nothing of it is run."""
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "packaging" / "bootstrap.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_ordinary_user_is_told_the_one_command_to_run(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert bootstrap.install_packages(["passt", "uidmap"]) is False
    assert "    apt-get install -y passt uidmap\n" in capfd.readouterr().err


def test_what_a_host_lacks_is_named_by_package(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bootstrap, "PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    lacks = bootstrap.missing(development=False)
    assert {"qemu-system-x86", "passt", "mmdebstrap", "e2fsprogs", "uidmap"} <= set(lacks)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "uidmap" not in bootstrap.missing(development=False)


def test_the_bootstrap_knows_the_packages_that_doctor_may_name(bootstrap: ModuleType) -> None:
    text = "\n".join(path.read_text() for path in (ROOT / "src" / "banger" / "host").glob("*.py"))
    text += "\n".join(path.read_text() for path in (ROOT / "src" / "banger" / "backends").rglob("*.py"))
    for package in ("qemu-system-x86", "passt", "mmdebstrap", "e2fsprogs", "uidmap"):
        assert package in text
        assert package in bootstrap.HOST | bootstrap.ORDINARY_USER
