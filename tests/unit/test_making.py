"""Machines are made on a pretended host: what is undone, what is refused, who waits for whom. The daemon and its backends are the real ones."""

from __future__ import annotations

import asyncio

import pytest

from banger.daemon import machine
from banger.model.errors import (
    AlreadyExists,
    BadRequest,
    BangerError,
    Cancelled,
    GuestFailed,
    HostLacks,
    TimedOut,
    VmmFailed,
)
from banger.model.vm import VmSpec, VmState
from banger.testing import FakeGuest, Mood
from tests.place import OTTER, Place, reach, result


async def test_a_created_machine_runs_and_a_deleted_one_leaves_nothing(place: Place) -> None:
    daemon = await place.daemon()
    made = await result(await daemon.vms.create(OTTER, start=True, wait="agent"))
    assert (made.name, made.state, made.memory_mib) == ("otter", VmState.RUNNING, 256)
    await daemon.vms.delete("otter")
    assert daemon.vms.rows() == []
    assert place.clean()


@pytest.mark.parametrize("mood", [mood for mood in Mood if mood is not Mood.GOOD])
async def test_a_creation_whose_guest_misbehaves_is_undone_in_time(place: Place, monkeypatch: pytest.MonkeyPatch, mood: Mood) -> None:
    monkeypatch.setattr(machine, "IDENTITY_TIMEOUT", 0.3)
    monkeypatch.setattr(machine, "END_SHOWS", 0.05)
    daemon = await place.daemon()
    place.guests(mood)
    with pytest.raises((GuestFailed, TimedOut)) as caught:
        await result(await daemon.vms.create(OTTER, start=True, wait="agent"))
    assert caught.value.stage == "agent"
    assert daemon.vms.rows() == []
    assert place.clean()


async def test_a_guest_whose_init_never_settles_is_given_up_in_time(place: Place) -> None:
    daemon = await place.daemon()
    guest = FakeGuest()
    guest.booted = False
    place.fake.qemu.guest = lambda _: guest  # type: ignore[method-assign]
    with pytest.raises(TimedOut, match="not settled within") as caught:
        await result(await daemon.vms.create(OTTER, start=True, wait="boot"))
    assert caught.value.stage == "boot"
    assert place.clean()


async def test_a_vmm_that_dies_while_the_guest_boots_is_told_with_cause_tail_and_hint(place: Place) -> None:
    daemon = await place.daemon()
    place.guests(Mood.SILENT)
    following = await daemon.vms.create(OTTER, start=True, wait="agent")
    await reach(following, "agent")
    vm = next(iter(daemon.vms.machines))
    await place.fake.consoles.say(vm, b"Kernel panic - not syncing: \x1b[31mno init\n")
    place.fake.proc.processes[0].end()
    with pytest.raises(VmmFailed, match="kernel panicked") as caught:
        await result(following)
    assert caught.value.tail == ("Kernel panic - not syncing: no init",)
    assert "--no-start" in caught.value.hint
    assert place.clean()


async def test_of_two_who_want_the_same_name_at_once_one_gets_it(place: Place) -> None:
    daemon = await place.daemon()
    both = [asyncio.ensure_future(result(await daemon.vms.create(OTTER, start=True, wait="agent"))) for _ in range(2)]
    await asyncio.wait(both)
    failures = [each.exception() for each in both if each.exception() is not None]
    assert len(failures) == 1
    assert isinstance(failures[0], AlreadyExists)
    assert [row.state for row in daemon.vms.rows()] == [VmState.RUNNING]


async def test_a_cancelled_creation_leaves_nothing(place: Place) -> None:
    daemon = await place.daemon()
    place.guests(Mood.SILENT)
    following = await daemon.vms.create(OTTER, start=True, wait="agent")
    operation = await reach(following, "agent")
    await daemon.operations.cancel(operation)
    assert place.clean()
    assert daemon.vms.rows() == []
    again = await daemon.vms.create(OTTER, start=False, wait="agent")
    assert (await result(again)).state is VmState.STOPPED


async def test_deleting_what_is_being_created_takes_it_back(place: Place) -> None:
    daemon = await place.daemon()
    place.guests(Mood.SILENT)
    following = await daemon.vms.create(OTTER, start=True, wait="agent")
    await reach(following, "agent")
    await daemon.vms.delete("otter")
    assert place.clean()
    with pytest.raises(Cancelled):
        await result(following)


@pytest.mark.parametrize(("tool", "kind"), [("qemu-system-x86_64", HostLacks), ("mkfs.ext4", HostLacks)])
async def test_what_the_host_lacks_is_told_at_once(place: Place, tool: str, kind: type[BangerError]) -> None:
    daemon = await place.daemon()
    place.fake.proc.programs.pop(tool, None)
    place.fake.proc.commands.pop(tool, None)
    with pytest.raises(kind, match=tool):
        await daemon.vms.create(VmSpec(name="otter", image="not-even-there"), start=True, wait="agent")
    assert daemon.operations.rows() == []


@pytest.mark.parametrize(
    "spec",
    [VmSpec(name="Otter"), VmSpec(vcpu=0), VmSpec(memory_mib=-1), VmSpec(disk_bytes=1), VmSpec(network="x"), VmSpec(vmm="x"), VmSpec(host_access=True)],
)
async def test_what_cannot_be_meant_is_refused_before_an_operation_begins(place: Place, spec: VmSpec) -> None:
    daemon = await place.daemon()
    with pytest.raises(BadRequest):
        await daemon.vms.create(spec, start=True, wait="agent")
    assert daemon.operations.rows() == []


async def test_leftovers_of_a_failed_creation_are_named_and_removed_at_the_next_start(place: Place) -> None:
    daemon = await place.daemon()
    place.guests(Mood.GARBAGE)
    disks = daemon.vms.resources.disks["overlay"]

    async def stuck(part: object) -> None:
        raise OSError(5, "the disk does not answer")

    disks.remove = stuck  # type: ignore[method-assign,assignment]
    with pytest.raises(GuestFailed, match=r"left over: .*does not answer"):
        await result(await daemon.vms.create(OTTER, start=True, wait="agent"))
    assert not place.clean()
    later = await place.daemon()
    assert later.vms.rows() == []
    assert place.clean()
