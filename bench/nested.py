"""Figures that are taken in the lab machine, where Firecracker is: `python -m bench.nested [NAME…]` prints them, or those named, as JSON. `bench.lab`
calls it from outside."""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from pathlib import Path

import msgspec

from banger.model.errors import BangerError
from bench.bare import greet
from bench.measure import RUNS, Figure, in_turn, seconds
from bench.network import connecting
from tests.inventory import take
from tests.world import KERNEL, SHELF, SLIM, World

CROWD = 20
PORT = 1024
CORES = len(os.sched_getaffinity(0))


def create(here: World, name: str, memory: int = 128) -> float:
    """Seconds from the request to an agent that has answered; without the command line's own start."""

    def run() -> None:
        for line in here.client().stream("vm.create", name=name, memory_mib=memory):
            assert "error" not in line, line

    return seconds(run)


def attempt(here: World, name: str) -> None:
    """Create one of many; what fails is told and counted, the others go on."""
    try:
        create(here, name)
    except BangerError as error:
        print(f"{name}: {error}", file=sys.stderr)


def delete(here: World, name: str) -> float:
    """Seconds."""
    return seconds(lambda: here.client().call("vm.delete", vm=name))


class Bare:
    """The same machine by Firecracker's own command line: same kernel, initramfs, disks and arguments, no network."""

    def __init__(self, here: World) -> None:
        row = here.row("first")
        said = next((here.state / "run" / str(row["id"])).rglob("machine.json")).read_text()
        self.found: dict[str, object] = json.loads(said)
        self.files = {
            "kernel": SHELF / "kernels" / KERNEL / "vmlinux",
            "initramfs": next((here.root / "cache" / "banger" / "initramfs").glob("*.cpio")),
            "lower": SHELF / "images" / SLIM / "rootfs.ext4",
            "upper": next((here.root / "cache" / "banger" / "overlay").iterdir()),
        }

    def boot(self) -> float:
        """Seconds from its start to the agent's first frame."""
        with tempfile.TemporaryDirectory(prefix="banger-bare-", dir="/tmp") as name:
            folder = Path(name)
            subprocess.run(["cp", "--sparse=always", self.files["upper"], folder / "upper.ext4"], check=True)
            (folder / "machine.json").write_text(json.dumps(self.configuration(folder)))
            command = ["firecracker", "--api-sock", "api.sock", "--config-file", "machine.json", "--level", "Warning"]
            begin = time.perf_counter()
            with (folder / "said").open("wb") as said:
                process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
            try:
                greet(dial(folder / "vsock.sock", process))
                return time.perf_counter() - begin
            finally:
                process.kill()
                process.wait()

    def configuration(self, folder: Path) -> Mapping[str, object]:
        """What banger's own machine has, with the files where they are; but for the metrics, which need a reader."""
        boot, drives = self.found["boot-source"], self.found["drives"]
        assert isinstance(boot, dict)
        assert isinstance(drives, list)
        places = {"lower": str(self.files["lower"]), "upper": str(folder / "upper.ext4")}
        kept = {name: value for name, value in self.found.items() if name != "metrics"}
        return kept | {
            "boot-source": boot | {"kernel_image_path": str(self.files["kernel"]), "initrd_path": str(self.files["initramfs"])},
            "drives": [drive | {"path_on_host": places[drive["drive_id"]]} for drive in drives],
        }


def dial(path: Path, process: subprocess.Popen[bytes]) -> socket.socket:
    """Firecracker's vsock socket, once the agent listens at its port; AssertionError when Firecracker ends before, with what it said."""
    while True:
        assert process.poll() is None, f"Firecracker ended: {path.with_name('said').read_text()[-2000:]}"
        channel = socket.socket(socket.AF_UNIX)
        with suppress(OSError):
            channel.connect(str(path))
            channel.sendall(f"CONNECT {PORT}\n".encode())
            if channel.recv(64).startswith(b"OK"):
                return channel
        channel.close()
        time.sleep(0.005)


def one(here: World) -> Iterator[Figure]:
    """A machine and its end."""
    bare, ends = Bare(here), list[float]()
    delete(here, "first")

    def ours() -> float:
        taken = create(here, "otter")
        ends.append(delete(here, "otter"))
        return taken

    mine, theirs = in_turn(ours, bare.boot)
    yield Figure(name="firecracker: create to ready", ours=mine, baseline=theirs, unit="s", against="bare Firecracker to the first frame", bound=1.2)
    yield Figure(name="firecracker: delete", ours=statistics.median(ends), baseline=0, unit="s", against="absolute", bound=0.3)


def alone(here: World) -> list[float]:
    """Seconds of boots with nothing else going on."""
    taken = []
    for _ in range(RUNS):
        taken.append(create(here, "otter"))
        delete(here, "otter")
    return taken


def crowd(here: World) -> Iterator[Figure]:
    """Many at once; their end, one after the other; and what is left. What a boot takes alone is timed before and after: a host's pace changes."""
    before, boots = take(here.root), alone(here)
    names = [f"vm-{number}" for number in range(CROWD)]
    with ThreadPoolExecutor(CROWD) as pool:
        wall = seconds(lambda: list(pool.map(lambda name: attempt(here, name), names)))
    running = sum(row["state"] == "running" for row in here.rows())
    yield Figure(name=f"firecracker: {CROWD} at once, run", ours=running, baseline=0, unit="", against="absolute", bound=CROWD, at_most=False, runs=1)
    ends = [delete(here, str(row["name"])) for row in here.rows()]
    yield Figure(name="firecracker: delete, the slowest", ours=max(ends), baseline=0, unit="s", against="absolute", bound=0.3, runs=CROWD)
    left = take(here.root).beyond(before)
    print(left, file=sys.stderr)
    total = CROWD * statistics.median([*boots, *alone(here)]) / CORES
    yield Figure(name=f"firecracker: {CROWD} at once", ours=wall, baseline=total, unit="s", against="boots alone / cores", bound=1.3, runs=1)
    yield Figure(name="firecracker: left on the host", ours=sum(map(len, left.values())), baseline=0, unit="", against="inventory", bound=0, runs=1)


def firecracker() -> Iterator[Figure]:
    """One machine, then many, of a banger of this benchmark's own."""
    with tempfile.TemporaryDirectory(prefix="banger-bench-", dir="/tmp") as folder:
        here = World(Path(folder), boot_timeout="300", network="none")
        try:
            here.ok("vm", "create", "--name", "first", "--memory", "128M")
            yield from one(here)
            yield from crowd(here)
        finally:
            here.close()


BENCHMARKS = {"network": connecting, "firecracker": firecracker}


def main() -> None:
    """Print those that are named, or all."""
    figures = []
    for figure in chain.from_iterable(BENCHMARKS[name]() for name in sys.argv[1:] or BENCHMARKS):
        print(figure, file=sys.stderr, flush=True)
        figures.append(figure)
    sys.stdout.buffer.write(msgspec.json.encode(figures) + b"\n")


if __name__ == "__main__":
    main()
