"""Firecracker behind its jailer, decided: the command, what is put into the jail, as whom, within which limits, and when not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from banger.backends.jailing import NO_NETWORK, Jailing, argv, inside, limits, user_of
from banger.backends.releases import Binaries
from banger.backends.vmm.firecracker import argv as plain
from banger.backends.vmm.firecracker import configuration
from banger.host.cgroup import Limits, RealCgroups
from banger.host.jail import Thing, belongs, mapped, mounts_below
from banger.model.config import Settings
from banger.model.errors import HostLacks
from banger.model.finding import Level
from banger.model.ids import VmId
from banger.model.releases import Binary
from banger.testing import FakeHost
from tests.unit.test_firecracker import PART, PATHS, VM

UID = 1879048192 + 0x0123456789AB % 268435454
BINARY = Binary(version="1.12.1", path="/usr/bin/firecracker", source="PATH", used=True, jailer="/usr/bin/jailer")
BEGINNING = ["/usr/bin/jailer", "--id", "banger-0123456789ab", "--exec-file", "/usr/bin/firecracker"]
USER = ["--uid", str(UID), "--gid", str(UID), "--chroot-base-dir", "/s/run/0123456789ab/jail"]
REST = ["--", "--api-sock", "api.sock", "--config-file", "machine.json", "--level", "Warning"]


@pytest.mark.parametrize(
    ("cgroup", "netns", "more"),
    [
        ("", "", []),
        ("banger/banger-0123456789ab", "", ["--cgroup-version", "2", "--parent-cgroup", "banger/banger-0123456789ab"]),
        ("", "/proc/7/ns/net", ["--netns", "/proc/7/ns/net"]),
        ("banger/x", "/n", ["--cgroup-version", "2", "--parent-cgroup", "banger/x", "--netns", "/n"]),
    ],
)
def test_the_jailers_command(cgroup: str, netns: str, more: list[str]) -> None:
    words = plain(PART, "/usr/bin/firecracker")
    found = argv(words, jailer="/usr/bin/jailer", uid=UID, base=PATHS.vm_run(VM) / "jail", cgroup=cgroup, netns=netns)
    assert found == [*BEGINNING, *USER, *more, *REST]


def test_where_there_is_no_network_there_is_not_even_the_hosts() -> None:
    words = plain(PART, "/usr/bin/firecracker")
    found = argv(words, jailer="/usr/bin/jailer", uid=UID, base=PATHS.vm_run(VM) / "jail", netns=NO_NETWORK)
    assert found == ["unshare", "--net", "--", *BEGINNING, *USER, *REST]


def test_nothing_ever_turns_seccomp_off_or_hides_the_process() -> None:
    words = argv(plain(PART, "/fc/firecracker"), jailer="/j", uid=UID, base=Path("/b"))
    assert not {"--no-seccomp", "--seccomp-filter", "--daemonize", "--new-pid-ns"} & set(words)


def test_the_machine_is_the_same_with_its_files_where_the_jail_has_them() -> None:
    outside = configuration(PART, PATHS)
    found, things = inside(outside)
    assert (found.boot_source.kernel_image_path, found.boot_source.initrd_path) == ("/kernel", "/initramfs")
    assert found.boot_source.boot_args == outside.boot_source.boot_args
    assert [(drive.path_on_host, drive.is_read_only) for drive in found.drives] == [("/lower", True), ("/upper", False)]
    assert (found.machine_config, found.vsock) == (outside.machine_config, outside.vsock)
    assert things == (
        Thing(name="kernel", source="/kernels/vmlinux", read_only=True),
        Thing(name="initramfs", source="/cache/a.cpio", read_only=True),
        Thing(name="lower", source="/images/rootfs.ext4", read_only=True),
        Thing(name="upper", source="/s/vms/0123456789ab/overlay.ext4", read_only=False),
    )


@pytest.mark.parametrize(
    ("vcpu", "mib", "expected"),
    [
        (1, 128, Limits(memory_bytes=(128 + 64 + 2) << 20, cpus=2.0, pids=17)),
        (4, 8192, Limits(memory_bytes=(8192 + 64 + 128) << 20, cpus=5.0, pids=20)),
    ],
)
def test_the_limits_leave_room_for_the_vmm(vcpu: int, mib: int, expected: Limits) -> None:
    assert limits(vcpu, mib) == expected


def test_the_user_is_computed_and_in_the_range() -> None:
    assert user_of(VM, Settings()) == UID
    assert user_of(VM, Settings(jail_uid_first=100_000), "bgr-x-17") == 100_017
    assert user_of(VM, Settings(), "tap0") == UID
    few = Settings(jail_uid_first=100_000, jail_uid_count=10)
    assert {user_of(VmId(f"{number:012x}"), few) for number in range(1000)} == set(range(100_000, 100_010))


def able(root: Path, settings: Settings | None = None) -> FakeHost:
    """Root's host with Firecracker and its jailer."""
    fake = FakeHost(root, settings)
    fake.jails.missing, fake.facts.superuser = "", True
    fake.proc.answers["jailer"] = "Jailer v1.12.1\n"
    fake.proc.programs["jailer"] = lambda process: None
    return fake


