"""Facts of this host."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from banger.host.facts import RealFacts
from banger.host.kernel import Kernel, read_distribution, read_kernel, version_of


@pytest.mark.skipif(platform.machine() != "x86_64", reason="a processor with a time stamp counter")
def test_the_rate_of_the_counter_is_measured_alike_each_time() -> None:
    first, second = RealFacts().tsc_khz(), RealFacts().tsc_khz()
    assert 100_000 < first < 10_000_000
    assert abs(first - second) < first / 1000


def test_the_host_has_processors_and_memory() -> None:
    facts = RealFacts()
    assert facts.cpus() >= 1
    assert facts.memory_mib() > 100


def test_kvm_without_a_device_or_an_extension_is_not_usable_and_says_why() -> None:
    kvm = RealFacts().kvm()
    has_flag = any({"vmx", "svm"} & set(line.split()) for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    assert kvm.reason
    assert not kvm.usable or (has_flag and Path("/dev/kvm").exists())


# --- of a made-up host


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


UNIFIED = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nodev,noexec,relatime,nsdelegate{} 0 0\nproc /proc proc rw 0 0\n"
FLAGS = "processor\t: 0\nflags\t\t: fpu svm{}\n\nprocessor\t: 1\nflags\t\t: fpu\n"


def test_a_kernel_is_read_from_what_it_shows(tmp_path: Path) -> None:
    files = {
        "proc/mounts": UNIFIED.format(",favordynmods"),
        "proc/sys/kernel/osrelease": "6.1.0-32-amd64\n",
        "proc/cpuinfo": FLAGS.format(" hypervisor"),
        "sys/module/kvm/parameters/nx_huge_pages": "never\n",
        "sys/module/kvm_amd/parameters/nested": "1\n",
        "sys/devices/system/cpu/vulnerabilities/itlb_multihit": "Not affected\n",
    }
    assert read_kernel(tree(tmp_path, files)) == Kernel(
        version=(6, 1), cgroup=2, favordynmods=True, nx_huge_pages="never", itlb_multihit="Not affected", virtual=True, nested=True
    )


def test_a_host_that_shows_nothing_is_no_crash(tmp_path: Path) -> None:
    assert read_kernel(tmp_path) == Kernel()
    assert read_kernel(tree(tmp_path, {"proc/mounts": "x\n\n", "proc/cpuinfo": "flags", "proc/sys/kernel/osrelease": "6.x"})) == Kernel()


@pytest.mark.parametrize(
    ("mounts", "version"),
    [
        (UNIFIED.format(""), 2),
        ("tmpfs /sys/fs/cgroup tmpfs ro 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n", 1),
        ("proc /proc proc rw 0 0\n", 0),
    ],
)
def test_control_groups_are_of_a_version(tmp_path: Path, mounts: str, version: int) -> None:
    assert read_kernel(tree(tmp_path, {"proc/mounts": mounts})).cgroup == version


@pytest.mark.parametrize("release", ["6.1.0-32-amd64", "6.1", "6.1-rc3"])
def test_a_release_begins_with_its_version(release: str) -> None:
    assert version_of(release) == (6, 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('PRETTY_NAME="Debian"\nID=debian\n', ("debian",)),
        ("ID=ubuntu\nID_LIKE=debian\n", ("ubuntu", "debian")),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', ("rocky", "rhel", "centos", "fedora")),
        ("# ID=x\nnonsense\n", ("linux",)),
        ("", ("linux",)),
    ],
)
def test_a_distribution_says_what_it_is_and_what_it_is_like(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    assert read_distribution(tree(tmp_path, {"usr/lib/os-release": text})) == words


def test_the_file_of_the_administrator_wins(tmp_path: Path) -> None:
    assert read_distribution(tree(tmp_path, {"usr/lib/os-release": "ID=a\n", "etc/os-release": "ID=b\n"})) == ("b",)


def test_this_host_has_a_kernel_and_a_distribution() -> None:
    assert RealFacts().kernel().version >= (4, 0)
    assert RealFacts().distribution()


def test_taps_and_user_namespaces_are_there_or_it_is_said_why() -> None:
    facts = RealFacts()
    assert (facts.tun() == "") == os.access("/dev/net/tun", os.R_OK | os.W_OK)
    assert facts.user_namespaces() == ""


def test_where_user_namespaces_are_forbidden_it_is_said() -> None:
    script = "echo 0 > /proc/sys/user/max_user_namespaces && exec " + shlex.join(
        [sys.executable, "-c", "from banger.host.facts import RealFacts; print(RealFacts().user_namespaces())"]
    )
    done = subprocess.run(["unshare", "--user", "--map-root-user", "sh", "-c", script], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.startswith("this host does not let this user make user namespaces: unshare: unshare failed")
