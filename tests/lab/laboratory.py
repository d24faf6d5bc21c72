"""The lab machine: a machine of banger's own, whose emulated processor has AMD-V, so that KVM and Firecracker are real inside.

It is made, entered and read from with the CLI that is under test. Its image is built by banger from `ENTRY` and kept in `build/lab`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.lab import payload
from tests.world import ROOT, SLIM, World

NAME = "lab"
BOOT, BUILD, TESTS = 180.0, 900.0, 1500.0
ENTRY: dict[str, object] = {
    "source": "debian",
    "description": "the lab machine",
    "kernel": "debian-6.1",
    "suite": "bookworm",
    "variant": "minbase",
    "packages": ["systemd-sysv", "udev", "dbus", "python3", "python3-venv", "kmod", "e2fsprogs", "iproute2", "procps", "tmux"],
    "size_mib": 512,
}
#: The environment of the tests inside: what they are run with, and the VMM that they are about.
INSIDE = {
    "PATH": "/lab/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONPATH": "/lab/site",
    "PYTHONDONTWRITEBYTECODE": "1",
    "BANGER_LAB": "inside",
    "BANGER_REQUIRE": "all",
    "BANGER_TEST_SETTINGS": "vmm=firecracker network=none boot_timeout=120",
    "BANGER_TEST_IMAGES": SLIM,
}
#: What runs inside: tests of Firecracker's own, and those that hold for every VMM.
SELECTION = ("tests/lab/inside", "tests/vm/test_lifecycle.py")
#: Those that need an image with systemd, which the payload does not have (yet).
DESELECTED = ("test_powering_off_from_inside_stops_the_machine", "test_the_agent_stays_pid_1_only_where_the_image_has_no_init[debian-bookworm]")
PREPARE = """set -e
mkdir -p /payload /run/lab
mount -o ro LABEL=payload /payload
mount -t tmpfs tmpfs /run/lab
mkdir /run/lab/upper /run/lab/work /lab
mount -t overlay -o lowerdir=/payload,upperdir=/run/lab/upper,workdir=/run/lab/work overlay /lab
while read -r module; do insmod "/payload/$module"; done < /payload/modules
test -c /dev/kvm
"""


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
        commands.mkdir()
        (commands / "qemu-system-x86_64").symlink_to(ROOT / "tests" / "lab" / "processor.py")
        self.world.env |= {"PATH": f"{commands}{os.pathsep}{self.world.env['PATH']}", "LAB_PAYLOAD": str(self.disk)}

    def start(self) -> None:
        """Build what is missing, boot, and make KVM and the payload available inside."""
        self.world.ok("image", "pull", self.image, timeout=BUILD)
        self.disk.symlink_to(payload.disk())
        self.world.ok("vm", "create", "--name", NAME, "--image", self.image, "--network", "none", "--vcpu", "2", "--memory", "3G", timeout=BOOT)
        self.ok("sh", "-c", PREPARE)

    def run(self, *words: str, timeout: float = BOOT) -> subprocess.CompletedProcess[bytes]:
        """A command in the lab machine."""
        return self.world.banger("vm", "exec", NAME, "--", *words, timeout=timeout)

    def ok(self, *words: str, timeout: float = BOOT) -> str:
        """A command in the lab machine that must succeed; its output."""
        done = self.run(*words, timeout=timeout)
        assert done.returncode == 0, f"in the lab: {' '.join(words)}: {done.returncode}\n{done.stderr.decode()}\n{self.console()}"
        return done.stdout.decode()

    def pytest(self, *arguments: str) -> tuple[str, str]:
        """Run tests inside: what pytest printed, and its report (JUnit's XML; empty when there is none)."""
        command = ["python3", "-m", "pytest", "-p", "no:cacheprovider", "-q", "--durations=0", "--junitxml=/tmp/report.xml", *arguments]
        done = self.run("env", "-C", "/lab/banger", *(f"{name}={value}" for name, value in INSIDE.items()), *command, timeout=TESTS)
        report = self.run("cat", "/tmp/report.xml")
        return (done.stdout + done.stderr).decode("utf-8", "replace"), report.stdout.decode("utf-8", "replace") if report.returncode == 0 else ""

    def console(self) -> str:
        """The end of the lab machine's console."""
        return self.world.banger("vm", "logs", NAME).stdout.decode("utf-8", "replace")[-4000:]

    def close(self) -> None:
        """End it; what it leaves behind is a failure."""
        self.world.close()


def collected() -> list[str]:
    """The names of all tests that run inside, found here."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--collect-only", "-q", *SELECTION]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, env={**os.environ, "BANGER_LAB": "inside"}, check=True)
    return [line for line in done.stdout.splitlines() if "::" in line and not line.endswith(DESELECTED)]


def make() -> Lab:
    """A lab in a folder of its own with a short path."""
    return Lab(Path(tempfile.mkdtemp(prefix="banger-lab-", dir="/tmp")))
