"""`python -m bench`: every promised number, measured, as one table and as JSON (bench.json). Exit status 1 when a bound is missed."""

from __future__ import annotations

import argparse
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from banger.daemon.store import MIGRATIONS, Phase, Store
from banger.host.sqlite import RealDatabases
from banger.model.ids import VmId
from banger.model.vm import VmPlan
from bench.bare import boot_to_first_frame, memory_kib, ssh_into, wake_ups
from bench.lab import nested
from bench.measure import RUNS, Figure, in_turn, run, seconds
from bench.pull import pulling
from bench.shelf import sized
from tests.world import GOLDEN, ROOT, World, fill_shelf

PYTHON = [sys.executable, "-c", "pass"]
BULK = 200 << 20
IDLE_SECONDS = 20.0


@contextmanager
def world() -> Iterator[World]:
    """A banger of this benchmark's own."""
    folder = Path(tempfile.mkdtemp(prefix="banger-bench-", dir="/tmp"))
    made = World(folder)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(folder)


def cold_create() -> Iterator[Figure]:
    """`vm create`, the whole command, against a bare QEMU booting the same to the agent's first frame."""
    with world() as here:

        def ours() -> float:
            taken = seconds(lambda: here.ok("vm", "create", "--name", "otter", "--image", GOLDEN))
            here.ok("vm", "delete", "otter")
            return taken

        ours()
        line = next(line for line in here.log().splitlines() if "qemu-system" in line and "spawn" in line)
        command = shlex.split(line.partition(": /")[2])
        command[0] = "/" + command[0]
        at = next(index for index, word in enumerate(command) if word.startswith("stream,"))
        del command[at - 1 : at + 3]
        blank = next((here.root / "cache" / "banger" / "overlay").iterdir())
        mine, bare = in_turn(ours, lambda: boot_to_first_frame(command, blank))
    yield Figure(name="cold create to agent ready", ours=mine, baseline=bare, unit="s", against="bare QEMU to the first frame", bound=1.25)


def listing() -> Iterator[Figure]:
    """`vm list`, the whole process, against a Python that does nothing: with 3 machines that run, then with 1,000 rows."""
    with world() as here:
        for name in ("otter", "wren", "lynx"):
            here.ok("vm", "create", "--name", name)
        three, python = in_turn(lambda: run(here.command("vm", "list"), here.env), lambda: run(PYTHON), runs=15)
    yield Figure(name="vm list, 3 machines", ours=three, baseline=python, unit="s", against="python3 -c pass", bound=4, runs=15)
    with world() as here:
        here.ok("vm", "create", "--name", "otter", "--no-start")
        here.client().call("daemon.stop")
        _many_rows(here, 999)
        here.ok("vm", "list")
        many, python = in_turn(lambda: run(here.command("vm", "list"), here.env), lambda: run(PYTHON), runs=15)
        _remove_rows(here)
    yield Figure(name="vm list, 1,000 rows", ours=many, baseline=python, unit="s", against="python3 -c pass", bound=8, runs=15)


def _store(here: World) -> Store:
    return Store(RealDatabases().open(here.state / "banger.db", MIGRATIONS))


def _many_rows(here: World, count: int) -> None:
    store = _store(here)
    plan = store.load()[0][0]
    for number in range(count):
        store.add(_renamed(plan, f"row-{number}", VmId(f"{number:012x}")))
        store.mark(VmId(f"{number:012x}"), Phase.KEPT)
    store.database.close()


def _renamed(plan: VmPlan, name: str, vm: VmId) -> VmPlan:
    change = msgspec.structs.replace
    disk, nic = change(plan.disk, vm=vm), change(plan.nic, vm=vm)
    return change(plan, id=vm, name=name, disk=disk, nic=nic, machine=change(plan.machine, vm=vm, disk=disk, nic=nic))


def _remove_rows(here: World) -> None:
    here.client().call("daemon.stop")
    store = _store(here)
    store.database.execute("DELETE FROM vms WHERE name LIKE 'row-%'")
    store.database.close()
    here.ok("vm", "list")


