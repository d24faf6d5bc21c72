"""The privileged helper and the daemon as services of systemd: an ordinary user has what needs root, and machines outlive both services."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.inventory import take
from tests.world import KERNEL, ROOT, SLIM, alive, until

ADA = "ada"
HOME = Path("/home/ada")
UNITS = ("banger-helper.socket", "banger-helper.service", "bangerd.service")
SETTINGS = f"""
vmm = "firecracker"
firecracker = "/payload/bin/firecracker"
network = "bridge"
default_image = "{SLIM}"
memory_mib = 256
vcpu = 1
boot_timeout = 120.0
log_level = "debug"
"""
CREATE = ("vm", "create", "--disk", "devmapper")


def command(*words: str, check: bool = True) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert not check or done.returncode == 0, f"{words}: {done.stderr}{done.stdout}"
    return done.stdout


def system(*words: str) -> str:
    """`banger system …` as root."""
    return command(sys.executable, "-P", "-m", "banger", "system", *words)


class Ada:
    """The user, and her own environment: not that of her daemon."""

    def __init__(self, runtime: Path) -> None:
        self.env = {"HOME": str(HOME), "PATH": os.environ["PATH"], "PYTHONPATH": os.environ["PYTHONPATH"], "XDG_RUNTIME_DIR": str(runtime)}

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        start = ("setpriv", f"--reuid={ADA}", f"--regid={ADA}", "--init-groups", sys.executable, "-P", "-m", "banger")
        return subprocess.run([*start, *words], env=self.env, cwd="/", capture_output=True, text=True, timeout=240, check=False)

    def ok(self, *words: str) -> str:
        done = self.run(*words)
        said = command("journalctl", "-n", "30", "--no-pager", "-u", "banger-helper", "-u", "bangerd", check=False)
        log = HOME / ".local/state/banger/bangerd.log"
        assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stderr}\n{said}\n{log.read_text()[-3000:] if log.exists() else ''}"
        return done.stdout

    def row(self, name: str) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.ok("vm", "show", name, "--json"))
        return found

    def settled(self) -> None:
        """Her commands reach the service's daemon: one that came between is replaced, too."""
        until(lambda: json.loads(self.ok("daemon", "status", "--json"))["pid"] == main_pid("bangerd.service"), "the service's daemon", 120)

    def boot_id(self, name: str) -> str:
        return self.ok("vm", "exec", name, "--", "cat", "/proc/sys/kernel/random/boot_id").strip()


@pytest.fixture(scope="module")
def user() -> Iterator[Path]:
    """An ordinary user who may use KVM, with an image and a kernel of her own."""
    command("useradd", "--create-home", "--groups", "kvm", ADA)
    state, config = HOME / ".local/state/banger", HOME / ".config/banger"
    config.mkdir(parents=True)
    for kind, name in (("images", SLIM), ("kernels", KERNEL)):
        (state / kind).mkdir(parents=True)
        command("cp", "-a", "--sparse=always", str(ROOT / "build" / kind / name), str(state / kind))
    (config / "config.toml").write_text(SETTINGS)
    command("chown", "-R", f"{ADA}:{ADA}", str(HOME))
    state.chmod(0o700)
    runtime = Path("/run/lab/ada")
    runtime.mkdir(mode=0o700)
    shutil.chown(runtime, ADA, ADA)
    yield runtime
    for pid in command("pgrep", "-u", ADA, check=False).split():
        os.kill(int(pid), signal.SIGKILL)
    until(lambda: not command("pgrep", "-u", ADA, check=False), "the end of her processes")
    shutil.rmtree(runtime)
    command("userdel", "--remove", ADA)


@pytest.fixture(scope="module")
def installed(user: Path) -> Iterator[Path]:
    """banger is installed for her; what is left after its removal is a failure."""
    before = take(HOME)
    system("install", "--owner", ADA)
    yield user
    system("uninstall")
    left = {kind: more for kind, more in take(HOME).beyond(before).items() if more and kind != "files"}
    assert left == {}


@pytest.fixture
def ada(installed: Path) -> Iterator[Ada]:
    """With the services at work; her machines end with the test."""
    made = Ada(installed)
    made.settled()
    yield made
    for row in json.loads(made.ok("vm", "list", "--json")):
        made.ok("vm", "delete", str(row["id"]))


def main_pid(unit: str) -> int:
    return int(command("systemctl", "show", "--property", "MainPID", "--value", unit))


