"""Machines' lives on a pretended host: what is undone, what is taken over, who waits for whom. The daemon and its backends are the real ones."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest

from banger.daemon import Daemon, compose, machine
from banger.daemon.operations import Progress
from banger.host.sqlite import RealDatabases
from banger.model import codec
from banger.model.catalog import ImageManifest, KernelManifest
from banger.model.config import Settings
from banger.model.errors import (
    AlreadyExists,
    BadRequest,
    BangerError,
    Cancelled,
    GuestFailed,
    HostLacks,
    NoSpace,
    TimedOut,
    VmmFailed,
    WrongState,
)
from banger.model.event import Event
from banger.model.operation import Operation
from banger.model.vm import VmSpec, VmState, VmStatus
from banger.testing import FakeGuest, FakeHost, Mood

BUILT = datetime(2026, 1, 1, tzinfo=UTC)
IMAGE = ImageManifest(name="box", source="debian", digest="sha256:1", size_bytes=1, built=BUILT, kernel="linux", used_bytes=1, packages=1, init="")
KERNEL = KernelManifest(name="linux", source="debian", digest="sha256:2", size_bytes=1, built=BUILT, release="6.1", architecture="x86_64")
SETTINGS = Settings(default_image="box", network="none", memory_mib=256, vcpu=1, boot_timeout=0.3, stop_timeout=0.3)
OTTER = VmSpec(name="otter")


class NoModules:
    """A kernel that has everything built in."""

    def closure(self, folder: Path, names: list[str]) -> list[Path]:
        return []


class Place:
    """A pretended host, on which daemons begin and end; processes stay."""

    def __init__(self, fake: FakeHost, stack: AsyncExitStack) -> None:
        self.fake, self.stack = fake, stack
        self.host = dataclasses.replace(fake.host, kmod=NoModules())
        paths = fake.paths
        for folder in (paths.state, paths.run, paths.cache, paths.machines, paths.running, paths.images, paths.kernels):
            folder.mkdir(parents=True, exist_ok=True)
        put(paths.image("box"), codec.encode(IMAGE))
        put(paths.kernel("linux"), codec.encode(KERNEL))
        (paths.state / "agent").write_bytes(b"agent")

    async def daemon(self) -> Daemon:
        """One more daemon, which takes over what is there; the former one is simply forgotten, as after SIGKILL."""
        tasks = await self.stack.enter_async_context(Endless())
        made = compose(
            self.host,
            databases=RealDatabases(),
            build="0+0",
            agent=self.fake.paths.state / "agent",
            catalogs=self.fake.paths.config,
            tasks=tasks.group,
        )
        self.stack.callback(made.vms.store.database.close)
        await made.names.open()
        await made.vms.adopt()
        return made

    def guests(self, mood: Mood) -> None:
        """How the guests of machines yet to be started behave."""
        self.fake.qemu.guest = lambda _: FakeGuest(mood)  # type: ignore[method-assign]

    def clean(self) -> bool:
        """No process and no file of a machine."""
        left = [path for folder in (self.fake.paths.machines, self.fake.paths.running) for path in folder.iterdir()]
        return not left and all(process.ended.is_set() for process in self.fake.proc.processes)


class Endless:
    """A task group that ends when it is left, whatever still runs in it."""

    async def __aenter__(self) -> Endless:
        self.group = asyncio.TaskGroup()
        await self.group.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.group._abort()
        await self.group.__aexit__(None, None, None)


def put(folder: Path, manifest: bytes) -> None:
    folder.mkdir()
    (folder / "manifest.json").write_bytes(manifest)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with FakeHost(tmp_path, SETTINGS) as fake, asyncio.timeout(20), AsyncExitStack() as stack:
        yield Place(fake, stack)


async def result(stream: AsyncIterator[Progress[VmStatus]]) -> VmStatus:
    """The operation's result, or what it raised."""
    last = [item async for item in stream][-1]
    assert isinstance(last, VmStatus)
    return last


async def reach(stream: AsyncIterator[Progress[VmStatus]], stage: str) -> str:
    """Follow an operation until it is at a stage; its id."""
    identity = ""
    async for item in stream:
        if isinstance(item, Operation):
            identity = item.id
        if isinstance(item, Event) and item.stage == stage:
            break
    return identity


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks go on until it holds; the fixture's time limit ends it."""
    while True:
        if condition():
            return
        await asyncio.sleep(0)


