"""`banger doctor`: reads only, whatever it finds; each fault is a row with its fix, also those with which no daemon starts."""

from __future__ import annotations

import json
import os
import resource
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.command import Banger

HOST_LACKS = 123


@pytest.fixture
def doctor(alone: Banger, runtime: Path) -> Callable[..., dict[str, dict[str, str]]]:
    """Runs it and returns the rows by subject, having made sure that it changed nothing."""
    alone.environ |= {"XDG_CONFIG_HOME": str(runtime / "config"), "XDG_CACHE_HOME": str(runtime / "cache"), "BANGER_KVM": "no"}

    def run() -> dict[str, dict[str, str]]:
        before = tree(runtime)
        done = alone("doctor", "--json")
        rows = json.loads(done.stdout)
        assert tree(runtime) == before
        assert done.returncode == (HOST_LACKS if any(row["level"] == "FAIL" for row in rows) else 0)
        assert not done.stderr
        return {row["subject"]: row for row in rows}

    return run


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Everything below: its mode and content."""

    def seen(path: Path) -> tuple[int, bytes]:
        return path.lstat().st_mode, path.read_bytes() if path.is_file() and os.access(path, os.R_OK) else b""

    return {str(path): seen(path) for path in sorted(folder.rglob("*"))}


def database(runtime: Path, version: int = 1, *, wal: bool = True) -> Path:
    """A database as banger leaves it."""
    path = runtime / "state" / "banger" / "banger.db"
    path.parent.mkdir(parents=True, mode=0o700)
    made = sqlite3.connect(path, isolation_level=None)
    if wal:
        made.execute("PRAGMA journal_mode = WAL")
    made.execute("CREATE TABLE vms (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, phase TEXT NOT NULL, plan BLOB NOT NULL) STRICT")
    made.execute(f"PRAGMA user_version = {version}")
    made.close()
    return path


Doctor = Callable[[], dict[str, dict[str, str]]]


def test_where_nothing_is_yet_nothing_is_wrong_and_nothing_is_made(doctor: Doctor, runtime: Path) -> None:
    rows = doctor()
    assert list(runtime.iterdir()) == []
    assert {rows[subject]["level"] for subject in ("settings", "catalogs", "folders", "database")} == {"PASS"}
    assert "not there yet" in rows["database"]["message"]


def test_every_row_that_is_not_a_pass_says_what_to_do(doctor: Doctor) -> None:
    for row in doctor().values():
        assert row["message"]
        assert row["level"] == "PASS" or row["fix"]


def test_a_sound_database_is_one(doctor: Doctor, runtime: Path) -> None:
    database(runtime)
    assert "is sound" in doctor()["database"]["message"]


@pytest.mark.parametrize("content", [b"", b"no database " * 999, b"SQLite format 3\0" + bytes(5000)], ids=["empty", "garbage", "zeros"])
def test_a_database_of_garbage_fails_unless_it_is_empty(doctor: Doctor, runtime: Path, content: bytes) -> None:
    path = database(runtime)
    path.write_bytes(content)
    row = doctor()["database"]
    assert row["level"] == ("FAIL" if content else "PASS")
    assert str(path) in row["message"]


def test_a_database_cut_short_fails(doctor: Doctor, runtime: Path) -> None:
    path = database(runtime)
    path.write_bytes(path.read_bytes()[:5000])
    assert doctor()["database"]["level"] == "FAIL"


def test_a_database_of_a_newer_banger_fails_and_says_so(doctor: Doctor, runtime: Path) -> None:
    database(runtime, version=99)
    row = doctor()["database"]
    assert (row["level"], "newer" in row["message"], "99" in row["message"]) == ("FAIL", True, True)


def test_a_folder_in_the_databases_place_fails(doctor: Doctor, runtime: Path) -> None:
    (runtime / "state" / "banger" / "banger.db").mkdir(parents=True)
    assert doctor()["database"]["level"] == "FAIL"


def test_settings_with_which_no_daemon_starts_are_the_finding(doctor: Doctor, runtime: Path) -> None:
    path = runtime / "config" / "banger" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text("vcpus = 4\n")
    rows = doctor()
    assert list(rows) == ["settings"]
    assert str(path) in rows["settings"]["message"]
    assert "vcpus" in rows["settings"]["message"]


def test_a_variable_with_which_no_daemon_starts_is_the_finding(doctor: Doctor, alone: Banger) -> None:
    alone.environ["BANGER_MEMORY_MIB"] = "lots"
    assert "BANGER_MEMORY_MIB" in doctor()["settings"]["message"]


def test_a_catalog_with_which_no_daemon_starts_fails(doctor: Doctor, runtime: Path) -> None:
    path = runtime / "config" / "banger" / "catalog" / "images.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"version": 2, "entries": []}')
    row = doctor()["catalogs"]
    assert row["level"] == "FAIL"
    assert str(path) in row["message"]


@pytest.mark.parametrize("place", ["banger", "state/banger", "cache/banger"])
def test_a_link_in_a_folders_place_fails(doctor: Doctor, runtime: Path, place: str) -> None:
    (runtime / place).parent.mkdir(exist_ok=True)
    (runtime / "elsewhere").mkdir()
    (runtime / place).symlink_to(runtime / "elsewhere")
    row = doctor()["folders"]
    assert row["level"] == "FAIL"
    assert str(runtime / place) in row["message"]


def test_people_get_a_line_for_each_finding_and_its_fix(alone: Banger, runtime: Path) -> None:
    database(runtime).write_bytes(b"garbage " * 999)
    done = alone("doctor")
    lines = done.stdout.decode().splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("FAIL  database"))
    assert lines[at + 1].strip().startswith("fix: move ")
    assert done.returncode == HOST_LACKS


def test_it_needs_no_daemon_and_starts_none(alone: Banger, runtime: Path) -> None:
    alone("doctor")
    assert not (runtime / "banger").exists()
    assert [str(path) for path in Path("/proc").glob("[0-9]*/environ") if f"XDG_RUNTIME_DIR={runtime}" in content(path)] == []


def content(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""


def test_an_unreadable_database_fails(doctor: Doctor, alone: Banger, runtime: Path) -> None:
    database(runtime).chmod(0)
    if os.geteuid() == 0:
        alone.command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all", *alone.command]
        pass_by = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all", "cat", str(runtime / "state/banger/banger.db")]
        assert subprocess.run(pass_by, capture_output=True).returncode != 0
    row = doctor()["database"]
    assert row["level"] == "FAIL"
    assert "banger.db" in row["message"]


def test_it_takes_less_than_a_second_of_a_processor(alone: Banger) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    alone("doctor")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


def test_the_host_the_network_and_names_have_their_rows(doctor: Doctor) -> None:
    assert {"architecture", "privilege", "cgroups", "firecracker", "qemu", "disk", "network user", "network bridge", "names", "resolver"} <= set(
        doctor()
    )
