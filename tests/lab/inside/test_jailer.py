"""Firecracker behind the real jailer: whose it is, what it sees, what it may take; and that nothing of a jail is left, whoever dies when.

Without it: test_firecracker.py.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.inventory import Inventory, take
from tests.world import World, alive, until

FIRST, COUNT = 1879048192, 268435454
#: What Firecracker sees: what banger puts there, and what the jailer makes.
SEEN = {
    "kernel",
    "initramfs",
    "lower",
    "upper",
    "machine.json",
    "metrics.pipe",
    "api.sock",
    "vsock.sock",
    "firecracker",
    "firecracker.pid",
    "dev",
    "run",
}


class Jailed:
    """A running machine called otter, and its VMM's process."""

    def __init__(self, world: World) -> None:
        self.world, self.before = world, take(world.root)
        world.ok("vm", "create", "--name", "otter")
        self.row = world.row("otter")
        self.pid, self.id = int(str(self.row["pid"])), str(self.row["id"])
        self.folder = world.state / "run" / self.id

    def status(self) -> dict[str, str]:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def left(self) -> dict[str, list[str]]:
        """What is there beyond what was before the machine, but for the machine's own lasting files and the daemon."""
        return beyond(self.before, self.world)


def beyond(before: Inventory, world: World) -> dict[str, list[str]]:
    found = take(world.root).beyond(before)
    mine = ("state/banger/vms/", "state/banger/run/")
    kept = {kind: [each for each in more if not (kind == "files" and each.startswith(mine[0]))] for kind, more in found.items()}
    daemon = ("bangerd", "banger.bangerd")
    kept = {kind: [each for each in more if not any(word in each for word in daemon)] for kind, more in kept.items()}
    return {kind: more for kind, more in kept.items() if more}


@pytest.fixture(scope="module")
def resting() -> Iterator[Jailed]:
    """One that is only looked at."""
    folder = Path(tempfile.mkdtemp(prefix="banger-test-", dir="/tmp"))
    world = World(folder)
    world.ok("vm", "list")
    yield Jailed(world)
    world.close()
    shutil.rmtree(folder)


@pytest.fixture
def otter(world: World) -> Jailed:
    world.ok("vm", "list")  # the daemon is there already, so it is not counted as left over
    return Jailed(world)


def test_it_runs_as_a_user_of_its_own_without_rights(resting: Jailed) -> None:
    status = resting.status()
    uid = FIRST + int(resting.id, 16) % COUNT
    assert status["Uid"].split() == status["Gid"].split() == [str(uid)] * 4
    assert status["Groups"] == ""
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert all(Path(f"/proc/{resting.pid}/task/{task}/status").read_text().count("Seccomp:\t2") for task in os.listdir(f"/proc/{resting.pid}/task"))


def test_it_sees_its_jail_and_nothing_else_of_the_host(resting: Jailed) -> None:
    root = Path(f"/proc/{resting.pid}/root")
    assert {path.name for path in root.iterdir()} == SEEN
    assert {path.name for path in (root / "dev").iterdir()} <= {"kvm", "net", "urandom", "userfaultfd"}
    inside = [line.split()[4] for line in Path(f"/proc/{resting.pid}/mountinfo").read_text().splitlines()]
    assert set(inside) <= {"/", "/kernel", "/initramfs", "/lower", "/upper"}
    assert os.readlink(f"/proc/{resting.pid}/cwd") == os.readlink(root)
    jail = next((resting.folder / "jail").glob("*/*/root"))
    uid = FIRST + int(resting.id, 16) % COUNT
    assert jail.stat().st_uid == uid
    assert [(path.name, path.stat().st_uid) for path in sorted(jail.glob("[klu][eop]*"))] == [("kernel", 0), ("lower", 0), ("upper", uid)]
    assert all(not path.stat().st_mode & 0o022 for path in jail.rglob("*") if not path.is_symlink())


def test_with_no_network_it_is_in_a_namespace_without_any(resting: Jailed) -> None:
    assert os.readlink(f"/proc/{resting.pid}/ns/net") != os.readlink("/proc/self/ns/net")
    links = [line.partition(":")[0].strip() for line in Path(f"/proc/{resting.pid}/net/dev").read_text().splitlines()[2:]]
    assert links == ["lo"]


