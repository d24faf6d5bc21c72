"""The lab machine: a machine of banger's own, whose emulated processor has AMD-V, so that KVM and Firecracker are real inside.

It is made, entered and read from with the CLI. Its image is built by banger from `ENTRY`; that and the payload are kept in `payload.PLACE`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.conformance import LAB_TARGETS
from tests.lab import luggage, payload
from tests.world import ROOT, SHELF, World, fill_shelf, shelved

NAME = "lab"
BOOT, BUILD, TESTS = 240.0, 900.0, 2400.0
MEMORY = "5G"
ENTRY: dict[str, object] = {
    "source": "debian",
    "description": "the lab machine",
    "kernel": "debian-6.1",
    "suite": "bookworm",
    "variant": "minbase",
    "packages": [
        *("systemd-sysv", "udev", "dbus", "systemd-resolved", "kmod", "procps", "passwd", "uidmap", "ca-certificates"),
        *("python3", "python3-venv", "tmux", "strace", "rsync", "openssh-client"),
        *("e2fsprogs", "btrfs-progs", "dmsetup", "iproute2", "iputils-ping", "nftables", "passt", "qemu-system-x86"),
    ],
    "size_mib": 1024,
}
#: The environment of the tests inside: what they are run with, and the VMM that they are about.
INSIDE = {
    "PATH": "/payload/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONPATH": "/lab/banger/src:/payload/site",
    "BANGER_LAB": "inside",
    "BANGER_REQUIRE": "all",
    "BANGER_TEST_SETTINGS": LAB_TARGETS["Firecracker"],
    "BANGER_TEST_IMAGES": " ".join(shelved()),
}
#: Where coverage is measured: each Python process of banger's writes a file of its own.
MEASURED = {"PYTHONPATH": f"/lab/banger/tests/lab/measured:{INSIDE['PYTHONPATH']}", "COVERAGE_PROCESS_START": "/lab/banger/pyproject.toml"}
COVERAGE = (
    "cd /lab/banger && python3 -m coverage combine -q && python3 -m coverage report --format=text --skip-empty && cp .coverage /tmp/coverage.sqlite"
)
#: Tests that hold for every VMM, and are left out for want of time, by target: what they look at is the daemon's or the guest's, and the same whatever
#: drives it. On Firecracker they run in the lab machine, on QEMU outside of it.
LEFT_OUT = {
    "QEMU+KVM": frozenset(
        {
            "test_a_vmm_that_was_killed_behind_our_back_is_noticed_and_its_machine_starts_again",
            "test_a_vmm_that_died_while_no_daemon_ran_is_shown_as_stopped",
            "test_a_frozen_vmm_makes_nobody_else_wait",
            "test_a_guest_that_does_not_power_off_is_forced_in_time_and_keeps_its_files",
            "test_powering_off_from_inside_stops_the_machine",
            "test_prune_deletes_what_does_not_run",
            "test_a_taken_name_is_refused_and_a_deleted_id_is_gone",
            "test_the_agent_stays_pid_1_only_where_the_image_has_no_init",
            "test_status_and_bytes_pass_both_ways",
            "test_scp_rsync_and_sftp_carry_files_both_ways",
            "test_a_guest_reaches_the_internet_and_names_but_not_the_hosts_loopback[a resolver on the host's loopback]",
            "test_with_access_the_gateway_is_the_hosts_loopback",
        }
    )
}
#: Loaded at once; others are loaded by the kernel when they are asked for.
MODULES = (
    "kvm_amd",
    "tun",
    "loop",
    "dm_mod",
    "dm_snapshot",
    "vhost_vsock",
    "btrfs",
    "bridge",
    "veth",
    "nf_tables",
    "nft_chain_nat",
    "nft_ct",
    "nft_masq",
    "nft_nat",
    "nft_reject_inet",
)
#: Processes use all but processor 0. Whenever another restores its FPU, QEMU 7.2 (cpu_clear_ignne) changes processor 0's flags from that one's thread,
#: and may undo what processor 0 just did: were KVM to use it, it would lose AMD-V's GIF, or have it when it must not, and Linux stand still or panic.
PROCESSORS = 3
PREPARE = f"""set -e
test "$(nproc)" = {PROCESSORS - 1}
mkdir -p /payload /run/lab /lab/banger/build /lib/modules
mount -o ro LABEL=payload /payload
mount -t tmpfs tmpfs /run/lab
mkdir /run/lab/upper /run/lab/work
mount -t overlay -o lowerdir=/payload/build,upperdir=/run/lab/upper,workdir=/run/lab/work overlay /lab/banger/build
ln -sfn /lab/banger/build/kernels/debian-6.1/modules "/lib/modules/$(uname -r)"
depmod
modprobe -a {" ".join(MODULES)}
test -c /dev/kvm
test -c /dev/mapper/control
"""
UNPACK = "rm -rf /lab/banger/src /lab/banger/tests /lab/banger/bench; tar -C /lab/banger -xzf -"


class Lab:
    """One lab machine, below `root`."""

    def __init__(self, root: Path) -> None:
        entry = ENTRY | {"name": f"banger-lab-{payload.digest(words=[json.dumps(ENTRY)])}"}
        self.image = str(entry["name"])
        catalog = payload.PLACE / "catalog"
        catalog.mkdir(parents=True, exist_ok=True)
        (catalog / "images.json").write_text(json.dumps({"version": 1, "entries": [entry]}))
        self.world = World(root, catalog=str(catalog), images_dir=str(payload.PLACE / "images"), boot_timeout=str(BOOT), kvm="no", vmm="qemu")
        self.disk = root / "payload.ext4"
        commands = root / "bin"
        commands.mkdir(exist_ok=True)
        processor = commands / "qemu-system-x86_64"
        if not processor.exists():
            processor.write_bytes((ROOT / "tests" / "lab" / "processor.py").read_bytes())
            processor.chmod(0o755)
        self.world.env |= {"PATH": f"{commands}{os.pathsep}{self.world.env['PATH']}", "LAB_PAYLOAD": str(self.disk)}

    def start(self) -> None:
        """Build what is missing, boot, and make KVM and the payload available inside."""
        fill_shelf()
        self.world.ok("image", "pull", self.image, timeout=BUILD)
        self.disk.unlink(missing_ok=True)
        self.disk.symlink_to(payload.disk())
        asked = ("--network", "user", "--vcpu", str(PROCESSORS), "--memory", MEMORY, "--disk-size", "16G")
        self.world.ok("vm", "create", "--name", NAME, "--image", self.image, *asked, timeout=BOOT)
        self.prepare()

    def prepare(self) -> None:
        """What each boot needs."""
        self.ok("sh", "-c", PREPARE)
        self.ok("python3", "-c", (ROOT / "tests" / "lab" / "anchor.py").read_text())

    def cut_power(self) -> None:
        """End it as a power cut does, and boot it again; what it had not written to its disk is lost."""
        self.world.ok("vm", "kill", NAME)
        self.world.ok("vm", "start", NAME, timeout=BOOT)
        self.prepare()

    def run(self, *words: str, data: bytes = b"", timeout: float = BOOT) -> subprocess.CompletedProcess[bytes]:
        """A command in the lab machine."""
        return self.world.banger("vm", "exec", *(("-i",) if data else ()), NAME, "--", *words, data=data, timeout=timeout)

    def ok(self, *words: str, data: bytes = b"", timeout: float = BOOT) -> str:
        """A command in the lab machine that must succeed; its output."""
        done = self.run(*words, data=data, timeout=timeout)
        assert done.returncode == 0, f"in the lab: {' '.join(words)}: {done.returncode}\n{done.stderr.decode()}\n{self.console()}"
        return done.stdout.decode()

    def bring(self, source: Path) -> None:
        """The checkout's tests, and its code from below `source`."""
        self.ok("sh", "-c", UNPACK, data=luggage.packed(source))

    def pytest(self, *arguments: str, target: str, measured: bool) -> tuple[str, str]:
        """Run tests inside: what pytest printed, and its report (JUnit's XML; empty when there is none). Measuring coverage takes time."""
        place = f"/tmp/{target}.xml"
        self.run("rm", "-f", place)
        more = {"BANGER_TEST_SETTINGS": LAB_TARGETS[target], **(MEASURED if measured else {})}
        done = self.run(*pytest_command("-q", "--durations=0", f"--junitxml={place}", *arguments, more=more), timeout=TESTS)
        report = self.run("cat", place)
        return (done.stdout + done.stderr).decode("utf-8", "replace"), report.stdout.decode("utf-8", "replace") if report.returncode == 0 else ""

    def keep_coverage(self) -> str:
        """Bring the coverage of all runs back, as `build/lab.coverage`, and say what it is."""
        said = self.ok(*environment({}), "sh", "-c", COVERAGE)
        data = self.run("cat", "/tmp/coverage.sqlite").stdout
        (SHELF / "lab.coverage").write_bytes(data)
        return said

    def console(self) -> str:
        """The end of the lab machine's console."""
        return self.world.banger("vm", "logs", NAME).stdout.decode("utf-8", "replace")[-12000:]

    def close(self) -> None:
        """End it; what it leaves behind is a failure."""
        self.world.close()


def environment(more: Mapping[str, str]) -> list[str]:
    """The beginning of a command inside: where it runs, and what it is told."""
    return ["env", "-C", "/lab/banger", *(f"{name}={value}" for name, value in (INSIDE | dict(more)).items())]


def pytest_command(*arguments: str, more: Mapping[str, str] | None = None) -> list[str]:
    """A command inside that runs tests."""
    return [*environment(more or {}), "python3", "-m", "pytest", "-p", "no:cacheprovider", *arguments]


def collected(*selection: str) -> list[str]:
    """The names of tests that run inside, found here."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--collect-only", "-q", *selection]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, env={**os.environ, "BANGER_LAB": "inside"}, check=True)
    return [line for line in done.stdout.splitlines() if "::" in line]


def left_out(target: str, name: str) -> bool:
    """Whether a test that holds for every VMM is not run on this one (see `LEFT_OUT`)."""
    test = name.partition("::")[2]
    return not LEFT_OUT.get(target, frozenset()).isdisjoint({test, test.partition("[")[0]})


def make() -> Lab:
    """A lab in a folder of its own with a short path."""
    return Lab(Path(tempfile.mkdtemp(prefix="banger-lab-", dir="/tmp")))