def jailing(fake: FakeHost) -> Jailing:
    return Jailing(fake.host, Binaries(fake.host))


def with_path(path: str) -> Binary:
    return Binary(version="1.12.1", path=path, source="setting", used=True, jailer="/usr/bin/jailer")


def test_root_with_a_jailer_uses_it(tmp_path: Path) -> None:
    fake = able(tmp_path)
    assert jailing(fake).lack(BINARY) == ""
    assert jailing(fake).wanted(BINARY)
    (row,) = jailing(fake).check(BINARY)
    assert (row.level, row.message) == (Level.PASS, "/usr/bin/jailer, users 1879048192 to 2147483645")
    fake.cgroups.missing = "cgroup v2 is not mounted"
    (row,) = jailing(fake).check(BINARY)
    assert (row.level, row.message) == (Level.WARN, "/usr/bin/jailer, without limits: cgroup v2 is not mounted")


@pytest.mark.parametrize(
    ("said", "path", "says"),
    [
        ("Jailer v1.13.0\n", "/usr/bin/firecracker", "the jailer at /usr/bin/jailer is of version 1.13.0, not 1.12.1"),
        ("", "/usr/bin/firecracker", "is of version unknown, not 1.12.1"),
        ("Jailer v1.12.1\n", "/usr/bin/fc", "the jailer starts nothing that is called fc"),
    ],
)
def test_a_jailer_that_does_not_fit_is_not_used(tmp_path: Path, said: str, path: str, says: str) -> None:
    fake = able(tmp_path)
    fake.proc.answers["jailer"] = said
    assert says in jailing(fake).lack(with_path(path))
    assert jailing(fake).check(with_path(path))[0].level is Level.WARN


@pytest.mark.parametrize(
    ("setting", "root", "wanted", "level"),
    [
        ("auto", True, False, Level.WARN),
        ("auto", False, False, Level.PASS),
        ("no", True, False, Level.PASS),
        ("yes", True, None, Level.FAIL),
        ("yes", False, None, Level.FAIL),
    ],
)
def test_where_there_can_be_none(tmp_path: Path, setting: str, root: bool, wanted: bool | None, level: Level) -> None:
    fake = able(tmp_path, Settings(jailer=setting))
    fake.jails.missing, fake.facts.superuser = "no jails today", root
    found = jailing(fake)
    if wanted is None:
        with pytest.raises(HostLacks, match="no jails today"):
            found.wanted(BINARY)
    else:
        assert found.wanted(BINARY) is wanted
    assert found.check(BINARY)[0].level is level


async def test_a_jail_is_made_and_all_of_it_removed(tmp_path: Path) -> None:
    fake = able(tmp_path)
    found, things = inside(configuration(PART, fake.paths))
    prison = jailing(fake)
    words = prison.ensure(VM, plain(PART, BINARY.path), things, limits(2, 512), BINARY)
    root = fake.paths.vm_run(VM) / "jail" / "firecracker" / "banger-0123456789ab" / "root"
    assert prison.place(VM) == root
    assert prison.owner(VM) == UID
    assert words[words.index("--parent-cgroup") :][:2] == ["--parent-cgroup", "banger/banger-0123456789ab"]
    assert list(fake.cgroups.groups) == ["banger-0123456789ab"]
    overlay = found.drives[1].drive_id == "upper" and fake.paths.overlay(VM)
    assert fake.jails.given == {overlay: UID}
    for _ in range(2):
        await prison.remove(VM, "banger-0123456789ab", [str(fake.paths.overlay(VM))])
        assert prison.place(VM) == fake.paths.vm_run(VM)
        assert prison.owner(VM) == -1
        assert (fake.cgroups.groups, fake.jails.given) == ({}, {})