def test_it_is_installed_once_and_says_how_it_stands(ada: Ada) -> None:
    assert command("systemctl", "is-active", UNITS[0], UNITS[2]).split() == ["active", "active"]
    ada.ok("daemon", "status")
    first = main_pid("bangerd.service")
    assert "systemctl restart" not in system("install", "--owner", ADA)
    assert main_pid("bangerd.service") == first
    found = json.loads(system("status", "--json"))
    assert (found["owner"], found["current"], found["units"]["bangerd.service"]) == (ADA, True, "active")
    socket = Path("/run/banger-helper/helper.sock").stat()
    assert (socket.st_uid, socket.st_mode & 0o777) == (pwd.getpwnam(ADA).pw_uid, 0o600)


def test_the_user_finds_the_services_daemon_and_the_helper(ada: Ada) -> None:
    assert json.loads(ada.ok("daemon", "status", "--json"))["pid"] == main_pid("bangerd.service")
    rows = {row["subject"]: row for row in json.loads(ada.run("doctor", "--json").stdout)}
    assert rows["privilege"] == rows["privilege"] | {"level": "PASS", "message": "the privileged helper serves this user"}
    status = Path(f"/proc/{main_pid('banger-helper.service')}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status


def test_the_service_takes_over_from_a_daemon_of_the_users_session(ada: Ada) -> None:
    ada.ok("daemon", "stop")
    own = json.loads(ada.ok("daemon", "status", "--json"))["pid"]
    command("systemctl", "restart", "bangerd.service")
    until(lambda: not alive(own), "the end of her own daemon")
    ada.settled()


def test_a_machine_with_bridge_and_mapped_disk_is_the_same_after_both_were_restarted_killed_uninstalled_and_installed_again(ada: Ada) -> None:
    ada.ok(*CREATE, "--name", "otter")
    row = ada.row("otter")
    assert (row["vmm"], row["network"]) == ("firecracker", "bridge")
    assert Path(f"/proc/{row['pid']}").stat().st_uid == pwd.getpwnam(ADA).pw_uid
    before = ada.boot_id("otter")
    command("systemctl", "restart", "bangerd.service", "banger-helper.service")
    assert ada.boot_id("otter") == before
    for unit in ("bangerd.service", "banger-helper.service"):
        first = main_pid(unit)
        os.kill(first, signal.SIGKILL)
        until(lambda unit=unit, first=first: main_pid(unit) not in (0, first), f"the next {unit}")  # type: ignore[misc]
    assert ada.boot_id("otter") == before
    command("ping", "-c", "1", "-W", "5", str(row["address"]).partition("/")[0])
    assert ada.row("otter")["pid"] == row["pid"]
    system("uninstall")
    assert not any(Path("/etc/systemd/system", unit).exists() for unit in UNITS)
    assert not Path("/usr/local/lib/banger-helper").exists()
    assert ada.boot_id("otter") == before
    system("install", "--owner", ADA)
    ada.settled()
    assert ada.row("otter")["pid"] == row["pid"]
    ada.ok("vm", "delete", "otter")
    assert not Path("/dev/banger", f"banger-{row['id']}").exists()


@pytest.fixture
def mortal(ada: Ada) -> Iterator[Path]:
    """Her helper dies where the file says that is yielded (see tests/mortal.py)."""
    code = Path("/usr/local/lib/banger-helper/__main__.py")
    usual = code.read_text()
    code.write_text((ROOT / "tests/mortal.py").read_text())
    command("systemctl", "restart", "banger-helper.service")
    yield HOME / ".local/state/banger/die"
    code.write_text(usual)
    command("systemctl", "restart", "banger-helper.service")


def test_a_helper_that_dies_at_work_is_noticed_by_nobody_and_one_that_is_away_is_told(ada: Ada, mortal: Path) -> None:
    before = take(HOME)
    for place, *words in (
        (12, *CREATE, "--name", "otter"),
        (3, "vm", "stop", "otter"),
        (5, "vm", "start", "otter"),
        (2, "vm", "set", "--no-nat", "otter"),
    ):
        mortal.write_text(str(place))
        ada.ok(*map(str, words))
        assert not mortal.exists(), f"the helper outlived {words}"
    assert ada.ok("vm", "exec", "otter", "--", "echo", "here") == "here\n"
    command("systemctl", "stop", "banger-helper.socket", "banger-helper.service")
    done = ada.run("vm", "delete", "otter")
    assert (done.returncode, "helper" in done.stderr) == (123, True), done.stderr
    assert "is tried again" in json.loads(ada.ok("vm", "list", "--json"))[0]["note"]
    mortal.write_text("4")
    command("systemctl", "start", "banger-helper.socket")
    until(lambda: json.loads(ada.ok("vm", "list", "--json")) == [], "the end of what was left over", 60)
    assert not mortal.exists(), "the helper outlived the deletion"
    left = {kind: more for kind, more in take(HOME).beyond(before).items() if kind not in ("processes", "sockets", "cgroups")}
    assert left == {}
