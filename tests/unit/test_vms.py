"""Machines that run, stop and go, on a pretended host. The daemon and its backends are the real ones."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from banger.daemon.store import Phase
from banger.model.errors import (
    NoSpace,
    WrongState,
)
from banger.model.ids import VmId
from banger.model.parts import MachinePart, Part
from banger.model.vm import VmSpec, VmState
from tests.place import OTTER, Place, result, until


async def test_the_end_of_a_vmm_is_noticed_and_cleaned_up(place: Place) -> None:
    daemon = await place.daemon()
    made = await result(await daemon.vms.create(OTTER, start=True, wait="agent"))
    place.fake.proc.processes[0].end()
    await until(lambda: not place.fake.paths.vm_run(made.id).exists())
    assert daemon.vms.show("otter").state is VmState.STOPPED


async def test_a_guest_that_does_not_power_off_is_forced_in_time(place: Place) -> None:
    daemon = await place.daemon()
    made = await result(await daemon.vms.create(OTTER, start=True, wait="agent"))
    place.fake.qemu.guests[made.id].poweroff_works = False
    stopped = await daemon.vms.stop("otter", force=False)
    assert stopped.state is VmState.STOPPED
    assert place.fake.proc.processes[0].ended.is_set()


async def test_a_frozen_machine_is_shown_at_once_and_refuses_commands(place: Place) -> None:
    daemon = await place.daemon()
    await result(await daemon.vms.create(OTTER, start=True, wait="agent"))
    assert (await daemon.vms.kill("otter", signal="STOP")).state is VmState.FROZEN
    with pytest.raises(WrongState, match="frozen"):
        await daemon.vms.open("otter", {"op": "exec", "argv": ["true"]})
    await daemon.vms.delete("otter")
    assert place.clean()


async def test_a_full_disk_does_not_keep_a_machine_from_being_deleted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = await place.daemon()
    made = await result(await daemon.vms.create(OTTER, start=True, wait="agent"))
    database, real = daemon.vms.store.database, daemon.vms.store.database.execute
    overlay = place.fake.paths.overlay(made.id)

    def full(statement: str, values: tuple[str, ...] = (), *, durable: bool = True) -> object:
        if overlay.exists() and not statement.startswith("SELECT"):
            raise NoSpace("no space left")
        return real(statement, values, durable=durable)

    monkeypatch.setattr(database, "execute", full)
    await daemon.vms.delete("otter")
    assert place.clean()
    assert daemon.vms.store.load() == []


async def test_a_deleted_machine_ends_while_that_is_written_down_and_is_cleaned_up_after_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = await place.daemon()
    await result(await daemon.vms.create(OTTER, start=True, wait="agent"))
    vmm, mark, seen = daemon.vms.resources.vmms["qemu"], daemon.vms.store.mark, list[str]()
    remove, (process,) = vmm.remove, place.fake.proc.processes

    def marked(vm: VmId, phase: Phase) -> None:
        seen.append(f"{phase}, its VMM {'has ended' if process.ended.is_set() else 'lives'}")
        mark(vm, phase)

    async def removed(part: MachinePart) -> None:
        seen.append("cleaned up")
        await remove(part)

    monkeypatch.setattr(daemon.vms.store, "mark", marked)
    monkeypatch.setattr(vmm, "remove", removed)
    await daemon.vms.delete("otter")
    watcher = next((task for task in asyncio.all_tasks() if task.get_name() == "watch otter"), None)
    if watcher is not None:
        await asyncio.wait([watcher])
    assert seen == ["deleting, its VMM has ended", "cleaned up"]
    assert place.clean()


async def test_no_machine_is_started_that_is_being_deleted(place: Place) -> None:
    daemon = await place.daemon()
    await result(await daemon.vms.create(OTTER, start=False, wait="agent"))
    machine = daemon.vms.roster.find("otter")
    async with machine.lock:
        starting = asyncio.create_task(machine.up("agent"))
        await asyncio.sleep(0)
        deleting = asyncio.create_task(daemon.vms.roster.destroy(machine))
        await asyncio.sleep(0)
    with pytest.raises(WrongState, match="was deleted meanwhile"):
        await starting
    await deleting
    assert place.clean()


async def test_once_the_vmm_has_gone_network_and_disk_are_let_go_of_at_the_same_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = await place.daemon()
    await result(await daemon.vms.create(OTTER, start=False, wait="agent"))
    resources, both, seen = daemon.vms.resources, asyncio.Barrier(2), list[str]()

    async def removed(part: Part) -> None:
        seen.append(type(part).__name__)
        if not isinstance(part, MachinePart):
            async with asyncio.timeout(5):
                await both.wait()
            raise OSError(f"{type(part).__name__} is busy")

    monkeypatch.setattr(resources, "remove", removed)
    monkeypatch.setattr(resources, "detach", removed)
    with pytest.raises(OSError, match="NicPart is busy") as caught:
        await resources.remove_volatile(daemon.vms.roster.find("otter").plan)
    assert seen == ["MachinePart", "NicPart", "DiskPart"]
    assert caught.value.__notes__ == ["also left over: DiskPart is busy"]


async def test_a_deletion_that_fails_can_be_repeated(place: Place) -> None:
    daemon = await place.daemon()
    await result(await daemon.vms.create(OTTER, start=True, wait="agent"))
    disks = daemon.vms.resources.disks["overlay"]
    remove, failures = disks.remove, [OSError(5, "the disk does not answer")]

    async def once(part: object) -> None:
        if failures:
            raise failures.pop()
        await remove(part)  # type: ignore[arg-type]

    disks.remove = once  # type: ignore[method-assign,assignment]
    with pytest.raises(OSError, match="does not answer"):
        await daemon.vms.delete("otter")
    assert [row.name for row in daemon.vms.rows()] == ["otter"]
    await daemon.vms.delete("otter")
    assert place.clean()


async def test_prune_goes_on_after_one_that_fails(place: Place) -> None:
    daemon = await place.daemon()
    for name in ("otter", "wren", "runner"):
        await result(await daemon.vms.create(VmSpec(name=name), start=name == "runner", wait="agent"))
    disks = daemon.vms.resources.disks["overlay"]
    remove, bad = disks.remove, daemon.vms.show("otter").id

    async def picky(part: object) -> None:
        if getattr(part, "vm", "") == bad:
            raise OSError(5, "the disk does not answer")
        await remove(part)  # type: ignore[arg-type]

    disks.remove = picky  # type: ignore[method-assign,assignment]
    told = {each.target: each.ok for each in await daemon.vms.prune()}
    assert told == {"otter": False, "wren": True}
    assert {row.name for row in daemon.vms.rows()} == {"otter", "runner"}


async def test_a_machine_starts_though_the_cache_was_emptied(place: Place) -> None:
    daemon = await place.daemon()
    made = await result(await daemon.vms.create(OTTER, start=False, wait="agent"))
    place.host.files.remove_tree(place.fake.paths.cache)
    (place.fake.paths.state / "agent").write_bytes(b"a newer agent")
    started = await result(daemon.vms.start("otter", wait="agent"))
    assert started.state is VmState.RUNNING
    initramfs = Path(daemon.vms.machines[made.id].plan.machine.initramfs)
    assert b"a newer agent" in initramfs.read_bytes()
    assert str(initramfs) in str(daemon.vms.store.load()), "and the next daemon knows it"
