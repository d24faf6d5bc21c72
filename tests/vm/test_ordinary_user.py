"""Everything from nothing as an ordinary user: image and kernel made, a machine booted with a network, and nothing left where it does not belong.

The user is made for this file and removed after it, with the home, the processes and the runtime folder.
"""

from __future__ import annotations

import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import banger
from tests.world import SLIM, alive, until

PUBLIC = [Path(place) for place in ("/tmp", "/var/tmp", "/dev/shm", "/run", "/var/lock", "/home", "/var/crash")]
#: What Debian gives an ordinary user: no folder for system programs in it.
SEARCH = "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def imported(name: str) -> set[Path]:
    """What is installed for a distribution to run, of all that it requires: folders and files that are imported."""
    found: set[Path] = set()
    waiting, seen = [name], set()
    while waiting:
        seen.add(one := waiting.pop())
        for text in metadata.requires(one) or []:
            requirement = Requirement(text)
            if requirement.name not in seen and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
                waiting.append(requirement.name)
        files = metadata.files(one) or [] if one != name else []
        found |= {Path(str(file.locate())).parents[len(file.parts) - 1] / file.parts[0] for file in files if file.suffix in (".py", ".so")}
    return found


class User:
    """A throw-away user with a copy of banger and what it imports; `banger` runs as that user, as after a login."""

    def __init__(self) -> None:
        self.name = f"banger-{secrets.token_hex(3)}"
        number = str(20_000 + secrets.randbelow(30_000))  # one whose files are nobody else's leftovers
        subprocess.run(["useradd", "--uid", number, "--create-home", "--shell", "/bin/sh", self.name], check=True, capture_output=True)
        record = pwd.getpwnam(self.name)
        self.uid, self.gid, self.home = record.pw_uid, record.pw_gid, Path(record.pw_dir)
        for place in (Path(banger.__file__).parent, *imported("banger")):
            if place.is_dir():
                shutil.copytree(place, self.home / "lib" / place.name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(place, self.home / "lib")
        for path in (self.home / "lib", *(self.home / "lib").rglob("*")):
            os.chown(path, self.uid, self.gid)
        self.environ = {"HOME": str(self.home), "USER": self.name, "LOGNAME": self.name, "SHELL": "/bin/sh", "PATH": SEARCH, "TERM": "dumb"}
        self.environ |= {"PYTHONPATH": str(self.home / "lib"), "BANGER_DEFAULT_IMAGE": SLIM, "BANGER_MEMORY_MIB": "256", "BANGER_VCPU": "1"}
        self.python = self._python()
        self.before = self.files()

    @property
    def runtime(self) -> Path:
        """Where sockets are when there is no XDG_RUNTIME_DIR."""
        return Path(f"/tmp/banger-runtime-{self.uid}")

    def command(self, *words: str) -> list[str]:
        """A command as this user. setpriv itself would still find it with root's eyes: `env` looks for it without."""
        return ["setpriv", f"--reuid={self.uid}", f"--regid={self.gid}", "--init-groups", "--inh-caps=-all", "env", *words]

    def _python(self) -> str:
        """An interpreter of our version that the user may run; ours may be in somebody's home."""
        version = f"3.{sys.version_info.minor}"
        for path in (sys.executable, "/usr/bin/python3", f"/usr/bin/python{version}"):
            script = "import sys; print('.'.join(map(str, sys.version_info[:2])))"
            if subprocess.run(self.command(path, "-c", script), env=self.environ, capture_output=True, check=False).stdout.decode().strip() == version:
                return path
        pytest.skip(f"an ordinary user has no Python {version} on this host")

    def banger(self, *words: str, data: bytes = b"", seconds: float = 600) -> subprocess.CompletedProcess[bytes]:
        """Run the CLI to its end."""
        command = self.command(self.python, "-P", "-m", "banger", *words)
        return subprocess.run(command, env=self.environ, cwd=self.home, input=data, capture_output=True, timeout=seconds, check=False)

    def processes(self) -> dict[int, str]:
        """The user's processes, and those of the user's range of ids."""
        found = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with suppress(OSError):
                    owner = folder.stat().st_uid
                    if (owner == self.uid or owner in self.range()) and alive(int(folder.name)):
                        found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        return found

    def range(self) -> range:
        """The subordinate ids."""
        for line in Path("/etc/subuid").read_text().splitlines():
            name, first, count = line.split(":")
            if name == self.name:
                return range(int(first), int(first) + int(count))
        pytest.skip(f"useradd gave {self.name} no subordinate ids: /etc/login.defs of this host asks for none")

    def files(self) -> list[Path]:
        """What belongs to the user in the places where everybody may write, but for the home and the runtime folder."""
        found = []
        for place in PUBLIC:
            for folder, folders, files in os.walk(place):
                folders[:] = [name for name in folders if Path(folder, name) not in (self.home, self.runtime)]
                for path in (Path(folder, name) for name in (*folders, *files)):
                    with suppress(OSError):
                        owner = path.lstat().st_uid
                        found += [path] if owner == self.uid or owner in self.range() else []
        return found

    def close(self) -> None:
        """Remove all of it."""
        while left := self.processes():
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        subprocess.run(["userdel", "--remove", self.name], capture_output=True, check=True)
        shutil.rmtree(self.runtime, ignore_errors=True)


@pytest.fixture(scope="module")
def user() -> Iterator[User]:
    """One user for this file; the first test makes image and kernel for the others."""
    if os.geteuid() != 0:
        pytest.skip("root is needed to make a user")
    made = User()
    yield made
    made.close()


def test_the_first_command_makes_all_that_is_missing_and_gives_a_machine_with_a_network(user: User) -> None:
    script = "id -u; cat /proc/sys/kernel/osrelease; ls /sys/class/net; stat -c '%u %a' / /root /usr/bin/su"
    done = user.banger("vm", "run", "--rm", "--", "sh", "-c", script)
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    uid, kernel, *rest = done.stdout.decode().split("\n")
    assert uid == "0"
    assert kernel.startswith("6.1.")
    assert len(set(rest[:2]) - {"lo"}) == 1
    assert rest[2:5] == ["0 755", "0 700", "0 4755"]
    assert b"make image" in done.stderr


def test_the_second_command_takes_seconds(user: User) -> None:
    began = time.monotonic()
    done = user.banger("vm", "run", "--rm", "--", "sh", "-c", "read line; echo $line; exit 3", data=b"typed\n")
    assert (done.returncode, done.stdout) == (3, b"typed\n")
    assert time.monotonic() - began < 30


def test_machines_live_stop_and_start(user: User) -> None:
    assert user.banger("vm", "run", "-d", "--name", "otter").returncode == 0
    assert user.banger("vm", "exec", "otter", "--", "sh", "-c", "echo kept > /root/file").returncode == 0
    assert user.banger("vm", "stop", "otter").returncode == 0
    assert user.banger("vm", "start", "otter").returncode == 0
    assert user.banger("vm", "exec", "otter", "--", "cat", "/root/file").stdout == b"kept\n"
    assert user.banger("vm", "delete", "otter").returncode == 0


def test_doctor_finds_nothing_that_fails(user: User) -> None:
    done = user.banger("doctor", "--json")
    assert done.returncode == 0, done.stdout.decode()
    assert [row for row in json.loads(done.stdout) if row["level"] == "FAIL"] == []


def test_nothing_needs_privilege(user: User) -> None:
    """Whatever runs for a machine, runs as the user (or the user's range of ids), with no capability in our namespace."""
    assert user.banger("vm", "run", "-d", "--name", "otter").returncode == 0
    try:
        found = user.processes()
        assert {"qemu", "passt", "bangerd"} <= {part for part in ("qemu", "passt", "bangerd") for words in found.values() if part in words}
        for pid in found:
            status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            ours = Path(f"/proc/{pid}/ns/user").readlink() == Path("/proc/self/ns/user").readlink()
            assert not ours or int(status["CapEff"], 16) == 0, found[pid]
    finally:
        assert user.banger("vm", "delete", "otter").returncode == 0


def test_nothing_is_left_but_in_the_home(user: User) -> None:
    assert user.banger("daemon", "stop").returncode == 0
    until(lambda: user.processes() == {}, "the end of all processes")
    assert user.files() == user.before
    assert [path for path in user.runtime.rglob("*") if not path.is_dir() and path.name not in ("bangerd.sock",)] == []
    state = user.home / ".local/state/banger"
    assert list((state / "vms").iterdir()) == []
    assert {path.name for path in (state / "images").iterdir()} == {SLIM}
