"""The table of machines, and what is refused as a database."""

from __future__ import annotations

import contextlib
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from banger.daemon.store import MIGRATIONS, Phase, Store
from banger.host.sqlite import RealDatabases
from banger.model.errors import AlreadyExists, Corrupt, NewerSchema
from banger.model.ids import VmId
from banger.model.parts import DiskPart, MachinePart, NicPart
from banger.model.vm import VmPlan


def a_plan(name: str, vm: str = "0123456789ab") -> VmPlan:
    identity = VmId(vm)
    disk = DiskPart(backend="overlay", vm=identity, base="/images/x/rootfs.ext4", size=1 << 30)
    nic = NicPart(backend="user", vm=identity, mac="52:42:01:23:45:67", address="10.0.2.15/24", gateway="10.0.2.2", dns=("10.0.2.3",))
    machine = MachinePart(
        backend="qemu",
        vm=identity,
        vcpu=1,
        memory_mib=512,
        accelerator="tcg",
        reason="no KVM",
        kernel="/k",
        initramfs="/i",
        disk=disk,
        nic=nic,
    )
    return VmPlan(
        id=identity,
        name=name,
        image="x",
        image_digest="sha256:0",
        kernel="k",
        created=datetime(2026, 11, 23, tzinfo=UTC),
        rm=False,
        machine_id="f" * 32,
        disk=disk,
        nic=nic,
        machine=machine,
    )


def a_store(path: Path) -> Store:
    return Store(RealDatabases().open(path, MIGRATIONS))


def test_a_statement_that_need_not_last_leaves_the_next_one_durable(tmp_path: Path) -> None:
    database = RealDatabases().open(tmp_path / "db", MIGRATIONS)
    for statement in ("DELETE FROM vms", "DELETE FROM nothing"):
        with contextlib.suppress(Corrupt):
            database.execute(statement, durable=False)
        assert database.execute("PRAGMA synchronous") == [(2,)], "sqlite.org/pragma.html: 2 is FULL"


def test_what_was_saved_is_there_after_a_restart(tmp_path: Path) -> None:
    plan = a_plan("otter")
    a_store(tmp_path / "db").add(plan)
    again = a_store(tmp_path / "db")
    assert again.load() == [(plan, Phase.CREATING)]
    again.mark(plan.id, Phase.KEPT)
    assert a_store(tmp_path / "db").load() == [(plan, Phase.KEPT)]
    again.drop(plan.id)
    assert again.load() == []


def test_a_name_is_given_once(tmp_path: Path) -> None:
    store = a_store(tmp_path / "db")
    store.add(a_plan("otter"))
    with pytest.raises(AlreadyExists, match="otter"):
        store.add(a_plan("otter", vm="ba9876543210"))


def test_the_database_is_private(tmp_path: Path) -> None:
    a_store(tmp_path / "db")
    assert (tmp_path / "db").stat().st_mode & 0o777 == 0o600


def test_garbage_is_refused_with_the_files_name_and_left_as_it_is(tmp_path: Path) -> None:
    garbage = b"this is no database, and it is longer than a header of a hundred bytes would be" * 4
    (tmp_path / "db").write_bytes(garbage)
    with pytest.raises(Corrupt, match=str(tmp_path / "db")):
        a_store(tmp_path / "db")
    assert (tmp_path / "db").read_bytes() == garbage
    assert RealDatabases().probe(tmp_path / "db", MIGRATIONS) != ""


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    a_store(tmp_path / "db").database.close()
    with sqlite3.connect(tmp_path / "db") as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(NewerSchema, match="schema 99"):
        a_store(tmp_path / "db")
    assert "newer" in RealDatabases().probe(tmp_path / "db", MIGRATIONS)


def test_a_migration_that_fails_leaves_nothing_of_itself(tmp_path: Path) -> None:
    broken = (*MIGRATIONS, "CREATE TABLE vms (id TEXT)")
    with pytest.raises(Corrupt):
        RealDatabases().open(tmp_path / "db", broken)
    a_store(tmp_path / "db").add(a_plan("otter"))


def test_a_row_that_is_not_ours_is_named(tmp_path: Path) -> None:
    store = a_store(tmp_path / "db")
    store.add(a_plan("otter"))
    store.database.execute("UPDATE vms SET plan = ?", (b'{"version": 1, "sorcery": true}',))
    with pytest.raises(Corrupt, match="0123456789ab"):
        store.load()


def test_probing_makes_and_changes_nothing(tmp_path: Path) -> None:
    assert RealDatabases().probe(tmp_path / "db", MIGRATIONS) == ""
    assert list(tmp_path.iterdir()) == []
    a_store(tmp_path / "db").database.close()
    before = (tmp_path / "db").read_bytes()
    assert RealDatabases().probe(tmp_path / "db", MIGRATIONS) == ""
    assert (tmp_path / "db").read_bytes() == before
