"""Machines on a host that is only pretended: the real backends, no process."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from banger.backends.disk.overlay import Overlay
from banger.backends.network.none import NoNetwork
from banger.backends.network.user import User, argv, explain, passt_argv
from banger.backends.vmm.qemu import Qemu
from banger.host.detached import recorded
from banger.host.facts import Kvm
from banger.model.errors import BadRequest, GuestFailed, HostLacks, NoSpace, ToolFailed, VmmFailed
from banger.model.finding import Level
from banger.model.ids import VmId
from banger.model.parts import MachinePart
from banger.testing import FakeHost

VM = VmId("0123456789ab")
SIZE = 64 << 20


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeHost]:
    async with FakeHost(tmp_path) as made:
        yield made


def machine(fake: FakeHost, **more: object) -> MachinePart:
    disk = Overlay(fake.host).plan(VM, base=Path("/images/rootfs.ext4"), size=SIZE)
    nic = NoNetwork().plan(VM, host_access=False, sockets=True)
    part = Qemu(fake.host).plan(VM, vcpu=1, memory_mib=256, kernel="/vmlinux", initramfs="/initramfs", disk=disk, nic=nic)
    return msgspec.structs.replace(part, **more)


# --- machines


async def test_a_machine_that_is_made_runs_and_made_again_is_the_same(fake: FakeHost) -> None:
    qemu, part = Qemu(fake.host), machine(fake)
    assert not qemu.inspect(part).present
    await qemu.ensure(part)
    first = qemu.inspect(part)
    await qemu.ensure(part)
    assert first.running
    assert qemu.inspect(part) == first
    assert len(fake.proc.processes) == 1


async def test_a_removed_machine_leaves_nothing(fake: FakeHost) -> None:
    qemu, part = Qemu(fake.host), machine(fake)
    await qemu.ensure(part)
    await qemu.remove(part)
    assert not qemu.inspect(part).present
    assert not fake.paths.vm_run(VM).exists()
    await qemu.remove(part)


async def test_a_frozen_machine_is_seen_as_such_and_can_be_removed(fake: FakeHost) -> None:
    qemu, part = Qemu(fake.host), machine(fake)
    await qemu.ensure(part)
    assert qemu.signal(part, signal.SIGSTOP)
    assert qemu.inspect(part).frozen
    await qemu.remove(part)
    assert not qemu.inspect(part).present


async def test_a_process_whose_pid_was_never_written_down_is_found_by_another_daemon(fake: FakeHost) -> None:
    part = machine(fake)
    await Qemu(fake.host).ensure(part)
    record = fake.paths.vm_run(VM) / "vmm.json"
    record.write_text('{"version":1,"pid":0,"start":0}')
    later = Qemu(fake.host)
    assert later.inspect(part).pid == fake.proc.processes[0].id.pid
    await later.ensure(part)
    assert len(fake.proc.processes) == 1
    assert b'"pid":0' not in record.read_bytes()


async def test_a_lost_machine_is_found_on_a_full_disk_too(fake: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    qemu, part = Qemu(fake.host), machine(fake)
    await qemu.ensure(part)
    first = qemu.inspect(part)
    (fake.paths.vm_run(VM) / "vmm.json").write_text('{"version":1,"pid":0,"start":0}')

    def full(path: Path, data: bytes, **_: object) -> None:
        raise NoSpace(f"no space left for {path}")

    monkeypatch.setattr(fake.host.files, "write_atomic", full)
    assert Qemu(fake.host).inspect(part) == first


async def test_an_intention_without_a_process_is_no_machine(fake: FakeHost) -> None:
    qemu, part = Qemu(fake.host), machine(fake)
    fake.paths.vm_run(VM).mkdir(parents=True)
    (fake.paths.vm_run(VM) / "vmm.json").write_text('{"version":1,"pid":0,"start":0}')
    assert not qemu.inspect(part).present
    await qemu.remove(part)
    assert not fake.paths.vm_run(VM).exists()


async def test_a_vmm_that_ends_at_once_is_an_error_with_its_last_words(fake: FakeHost) -> None:
    fake.qemu.fails = "qemu: could not open \x1b[31mkernel"
    with pytest.raises(VmmFailed, match="ended at once: qemu: could not open kernel"):
        await Qemu(fake.host).ensure(machine(fake))


async def test_without_qemu_the_error_names_the_package(fake: FakeHost) -> None:
    del fake.proc.programs["qemu-system-x86_64"]
    with pytest.raises(HostLacks, match="qemu-system-x86"):
        await Qemu(fake.host).ensure(machine(fake))
    assert not fake.paths.vm_run(VM).exists()
    assert Qemu(fake.host).check()[0].packages == ("qemu-system-x86",)


async def test_the_end_of_a_machine_wakes_whoever_waits_for_it(fake: FakeHost) -> None:
    qemu, part = Qemu(fake.host), machine(fake)
    await qemu.gone(part)
    await qemu.ensure(part)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(qemu.gone(part))
        assert qemu.signal(part, signal.SIGKILL)
    assert not qemu.signal(part, signal.SIGKILL)


async def test_a_second_dial_replaces_the_first(fake: FakeHost) -> None:
    qemu, part = Qemu(fake.host), machine(fake)
    await qemu.ensure(part)
    first = await qemu.dial(part, timeout=5)
    second = await qemu.dial(part, timeout=5)
    async with asyncio.timeout(5):
        assert await first.read(1) == b""
    second.close()


async def test_nobody_answers_for_a_machine_that_is_not_there(fake: FakeHost) -> None:
    with pytest.raises(GuestFailed, match=r"agent\.sock"):
        await Qemu(fake.host).dial(machine(fake), timeout=5)


@pytest.mark.parametrize(("vcpu", "memory"), [(0, 256), (-1, 256), (65, 256), (1, 0), (1, 127), (1, 1 << 21)])
async def test_impossible_machines_are_refused(fake: FakeHost, vcpu: int, memory: int) -> None:
    part = machine(fake)
    with pytest.raises(BadRequest):
        Qemu(fake.host).plan(VM, vcpu=vcpu, memory_mib=memory, kernel="/k", initramfs="/i", disk=part.disk, nic=part.nic)


async def test_the_choice_of_the_accelerator_comes_with_its_reason(fake: FakeHost) -> None:
    assert machine(fake).reason == "QEMU with TCG: /dev/kvm is missing"
    assert [finding.level for finding in Qemu(fake.host).check()] == [Level.PASS, Level.WARN]
    fake.facts.has_kvm = Kvm(True, "/dev/kvm is usable")
    assert machine(fake).accelerator == "kvm"
    assert [finding.level for finding in Qemu(fake.host).check()] == [Level.PASS, Level.PASS]


async def test_another_architecture_is_refused_honestly(fake: FakeHost) -> None:
    fake.facts.machine = "aarch64"
    assert "x86_64" in Qemu(fake.host).usable()
    with pytest.raises(HostLacks, match="aarch64"):
        await Qemu(fake.host).ensure(machine(fake))


# --- disks


async def test_an_overlay_is_copied_from_a_blank_one_that_is_made_once(fake: FakeHost) -> None:
    disk = Overlay(fake.host)
    for vm in ("00000000000a", "00000000000b"):
        await disk.ensure(disk.plan(VmId(vm), base=Path("/base"), size=SIZE))
    assert len(fake.ext4.made) == 1
    for vm in ("00000000000a", "00000000000b"):
        assert fake.paths.overlay(VmId(vm)).stat().st_size == SIZE
        assert fake.paths.overlay(VmId(vm)).read_bytes()[:5] == b"blank"


async def test_what_a_machine_has_written_stays(fake: FakeHost) -> None:
    disk = Overlay(fake.host)
    part = disk.plan(VM, base=Path("/base"), size=SIZE)
    await disk.ensure(part)
    fake.paths.overlay(VM).write_bytes(b"mine")
    await disk.ensure(part)
    assert fake.paths.overlay(VM).read_bytes() == b"mine"
    await disk.remove(part)
    assert not disk.inspect(part).present
    assert not fake.paths.vm_state(VM).exists()
    await disk.remove(part)


async def test_half_a_copy_left_by_a_killed_daemon_is_made_anew(fake: FakeHost) -> None:
    disk = Overlay(fake.host)
    part = disk.plan(VM, base=Path("/base"), size=SIZE)
    fake.paths.vm_state(VM).mkdir(parents=True)
    fake.paths.overlay(VM).with_suffix(".new").write_bytes(b"half")
    assert not disk.inspect(part).present
    await disk.ensure(part)
    assert fake.paths.overlay(VM).stat().st_size == SIZE
    assert [path.name for path in fake.paths.vm_state(VM).iterdir()] == ["overlay.ext4"]


async def test_the_cache_may_be_deleted_and_is_filled_again(fake: FakeHost) -> None:
    disk = Overlay(fake.host)
    await disk.ensure(disk.plan(VmId("00000000000a"), base=Path("/base"), size=SIZE))
    fake.host.files.remove_tree(fake.paths.cache)
    await disk.ensure(disk.plan(VM, base=Path("/base"), size=SIZE))
    assert disk.inspect(disk.plan(VM, base=Path("/base"), size=SIZE)).present


async def test_many_at_once_share_one_blank(fake: FakeHost) -> None:
    disk = Overlay(fake.host)
    async with asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(disk.ensure(disk.plan(VmId(f"{number:012x}"), base=Path("/base"), size=SIZE)))
    assert [path.name for path in fake.paths.blank_overlay(SIZE).parent.iterdir()] == [f"{SIZE}.ext4"]


async def test_a_full_host_is_told_before_anything_is_made(fake: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake.host.files, "free_bytes", lambda path: 1 << 20)
    with pytest.raises(NoSpace, match=r"1M left"):
        await Overlay(fake.host).ensure(Overlay(fake.host).plan(VM, base=Path("/base"), size=SIZE))
    assert not fake.paths.overlay(VM).exists()


@pytest.mark.parametrize("size", [0, -1, SIZE - 4096, SIZE + 1, (16 << 40) + 4096])
async def test_impossible_disks_are_refused(fake: FakeHost, size: int) -> None:
    with pytest.raises(BadRequest):
        Overlay(fake.host).plan(VM, base=Path("/base"), size=size)


# --- networks


async def test_a_network_is_made_once_and_removed_without_a_trace(fake: FakeHost) -> None:
    user = User(fake.host)
    part = user.plan(VM, host_access=False, sockets=True)
    await user.ensure(part)
    await user.ensure(part)
    assert len(fake.proc.processes) == 1
    assert user.inspect(part).running
    await user.remove(part)
    assert not user.inspect(part).present
    assert not fake.paths.vm_run(VM).exists()
    await user.remove(part)


async def test_a_network_that_has_ended_is_made_again(fake: FakeHost) -> None:
    user = User(fake.host)
    part = user.plan(VM, host_access=False, sockets=True)
    await user.ensure(part)
    fake.proc.processes[0].end()
    assert not user.inspect(part).present
    await user.ensure(part)
    assert user.inspect(part).pid == fake.proc.processes[1].id.pid


async def test_a_host_without_a_default_route_gets_a_network_all_the_same(fake: FakeHost) -> None:
    seen: list[list[str]] = []

    async def sieve(command: object, cwd: Path | None) -> bytes:
        assert isinstance(command, list)
        seen.append(command)
        if "--interface" not in command:
            raise ToolFailed("failed", tail=("No external routable interface for IPv4", "External interface not usable"))
        return str(fake.proc.begin(command, cwd or Path()).id.pid).encode()

    name = next(name for name in fake.proc.commands if "python" in name)
    fake.proc.commands[name] = sieve
    user = User(fake.host)
    await user.ensure(user.plan(VM, host_access=False, sockets=True))
    assert len(seen) == 2
    assert seen[1][seen[1].index("--interface") + 1] == "lo"


def test_what_passt_says_is_told_without_its_chatter() -> None:
    error = explain(
        ToolFailed("python3 failed", tail=("Don't run as root. Changing to nobody...", "Invalid address", "Failed to send 3 bytes to syslog"))
    )
    assert str(error) == "passt failed: Invalid address"
    error = explain(ToolFailed("python3 failed", tail=("Don't run as root.", "a TAP in a namespace cannot be made: Operation not permitted")))
    assert str(error) == "a TAP in a namespace cannot be made: Operation not permitted"
    assert "--vmm qemu" in error.hint


async def test_without_passt_the_error_names_it_and_a_way_out(fake: FakeHost) -> None:
    del fake.proc.commands["passt"]
    user = User(fake.host)
    with pytest.raises(HostLacks, match="passt is not installed"):
        await user.ensure(user.plan(VM, host_access=False, sockets=True))
    assert (await user.check())[0].packages == ("passt",)


async def test_the_hosts_loopback_is_closed_unless_access_is_given(fake: FakeHost) -> None:
    closed, opened = (User(fake.host).plan(VM, host_access=access, sockets=True) for access in (False, True))
    assert "--no-map-gw" in passt_argv(closed)
    assert "--open" not in argv(closed)
    assert "--no-map-gw" not in passt_argv(opened)
    assert "--open" in argv(opened)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--address", "10.0.2.15"),
        ("--netmask", "24"),
        ("--gateway", "10.0.2.2"),
        ("--dns-forward", "10.0.2.3"),
        ("--mtu", "1500"),
        ("--tcp-ports", "none"),
        ("--udp-ports", "none"),
    ],
)
async def test_passt_is_told(fake: FakeHost, option: str, value: str) -> None:
    command = passt_argv(User(fake.host).plan(VM, host_access=False, sockets=True))
    assert command[command.index(option) + 1] == value


async def test_for_a_vmm_without_sockets_there_is_a_tap_in_the_sieves_namespaces(fake: FakeHost) -> None:
    user = User(fake.host)
    part = user.plan(VM, host_access=False, sockets=False)
    assert (part.tap, part.secluded) == ("tap0", True)
    words = argv(part)
    assert words[words.index("--tap") + 1] == "tap0"
    await user.ensure(part)
    assert User(fake.host).inspect(part).pid == fake.proc.processes[0].id.pid
    assert recorded(fake.proc, fake.host.files, fake.paths.network_process(VM)) == fake.proc.processes[0].id


@pytest.mark.parametrize("lack", ["no_tun", "no_namespaces"])
async def test_where_there_can_be_no_tap_nothing_is_started(fake: FakeHost, lack: str) -> None:
    setattr(fake.facts, lack, "this host does not let you")
    user = User(fake.host)
    with pytest.raises(HostLacks, match="does not let you"):
        await user.ensure(user.plan(VM, host_access=False, sockets=False))
    assert fake.proc.log == []
    await user.ensure(user.plan(VM, host_access=False, sockets=True))


def test_no_network_cannot_give_access_to_the_host() -> None:
    with pytest.raises(BadRequest):
        NoNetwork().plan(VM, host_access=True, sockets=True)
