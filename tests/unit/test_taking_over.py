"""A daemon that begins anew on a pretended host: what it takes over, and what it clears away. It and its backends are the real ones."""

from __future__ import annotations

import pytest

from banger.model.errors import (
    BangerError,
)
from banger.model.vm import VmSpec, VmState
from tests.place import OTTER, Place, reach, result, until


async def test_what_runs_is_taken_over_with_the_same_boot(place: Place) -> None:
    first = await place.daemon()
    made = await result(await first.vms.create(OTTER, start=True, wait="agent"))
    later = await place.daemon()
    await until(lambda: later.vms.show("otter").boot_id != "")
    assert later.vms.show("otter").boot_id == made.boot_id
    assert len(place.fake.proc.processes) == 1


async def test_what_is_half_made_or_half_deleted_or_was_to_be_thrown_away_is_gone(place: Place) -> None:
    first = await place.daemon()
    for spec in (VmSpec(name="half"), VmSpec(name="deleted")):
        await result(await first.vms.create(spec, start=True, wait="agent"))
    for name, phase in (("half", "creating"), ("deleted", "deleting")):
        first.vms.store.database.execute("UPDATE vms SET phase = ? WHERE name = ?", (phase, name))
    await reach(await first.vms.create(VmSpec(name="thrown", rm=True), start=True, wait="agent"), "agent")
    await until(lambda: not first.operations.running)
    later = await place.daemon()
    assert later.vms.rows() == []
    assert place.clean()


async def test_what_died_meanwhile_is_stopped_and_starts(place: Place) -> None:
    first = await place.daemon()
    await result(await first.vms.create(OTTER, start=True, wait="agent"))
    place.fake.proc.processes[0].end()
    later = await place.daemon()
    assert later.vms.show("otter").state is VmState.STOPPED
    assert (await result(later.vms.start("otter", wait="agent"))).state is VmState.RUNNING


async def test_a_process_whose_record_cannot_be_read_is_found_by_its_arguments(place: Place) -> None:
    first = await place.daemon()
    for name in ("otter", "wren"):
        await result(await first.vms.create(VmSpec(name=name), start=True, wait="agent"))
    record = place.fake.paths.vm_run(first.vms.show("otter").id) / "vmm.json"
    record.write_text("garbage")
    later = await place.daemon()
    assert {row.name for row in later.vms.rows()} == {"otter", "wren"}
    assert {row.state for row in later.vms.rows()} == {VmState.RUNNING}
    await later.vms.delete("otter")
    await later.vms.delete("wren")
    assert place.clean()


async def test_a_row_that_cannot_be_read_is_named(place: Place) -> None:
    first = await place.daemon()
    made = await result(await first.vms.create(OTTER, start=False, wait="agent"))
    first.vms.store.database.execute("UPDATE vms SET plan = ?", (b'{"version":1,"new":2}',))
    with pytest.raises(BangerError, match=made.id):
        await place.daemon()
