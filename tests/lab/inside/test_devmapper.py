"""Disks by the kernel's device-mapper: what is written stays, nothing else does, whoever is killed and whenever.

Daemons that die while they create, start, stop or delete a machine with such a disk: tests/vm/test_ends_anywhere.py.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import traceback
from pathlib import Path

import pytest

from banger.host import loop
from banger.host.dm import Mapping, RealDm, node
from tests.inventory import take
from tests.world import SHELF, SLIM, World, alive, until

NAME = f"banger-{os.getpid():012x}"
MIB = 1 << 20
SIZE = 16 * MIB
#: So many calls of the kernel make a mapped disk.
CALLS = 11


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A base of 4 MiB, and an empty file for what is written."""
    (tmp_path / "base").write_bytes(b"base" * MIB)
    (tmp_path / "cow").touch()
    os.truncate(tmp_path / "cow", SIZE + 2 * MIB)
    return {"base": tmp_path / "base", "cow": tmp_path / "cow"}


def make(files: dict[str, Path], owner: int = 0) -> None:
    asyncio.run(RealDm(owner).make(Mapping(name=NAME, base=str(files["base"]), cow=str(files["cow"]), size=SIZE)))


def remove() -> None:
    asyncio.run(RealDm(0).remove(NAME))
    assert asyncio.run(RealDm(0).names()) == []
    assert not node(NAME).exists()
    until(lambda: not any(name.startswith(NAME) for name in loop.names()), "the end of the loop devices")


def test_what_is_written_is_kept_over_a_base_that_stays_as_it_is(files: dict[str, Path]) -> None:
    make(files, owner=1234)
    status = node(NAME).stat()
    assert (status.st_uid, status.st_mode & 0o777) == (1234, 0o600)
    with node(NAME).open("r+b", buffering=0) as device:
        assert device.seek(0, os.SEEK_END) == SIZE
        os.pwrite(device.fileno(), b"mine" * 1024, 4096)
        os.pwrite(device.fileno(), b"more" * 1024, 8 * MIB)
        os.fsync(device.fileno())
    remove()
    assert files["base"].read_bytes() == b"base" * MIB
    assert files["cow"].stat().st_blocks * 512 < 2 * MIB
    make(files)
    with node(NAME).open("rb", buffering=0) as device:
        found = [os.pread(device.fileno(), 4096, at) for at in (0, 4096, 8 * MIB, 12 * MIB)]
    assert found == [b"base" * 1024, b"mine" * 1024, b"more" * 1024, bytes(4096)]
    remove()


def killed_at(step: int, files: dict[str, Path]) -> int:
    """A maker that kills itself before one of its calls; its status."""
    maker = os.fork()
    if maker:
        return os.waitstatus_to_exitcode(os.waitpid(maker, 0)[1])
    left, real = iter(range(step - 1, -1, -1)), RealDm._call

    def call(self: RealDm, command: int, argument: bytearray) -> None:
        if next(left, None) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        real(self, command, argument)

    try:
        RealDm._call = call  # type: ignore[method-assign]
        make(files)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


@pytest.mark.parametrize("step", range(1, CALLS + 1))
def test_a_maker_that_is_killed_at_any_step_leaves_what_is_found_and_removed(files: dict[str, Path], step: int) -> None:
    before = take(files["base"].parent)
    assert killed_at(step, files) == -signal.SIGKILL
    remove()
    assert take(files["base"].parent).beyond(before) == {}
    assert killed_at(step, files) == -signal.SIGKILL
    make(files)
    remove()
    assert take(files["base"].parent).beyond(before) == {}


def test_there_are_no_more_steps_than_those(files: dict[str, Path]) -> None:
    assert killed_at(CALLS + 1, files) == 0
    remove()


def test_udev_does_not_look_into_a_guests_disk(files: dict[str, Path]) -> None:
    make(files)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-L", "a-guests-label", node(NAME)], check=True)
    remove()
    make(files)
    subprocess.run(["udevadm", "settle", "--timeout=30"], check=True)
    assert not Path("/dev/disk/by-label/a-guests-label").exists()
    remove()


# --- machines


@pytest.fixture
def mapped(world: World) -> World:
    """Whose machines have mapped disks."""
    world.env |= {"BANGER_DISK": "devmapper", "BANGER_DISK_SIZE": "1G"}
    return world


def maps(world: World) -> list[str]:
    """The maps that are there."""
    return sorted(take(world.root).maps)


