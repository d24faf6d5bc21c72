"""A banger of its own for a test or a benchmark: private state, cache, sockets and settings; images shared by all in the checkout's `build` folder.

`close` deletes what is left, stops the daemon, and says what should not be there: a process that names our folders, or a file beyond the daemon's own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from banger.client import Client
from banger.host.ext4 import has_journal

ROOT = Path(__file__).resolve().parent.parent
SHELF = ROOT / "build"
GOLDEN, SLIM, KERNEL = "debian-bookworm", "debian-bookworm-slim", "debian-6.1"
PATIENCE = 120.0


def everywhere() -> dict[str, str]:
    """Settings for every world of this run, from `BANGER_TEST_SETTINGS` (`vmm=firecracker network=none`): so the same tests run on another VMM."""
    return dict(word.split("=", 1) for word in os.environ.get("BANGER_TEST_SETTINGS", "").split())


def shelved() -> tuple[str, ...]:
    """The images that the tests use, or as many of them as `BANGER_TEST_IMAGES` has."""
    return tuple(os.environ.get("BANGER_TEST_IMAGES", f"{SLIM} {GOLDEN}").split())


class World:
    """One isolated banger below `root`."""

    def __init__(self, root: Path, prefix: tuple[str, ...] = (), **settings: str) -> None:
        self.root, self.prefix = root, prefix
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(("BANGER_", "XDG_", "COLUMNS", "NO_COLOR"))}
        for variable, folder in (("STATE_HOME", "state"), ("CACHE_HOME", "cache"), ("RUNTIME_DIR", "run"), ("CONFIG_HOME", "config")):
            (root / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
            self.env[f"XDG_{variable}"] = str(root / folder)
        self.env |= {"BANGER_IMAGES_DIR": str(SHELF / "images"), "BANGER_KERNELS_DIR": str(SHELF / "kernels"), "BANGER_DEFAULT_IMAGE": SLIM}
        self.env |= {"BANGER_MEMORY_MIB": "256", "BANGER_VCPU": "1", "BANGER_LOG_LEVEL": "debug", "BANGER_DNS_PORT": "0", "BANGER_SHORT_NAMES": "no"}
        self.env |= {f"BANGER_{name.upper()}": value for name, value in (everywhere() | settings).items()}

    @property
    def state(self) -> Path:
        """banger's state folder."""
        return self.root / "state" / "banger"

    @property
    def run(self) -> Path:
        """banger's run folder."""
        return self.root / "run" / "banger"

    @property
    def socket(self) -> Path:
        """The daemon's socket."""
        return self.run / "bangerd.sock"

    def command(self, *arguments: str) -> list[str]:
        """The CLI's command line."""
        return [*self.prefix, sys.executable, "-P", "-m", "banger", *arguments]

    def banger(self, *arguments: str, data: bytes = b"", timeout: float = PATIENCE) -> subprocess.CompletedProcess[bytes]:
        """Run the CLI to its end, whatever its status."""
        return subprocess.run(self.command(*arguments), env=self.env, input=data, capture_output=True, timeout=timeout, check=False)

    def ok(self, *arguments: str, data: bytes = b"", timeout: float = PATIENCE) -> str:
        """Run the CLI, expecting success; its stdout."""
        done = self.banger(*arguments, data=data, timeout=timeout)
        assert done.returncode == 0, f"banger {' '.join(arguments)}: {done.returncode}\n{done.stderr.decode()}\n{self.log()[-4000:]}"
        return done.stdout.decode()

    def begin(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start the CLI and leave it running."""
        return subprocess.Popen(self.command(*arguments), env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def client(self) -> Client:
        """Calls to this world's daemon, which must be running."""
        return Client(str(self.socket), start=False)

    def row(self, name: str) -> dict[str, object]:
        """What `vm show` says."""
        found = self.client().call("vm.show", vm=name)
        assert isinstance(found, dict)
        return found

    def rows(self) -> list[dict[str, object]]:
        """What `vm list` says."""
        found = self.client().call("vm.list")
        assert isinstance(found, list)
        return found

    def log(self) -> str:
        """The daemon's log."""
        path = self.state / "bangerd.log"
        return path.read_text() if path.exists() else ""

    def daemon_pid(self) -> int:
        """The daemon's pid."""
        found = self.client().call("daemon.status")
        assert isinstance(found, dict)
        return int(found["pid"])

    def kill_daemon(self) -> None:
        """SIGKILL, and wait until it is gone."""
        pid = self.daemon_pid()
        os.kill(pid, signal.SIGKILL)
        until(lambda: not alive(pid), "the daemon's end")

    def processes(self) -> dict[int, str]:
        """Every process that names this world's folders on its command line or works in one of them, but for ourselves."""
        found = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit() and int(folder.name) != os.getpid():
                with suppress(OSError):
                    words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                    if str(self.root) in words or str(folder.joinpath("cwd").readlink()).startswith(str(self.root)):
                        found[int(folder.name)] = words
        return found

    def machine_files(self) -> list[str]:
        """What lies in the machines' folders, lasting and volatile."""
        return sorted(str(path.relative_to(self.root)) for folder in (self.state / "vms", self.state / "run") for path in folder.rglob("*"))

    def close(self) -> None:
        """Delete all machines, stop the daemon; AssertionError if anything is left."""
        try:
            if self.socket.exists():
                self._end()
        finally:
            left = self.processes()
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        assert not left, f"processes were left over: {left}"
        assert self.machine_files() == [], "files of machines were left over"

    def _end(self) -> None:
        client = Client(str(self.socket), start=False)
        self._delete_all(client)
        pid = self.daemon_pid()
        client.call("daemon.stop", force=True)
        until(lambda: not alive(pid), "the daemon's end")

    def _delete_all(self, client: Client) -> None:
        rows = client.call("vm.list")
        assert isinstance(rows, list)
        for row in rows:
            client.call("vm.delete", vm=row["id"])


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition: Callable[[], object], what: str, seconds: float = 30.0, *, instead: Callable[[], object] = str) -> None:
    """Wait for something that has no event of its own; AssertionError names it when it does not come, and says what there is instead."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {seconds:g} s: {instead()}"
        time.sleep(0.01)


def fill_shelf() -> None:
    """Make the images that the tests use, with banger itself, unless they are there; a checkout keeps them in `build`."""
    missing = [name for name in shelved() if not journalled(SHELF / "images" / name / "rootfs.ext4")]
    if not missing:
        return
    world = World(SHELF / "world")
    try:
        for name in missing:
            world.ok("image", "pull", "--force", name, timeout=900)
    finally:
        world.close()


def journalled(image: Path) -> bool:
    """Whether an image is there and of the kind that banger makes now: one that disks can be cloned from."""
    if not image.with_name("manifest.json").exists():
        return False
    return has_journal(image)


def each_event(lines: Iterator[Mapping[str, object]]) -> Iterator[dict[str, object]]:
    """The events of an operation's stream."""
    for line in lines:
        event = line.get("event")
        if isinstance(event, dict):
            yield event