# --- creating


async def test_a_created_machine_runs_and_a_deleted_one_leaves_nothing(place: Place) -> None:
    daemon = await place.daemon()
    made = await result(daemon.vms.create(OTTER, start=True, wait="agent"))
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
        await result(daemon.vms.create(OTTER, start=True, wait="agent"))
    assert caught.value.stage == "agent"
    assert daemon.vms.rows() == []
    assert place.clean()


async def test_a_guest_whose_init_never_settles_is_given_up_in_time(place: Place) -> None:
    daemon = await place.daemon()
    guest = FakeGuest()
    guest.booted = False
    place.fake.qemu.guest = lambda _: guest  # type: ignore[method-assign]
    with pytest.raises(TimedOut, match="not settled within") as caught:
        await result(daemon.vms.create(OTTER, start=True, wait="boot"))
    assert caught.value.stage == "boot"
    assert place.clean()


async def test_a_vmm_that_dies_while_the_guest_boots_is_told_with_cause_tail_and_hint(place: Place) -> None:
    daemon = await place.daemon()
    place.guests(Mood.SILENT)
    following = daemon.vms.create(OTTER, start=True, wait="agent")
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
    both = [asyncio.ensure_future(result(daemon.vms.create(OTTER, start=True, wait="agent"))) for _ in range(2)]
    await asyncio.wait(both)
    failures = [each.exception() for each in both if each.exception() is not None]
    assert len(failures) == 1
    assert isinstance(failures[0], AlreadyExists)
    assert [row.state for row in daemon.vms.rows()] == [VmState.RUNNING]


async def test_a_cancelled_creation_leaves_nothing(place: Place) -> None:
    daemon = await place.daemon()
    place.guests(Mood.SILENT)
    following = daemon.vms.create(OTTER, start=True, wait="agent")
    operation = await reach(following, "agent")
    await daemon.operations.cancel(operation)
    assert place.clean()
    assert daemon.vms.rows() == []
    again = daemon.vms.create(OTTER, start=False, wait="agent")
    assert (await result(again)).state is VmState.STOPPED


async def test_deleting_what_is_being_created_takes_it_back(place: Place) -> None:
    daemon = await place.daemon()
    place.guests(Mood.SILENT)
    following = daemon.vms.create(OTTER, start=True, wait="agent")
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
        daemon.vms.create(VmSpec(name="otter", image="not-even-there"), start=True, wait="agent")
    assert daemon.operations.rows() == []


@pytest.mark.parametrize(
    "spec",
    [VmSpec(name="Otter"), VmSpec(vcpu=0), VmSpec(memory_mib=-1), VmSpec(disk_bytes=1), VmSpec(network="x"), VmSpec(vmm="x"), VmSpec(host_access=True)],
)
async def test_what_cannot_be_meant_is_refused_before_an_operation_begins(place: Place, spec: VmSpec) -> None:
    daemon = await place.daemon()
    with pytest.raises(BadRequest):
        daemon.vms.create(spec, start=True, wait="agent")
    assert daemon.operations.rows() == []


async def test_leftovers_of_a_failed_creation_are_named_and_removed_at_the_next_start(place: Place) -> None:
    daemon = await place.daemon()
    place.guests(Mood.GARBAGE)
    disks = daemon.vms.resources.disks["overlay"]

    async def stuck(part: object) -> None:
        raise OSError(5, "the disk does not answer")

    disks.remove = stuck  # type: ignore[method-assign,assignment]
    with pytest.raises(GuestFailed, match=r"left over: .*does not answer"):
        await result(daemon.vms.create(OTTER, start=True, wait="agent"))
    assert not place.clean()
    later = await place.daemon()
    assert later.vms.rows() == []
    assert place.clean()


# --- a daemon that begins anew


async def test_what_runs_is_taken_over_with_the_same_boot(place: Place) -> None:
    first = await place.daemon()
    made = await result(first.vms.create(OTTER, start=True, wait="agent"))
    later = await place.daemon()
    await until(lambda: later.vms.show("otter").boot_id != "")
    assert later.vms.show("otter").boot_id == made.boot_id
    assert len(place.fake.proc.processes) == 1