async def test_a_host_without_limits_still_has_jails(tmp_path: Path) -> None:
    fake = able(tmp_path)
    fake.cgroups.missing = "cgroup v2 is not mounted"
    words = jailing(fake).ensure(VM, plain(PART, BINARY.path), (), limits(2, 512), BINARY)
    assert "--parent-cgroup" not in words
    assert fake.cgroups.groups == {}


def test_two_machines_never_share_a_user(tmp_path: Path) -> None:
    fake = able(tmp_path, Settings(jail_uid_count=1))
    prison = jailing(fake)
    prison.ensure(VM, plain(PART, BINARY.path), (), limits(1, 128), BINARY)
    with pytest.raises(HostLacks, match="the user 1879048192 has a machine already"):
        prison.ensure(VmId("ba9876543210"), ["/usr/bin/firecracker", "--id", "banger-ba9876543210"], (), limits(1, 128), BINARY)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("         0          0 4294967295\n", True),
        ("         0     100000      65536\n", False),
        ("0 0 1\n1879048192 5 268435454\n", True),
        ("0 0 1\n1879048192 5 268435453\n", False),
        ("", False),
    ],
)
def test_users_that_do_not_exist_in_this_namespace_are_none(text: str, good: bool) -> None:
    assert mapped(text, 1879048192, 2147483645) is good


@pytest.mark.parametrize(
    ("line", "whose"),
    [
        ("otter:x:1000:1000:,,,:/home/otter:/bin/sh", ""),
        ("otter:x:2000:100:,,,:/home/otter:/bin/sh", "otter"),
        ("otter:x:3000:1000::/:/bin/sh", "otter"),
        ("otter:x:3001:2000::/:/bin/sh", ""),
        ("otters:x:2500:a,b", "otters"),
        ("otter:1000:1000", ""),
        ("otter:1000:1001", "otter"),
        ("otter:3000:65536", "otter"),
        ("otter:3001:65536", ""),
        ("otter:x:", ""),
        ("", ""),
        ("nonsense", ""),
    ],
)
def test_users_that_somebody_has_are_not_free(line: str, whose: str) -> None:
    assert belongs(f"root:x:0:0::/:/bin/sh\n{line}\n", 2000, 3000) == whose


def test_mounts_are_undone_from_the_inside_out_and_only_ours() -> None:
    text = (
        "1 0 8:1 / / rw - ext4 /dev/x rw\n"
        "2 1 8:1 /k /s/run/a/jail/root/kernel ro - ext4 /dev/x rw\n"
        "3 1 8:1 /k /s/run/a/jail ro - ext4 /dev/x rw\n"
        "4 1 8:1 /k /s/run/a/jail/with\\040blank ro - ext4 /dev/x rw\n"
        "5 1 8:1 /k /s/run/a/jailhouse ro - ext4 /dev/x rw\n"
        "6 1 8:1 /k /s/run/b/jail/root/kernel ro - ext4 /dev/x rw\n"
    )
    assert mounts_below(text, Path("/s/run/a/jail")) == ["/s/run/a/jail/root/kernel", "/s/run/a/jail/with blank", "/s/run/a/jail"]


@pytest.mark.parametrize(
    ("mounts", "controllers", "says"),
    [
        ("x / ext4 rw 0 0\n", "", "cgroup v2 is not mounted"),
        ("c {top} cgroup2 rw 0 0\n", "hugetlb", "cgroup v2 has no controllers for cpu, memory, pids"),
        ("c {top} cgroup2 rw 0 0\n", "cpu io memory pids", ""),
    ],
)
def test_where_there_are_no_limits_is_said(tmp_path: Path, mounts: str, controllers: str, says: str) -> None:
    (tmp_path / "cgroup.controllers").write_text(f"{controllers}\n")
    (tmp_path / "cgroup.subtree_control").write_text("")
    (tmp_path / "mounts").write_text(mounts.format(top=tmp_path))
    assert RealCgroups(tmp_path / "mounts").lack() == says


@pytest.mark.parametrize(("given", "processes", "good"), [("", "", True), ("", "1\n", False), ("cpu memory pids", "1\n", True), ("cpu", "1\n", False)])
def test_a_containers_top_can_be_divided_only_where_nobody_is_in_it(tmp_path: Path, given: str, processes: str, good: bool) -> None:
    for name, text in (("controllers", "cpu memory pids"), ("subtree_control", given), ("procs", processes), ("events", "populated 1\n")):
        (tmp_path / f"cgroup.{name}").write_text(text)
    (tmp_path / "mounts").write_text(f"c {tmp_path} cgroup2 rw 0 0\n")
    assert ("has processes of its own" in RealCgroups(tmp_path / "mounts").lack()) is not good