def left_over(world: World) -> None:
    """The map of a machine that does not run, as whoever died has left it."""
    cow = world.state / "vms" / str(world.row("otter")["id"]) / "disk.cow"
    stale = Mapping(name=f"banger-{cow.parent.name}", base=str(SHELF / "images" / SLIM / "rootfs.ext4"), cow=str(cow), size=1 << 30)
    asyncio.run(RealDm(0).make(stale))


def test_a_disk_is_mapped_while_its_machine_runs_and_keeps_what_was_written(mapped: World) -> None:
    before = take(mapped.root)
    mapped.ok("vm", "create", "--name", "otter", "--no-start")
    vm = mapped.row("otter")["id"]
    assert maps(mapped) == []
    left_over(mapped)  # it is the machine's, and is used
    mapped.ok("vm", "start", "otter")
    assert maps(mapped) == [f"banger-{vm}", f"banger-{vm}-base"]
    mapped.ok("vm", "exec", "otter", "--", "sh", "-c", "grep -q '^/dev/vda / ext4 rw' /proc/mounts && echo mine > /root/kept")
    assert int(mapped.ok("vm", "exec", "otter", "--", "sh", "-c", "df -B1 / | awk 'END {print $2}'")) > 900 * MIB
    mapped.ok("vm", "stop", "otter")
    assert maps(mapped) == []
    assert 0 < int(str(mapped.row("otter")["disk_used_bytes"])) < 64 * MIB
    mapped.ok("vm", "start", "otter")
    assert mapped.ok("vm", "exec", "otter", "--", "cat", "/root/kept") == "mine\n"
    mapped.ok("vm", "stop", "otter")
    left_over(mapped)  # it goes when the next daemon begins
    mapped.kill_daemon()
    mapped.ok("vm", "list")
    assert maps(mapped) == []
    left_over(mapped)  # and with its machine
    mapped.ok("vm", "delete", "otter")
    found = take(mapped.root).beyond(before)
    assert {kind: found[kind] for kind in ("maps", "loops", "files", "mounts") if kind in found} == {}


def test_in_qemu_too_a_mapped_disk_keeps_what_was_written_and_goes_with_its_machine(mapped: World) -> None:
    before = take(mapped.root)
    mapped.ok("vm", "create", "--name", "otter", "--vmm", "qemu")
    row = mapped.row("otter")
    assert (row["vmm"], row["accelerator"], row["disk"], len(maps(mapped))) == ("qemu", "kvm", "devmapper", 2)
    mapped.ok("vm", "exec", "otter", "--", "sh", "-c", "grep -q '^/dev/vda / ext4 rw' /proc/mounts && echo mine > /root/kept")
    mapped.ok("vm", "stop", "otter")
    assert maps(mapped) == []
    mapped.ok("vm", "start", "otter")
    assert mapped.ok("vm", "exec", "otter", "--", "cat", "/root/kept") == "mine\n"
    mapped.ok("vm", "delete", "otter")
    found = take(mapped.root).beyond(before)
    assert {kind: found[kind] for kind in ("maps", "loops", "files", "mounts") if kind in found} == {}


def test_a_killed_machine_starts_again_with_what_it_had_synced_and_outlives_killed_daemons(mapped: World) -> None:
    mapped.ok("vm", "create", "--name", "otter")
    mapped.ok("vm", "exec", "otter", "--", "sh", "-c", "echo synced > /root/kept; sync; head -c 5000000 /dev/urandom > /root/not")
    mapped.ok("vm", "kill", "otter")
    until(lambda: maps(mapped) == [], "the end of the maps")
    mapped.ok("vm", "start", "otter")
    assert mapped.ok("vm", "exec", "otter", "--", "cat", "/root/kept") == "synced\n"
    assert "recovery" in mapped.ok("vm", "exec", "otter", "--", "dmesg")
    pid = int(str(mapped.row("otter")["pid"]))
    mapped.kill_daemon()
    assert mapped.ok("vm", "exec", "otter", "--", "echo", "here") == "here\n"
    mapped.kill_daemon()
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid), "the machine's end")
    assert len(maps(mapped)) == 2
    mapped.ok("vm", "list")
    assert maps(mapped) == []
    mapped.ok("vm", "start", "otter")


def test_doctor_says_that_disks_can_be_mapped(mapped: World) -> None:
    assert "disk devmapper" in mapped.banger("doctor").stdout.decode()