def test_with_the_network_user_it_is_where_its_tap_is(world: World) -> None:
    world.ok("vm", "list")
    before = take(world.root)
    world.ok("vm", "create", "--name", "otter", "--network", "user")
    pid = world.row("otter")["pid"]
    links = [line.partition(":")[0].strip() for line in Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]]
    assert "tap0" in links
    assert Path(f"/proc/{pid}/status").read_text().count("Seccomp:\t2")
    assert len(os.listdir(f"/proc/{pid}/root/")) == len(SEEN)
    assert "10.0.2.15" in world.ok("vm", "exec", "otter", "--", "cat", "/proc/net/fib_trie")
    world.ok("vm", "delete", "otter")
    until(lambda: beyond(before, world) == {}, f"the end of {beyond(before, world)}")


def test_it_may_not_take_more_than_its_limits(resting: Jailed) -> None:
    group = Path(f"/proc/{resting.pid}/cgroup").read_text().strip().rpartition("::")[2]
    assert group == f"/banger/banger-{resting.id}"
    place = Path(f"/sys/fs/cgroup{group}")
    assert place.joinpath("memory.max").read_text().strip() == str((256 + 64 + 256 // 64) << 20)
    assert place.joinpath("cpu.max").read_text().strip() == "200000 100000"
    assert place.joinpath("pids.max").read_text().strip() == "17"
    found = {int(pid): os.readlink(f"/proc/{pid}/exe") if pid == str(resting.pid) else "" for pid in place.joinpath("cgroup.procs").read_text().split()}
    assert found.pop(resting.pid).endswith("/firecracker")
    assert all(Path(f"/proc/{pid}/cmdline").read_bytes() == b"" for pid in found), "only the kernel's own threads are there, too"


def test_all_of_it_works_stop_leaves_nothing_but_the_disk_and_delete_nothing(otter: Jailed) -> None:
    world = otter.world
    assert world.ok("vm", "exec", "otter", "--", "sh", "-c", "echo kept > /kept; sync; echo to-the-console > /dev/ttyS0; id -u") == "0\n"
    until(lambda: "to-the-console" in world.ok("vm", "logs", "otter"), "the console")
    world.ok("vm", "stop", "otter")
    assert not Path(f"/proc/{otter.pid}").exists()
    assert not any(complaint in world.log() for complaint in ("is forced", "cannot power off"))
    assert not otter.folder.exists()
    assert otter.left() == {}
    overlay = world.state / "vms" / otter.id / "overlay.ext4"
    assert overlay.stat().st_uid == 0
    world.ok("vm", "start", "otter")
    assert world.ok("vm", "exec", "otter", "--", "cat", "/kept") == "kept\n"
    assert overlay.stat().st_uid != 0
    world.ok("vm", "delete", "otter")
    assert take(world.root).beyond(otter.before) == {}


def test_however_it_is_killed_nothing_is_left_but_the_disk(otter: Jailed) -> None:
    def gone() -> None:
        until(lambda: not otter.folder.exists(), "the end of its folder")
        until(lambda: otter.left() == {}, f"the end of {otter.left()}")

    otter.world.ok("vm", "kill", "otter")
    gone()
    otter.world.ok("vm", "start", "otter")
    os.kill(int(str(otter.world.row("otter")["pid"])), signal.SIGKILL)
    gone()


def test_a_daemon_that_died_finds_it_again_in_its_jail(otter: Jailed) -> None:
    world = otter.world
    world.ok("vm", "exec", "otter", "--", "sh", "-c", "echo same > /run/same")
    world.kill_daemon()
    (otter.folder / "vmm.json").write_text(json.dumps({"version": 1, "pid": 0, "start": 0}))  # as if it had died before it could write it down
    world.ok("vm", "list")
    assert world.row("otter")["pid"] == otter.pid
    assert world.ok("vm", "exec", "otter", "--", "cat", "/run/same") == "same\n"
    world.kill_daemon()
    os.kill(otter.pid, signal.SIGKILL)
    until(lambda: not alive(otter.pid), "its end")
    world.ok("vm", "list")
    until(lambda: otter.left() == {}, f"the end of {otter.left()}")
    world.ok("vm", "start", "otter")
    assert world.ok("vm", "exec", "otter", "--", "echo", "again") == "again\n"


def test_a_daemon_that_dies_while_it_starts_leaves_nothing(world: World) -> None:
    """Held before the jailer does anything, and when Firecracker runs but has not answered."""
    before = take(world.root)
    for stage in ("jailer", "firecracker"):
        dies(world, stage)
        until(lambda: beyond(before, world) == {}, f"the end of {beyond(before, world)}")
        assert take(world.root).beyond(before).get("files", []) == []
        world.kill_daemon()  # it knows the usual jailer
    world.ok("vm", "create", "--name", "otter")
    world.ok("vm", "delete", "otter")


def dies(world: World, stage: str) -> None:
    """The daemon, at that stage of a start; the next one serves."""
    real = shutil.which("jailer")
    assert real is not None
    gate = world.root / stage / "jailer"
    gate.parent.mkdir()
    reached, fifo = gate.with_name("reached"), gate.with_name("fifo")
    os.mkfifo(fifo)
    hold = f': > {reached}; read -r go < {fifo}; exec {real} "$@"' if stage == "jailer" else f': > {reached}; exec {real} "$@"'
    gate.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exec {real} --version\n{hold}\n')
    gate.chmod(0o755)
    world.env["BANGER_JAILER_PATH"] = str(gate)
    world.ok("vm", "list")
    with world.begin("vm", "create", "--name", "otter") as creating:
        until(reached.exists, "the jailer")
        world.kill_daemon()
        creating.communicate(timeout=60)
    world.env.pop("BANGER_JAILER_PATH")
    world.ok("vm", "list")
    shutil.rmtree(gate.parent)


def test_what_a_hostile_vmm_could_do_to_its_jail_does_not_lead_out(otter: Jailed) -> None:
    """A VMM that was taken over may replace all that lies in its root: the daemon follows no link there, and removes nothing elsewhere."""
    world, jail = otter.world, next((otter.folder / "jail").glob("*/*/root"))
    precious = world.root / "precious"
    precious.mkdir()
    (precious / "file").write_text("here")
    for name in ("api.sock", "vsock.sock", "upper"):
        (jail / name).unlink()
        (jail / name).symlink_to(world.socket if name != "upper" else precious / "file")
    (jail / "away").symlink_to(precious)
    world.kill_daemon()
    world.ok("vm", "list")
    done = world.banger("vm", "exec", "otter", "--", "true")
    assert done.returncode == 124, done.stderr.decode()
    world.ok("vm", "delete", "otter")
    assert (precious / "file").read_text() == "here"
    assert (precious / "file").stat().st_uid == 0
    shutil.rmtree(precious)


def test_with_it_or_not_at_all(world: World) -> None:
    world.env |= {"BANGER_JAILER": "yes", "BANGER_JAILER_PATH": "/nowhere/jailer"}
    done = world.banger("vm", "create", "--name", "otter")
    assert done.returncode == 123
    assert b"the jailer is not installed" in done.stderr


def test_doctor_says_where_machines_run(world: World) -> None:
    found = {row["subject"]: row for row in json.loads(world.banger("doctor", "--json").stdout)}
    assert found["jailer"]["level"] == "PASS", found["jailer"]
    assert found["jailer"]["message"].endswith("/bin/jailer, users 1879048192 to 2147483645")


def test_its_tap_on_the_bridge_is_its_own(world: World) -> None:
    world.ok("vm", "list")
    before = take(world.root)
    world.ok("vm", "create", "--name", "otter", "--network", "bridge")
    row = world.row("otter")
    uid = FIRST + int(str(row["address"]).partition("/")[0].rpartition(".")[2])
    taps = [path for path in Path("/sys/class/net").glob("bgr-*") if (path / "carrier").read_text().strip() == "1"]
    assert [(path / "owner").read_text().strip() for path in taps] == [str(uid)]
    assert Path(f"/proc/{row['pid']}/status").read_text().count(f"Uid:\t{uid}")
    with pytest.raises(ConnectionRefusedError):  # the guest's own answer: nobody listens there
        socket.create_connection((str(row["address"]).partition("/")[0], 9), timeout=20)
    world.ok("vm", "delete", "otter")
    until(lambda: not [path for path in Path("/sys/class/net").glob("bgr-*") if (path / "carrier").read_text().strip() == "1"], "the end of its TAP")
    assert beyond(before, world).keys() <= {"links", "routes", "tables"}, "what the network keeps ready is tested elsewhere"