def inside() -> Iterator[Figure]:
    """`vm exec` against ssh into the same machine: one short command, and 200 MB; and what the daemon holds meanwhile."""
    with world() as here:
        here.ok("vm", "create", "--name", "otter", "--image", GOLDEN, "--memory", "1G", "--wait", "boot", timeout=300)
        here.ok("vm", "exec", "otter", "--", "dd", "if=/dev/urandom", "of=/bulk", "bs=1M", f"count={BULK >> 20}")
        with ssh_into(here.client(), "otter", here.command(), here.env) as ssh:
            short = here.command("vm", "exec", "otter", "--", "true")
            mine, theirs = in_turn(lambda: run(short, here.env), lambda: run([*ssh, "true"]))
            yield Figure(name="vm exec true", ours=mine, baseline=theirs, unit="s", against="ssh true", bound=0.5)
            bulk = here.command("vm", "exec", "otter", "--", "cat", "/bulk")
            mine, theirs = in_turn(lambda: _flow(bulk, here.env), lambda: _flow([*ssh, "cat", "/bulk"], None))
        yield Figure(name="200 MB through exec", ours=mine, baseline=theirs, unit="MB/s", against="ssh cat", bound=0.5, at_most=False)
        peak = memory_kib(here.daemon_pid(), "VmHWM") / 1024
        yield Figure(name="daemon's peak while it flows", ours=peak, baseline=0, unit="MiB", against="absolute", bound=120, runs=1)


def _flow(command: list[str], env: dict[str, str] | None) -> float:
    """MB/s of a command that prints 200 MB; all of it must come."""

    def pump() -> None:
        process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert process.stdout is not None
        total = 0
        while data := process.stdout.read(1 << 18):
            total += len(data)
        assert process.wait() == 0, f"{command} failed"
        assert total == BULK, f"{total} bytes came instead of {BULK}"

    return BULK / 1e6 / seconds(pump)


def idling() -> Iterator[Figure]:
    """A daemon with one machine and nothing to do."""
    with world() as here:
        here.ok("vm", "create", "--name", "otter")
        pid = here.daemon_pid()
        yield Figure(name="idle daemon, memory", ours=memory_kib(pid, "VmRSS") / 1024, baseline=0, unit="MiB", against="absolute", bound=80, runs=1)
        counts = [wake_ups(pid, IDLE_SECONDS) * 5 / IDLE_SECONDS for _ in range(3)]
        yield Figure(name="idle daemon, wake-ups in 5 s", ours=statistics.median(counts), baseline=0, unit="", against="absolute", bound=1, runs=3)


BENCHMARKS: dict[str, Callable[[], Iterator[Figure]]] = {
    "create": cold_create,
    "list": listing,
    "inside": inside,
    "idle": idling,
    "sized": sized,
    "pull": pulling,
    "lab": nested,
    "network": lambda: nested("network"),
}
#: What is not run unless it is named: `lab` has it too.
PARTS = frozenset({"network"})


def show(figure: Figure) -> str:
    """One line of the table."""
    ratio = f"{figure.value:.2f}x" if figure.baseline else f"{figure.value:.1f}"
    sign = "<=" if figure.at_most else ">="
    other = f"{figure.baseline:10.3f}" if figure.baseline else f"{'-':>10}"
    verdict = "met" if figure.met else "MISSED"
    return f"{figure.name:<32}{figure.ours:10.3f}{other} {figure.unit:<5}{ratio:>8}  {sign} {figure.bound:<5g} {verdict:<7} {figure.against}"


def main() -> int:
    """Run those that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Take figures; those of the lab machine are under lab.")
    parser.add_argument("name", nargs="*", help=f"of {', '.join(BENCHMARKS)}; all of them if none is named")
    wanted: list[str] = parser.parse_args().name or [name for name in BENCHMARKS if name not in PARTS]
    if unknown := [name for name in wanted if name not in BENCHMARKS]:
        parser.error(f"there is no {unknown[0]}; there are {', '.join(BENCHMARKS)}")
    fill_shelf()
    print(f"{'figure':<32}{'ours':>10}{'baseline':>10} {'unit':<5}{'ratio':>8}  {'bound':<8} {'verdict':<7} against (medians of {RUNS} or more)")
    figures = []
    for name in wanted:
        for figure in BENCHMARKS[name]():
            figures.append(figure)
            print(show(figure), flush=True)
    result = {"taken": datetime.now(UTC).isoformat(timespec="seconds"), "figures": figures}
    (ROOT / "bench.json").write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    return 0 if all(figure.met for figure in figures) else 1


if __name__ == "__main__":
    raise SystemExit(main())