async def test_what_is_half_made_or_half_deleted_or_was_to_be_thrown_away_is_gone(place: Place) -> None:
    first = await place.daemon()
    for spec in (VmSpec(name="half"), VmSpec(name="deleted")):
        await result(first.vms.create(spec, start=True, wait="agent"))
    for name, phase in (("half", "creating"), ("deleted", "deleting")):
        first.vms.store.database.execute("UPDATE vms SET phase = ? WHERE name = ?", (phase, name))
    await reach(first.vms.create(VmSpec(name="thrown", rm=True), start=True, wait="agent"), "agent")
    await until(lambda: not first.operations.running)
    later = await place.daemon()
    assert later.vms.rows() == []
    assert place.clean()


async def test_what_died_meanwhile_is_stopped_and_starts(place: Place) -> None:
    first = await place.daemon()
    await result(first.vms.create(OTTER, start=True, wait="agent"))
    place.fake.proc.processes[0].end()
    later = await place.daemon()
    assert later.vms.show("otter").state is VmState.STOPPED
    assert (await result(later.vms.start("otter", wait="agent"))).state is VmState.RUNNING


async def test_a_process_whose_record_cannot_be_read_is_found_by_its_arguments(place: Place) -> None:
    first = await place.daemon()
    for name in ("otter", "wren"):
        await result(first.vms.create(VmSpec(name=name), start=True, wait="agent"))
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
    made = await result(first.vms.create(OTTER, start=False, wait="agent"))
    first.vms.store.database.execute("UPDATE vms SET plan = ?", (b'{"version":1,"new":2}',))
    with pytest.raises(BangerError, match=made.id):
        await place.daemon()


# --- running, stopping, deleting


async def test_the_end_of_a_vmm_is_noticed_and_cleaned_up(place: Place) -> None:
    daemon = await place.daemon()
    made = await result(daemon.vms.create(OTTER, start=True, wait="agent"))
    place.fake.proc.processes[0].end()
    await until(lambda: not place.fake.paths.vm_run(made.id).exists())
    assert daemon.vms.show("otter").state is VmState.STOPPED


async def test_a_guest_that_does_not_power_off_is_forced_in_time(place: Place) -> None:
    daemon = await place.daemon()
    made = await result(daemon.vms.create(OTTER, start=True, wait="agent"))
    place.fake.qemu.guests[made.id].poweroff_works = False
    stopped = await daemon.vms.stop("otter", force=False)
    assert stopped.state is VmState.STOPPED
    assert place.fake.proc.processes[0].ended.is_set()


async def test_a_frozen_machine_is_shown_at_once_and_refuses_commands(place: Place) -> None:
    daemon = await place.daemon()
    await result(daemon.vms.create(OTTER, start=True, wait="agent"))
    assert (await daemon.vms.kill("otter", signal="STOP")).state is VmState.FROZEN
    with pytest.raises(WrongState, match="frozen"):
        await daemon.vms.open("otter", {"op": "exec", "argv": ["true"]})
    await daemon.vms.delete("otter")
    assert place.clean()


async def test_a_full_disk_does_not_keep_a_machine_from_being_deleted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = await place.daemon()
    made = await result(daemon.vms.create(OTTER, start=True, wait="agent"))
    database, real = daemon.vms.store.database, daemon.vms.store.database.execute
    overlay = place.fake.paths.overlay(made.id)

    def full(statement: str, values: tuple[str, ...] = ()) -> object:
        if overlay.exists() and not statement.startswith("SELECT"):
            raise NoSpace("no space left")
        return real(statement, values)

    monkeypatch.setattr(database, "execute", full)
    await daemon.vms.delete("otter")
    assert place.clean()
    assert daemon.vms.store.load() == []


async def test_a_deletion_that_fails_can_be_repeated(place: Place) -> None:
    daemon = await place.daemon()
    await result(daemon.vms.create(OTTER, start=True, wait="agent"))
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
        await result(daemon.vms.create(VmSpec(name=name), start=name == "runner", wait="agent"))
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
