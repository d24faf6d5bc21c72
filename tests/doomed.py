"""Daemons that come to a place where they are told to die, or to kill their machine's VMM: before any change that they make of the host.

    with Doomed(world) as daemons:
        daemons.next()
        daemons.die_at(7)           # at the seventh place from now; die_at(7, 2): and the next one at its second, if it has so much to put right
        …                           # an operation
        died = daemons.next()       # whether it got there; here is who comes after it

They are forked from one process in which everything is imported, so the next one is there in a moment. Places are: changes of files, of the database,
of links, firewall and maps, the start and the end of processes, jails and control groups; and the answer to each call. What changes nothing is none.
"""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.mortal import make_mortal
from tests.world import ROOT, World, alive, until

ORDER = "DOOMED_ORDER"
#: Some places are come to in threads.
ONE_AT_A_TIME = threading.Lock()


class Doomed:
    """The daemons of a world, one at a time; the world's own commands find them as they find any."""

    def __init__(self, world: World) -> None:
        self.world, self.order, self.pid, self.words = world, world.root / "order", 0, 0
        env = world.env | {ORDER: str(self.order), "PYTHONPATH": f"{ROOT}{os.pathsep}{world.env.get('PYTHONPATH', '')}"}
        command = [*world.prefix, sys.executable, "-m", "tests.doomed"]
        self.process = subprocess.Popen(command, env=env, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> Doomed:
        return self

    def __exit__(self, *_: object) -> None:
        self.order.unlink(missing_ok=True)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()

    def next(self) -> bool:
        """The one before has ended, or does so now; there is another one, which has put right what it found.

        Whether the last order was carried out, in its first place; one that was not is no order any more.
        """
        self._end()
        done = self.carried_out()
        while not self._begin():
            assert not self.order.exists(), f"there is no other daemon:\n{self.world.log()[-3000:]}"
            self._end()
        self.order.unlink(missing_ok=True)
        return done

    def carried_out(self) -> bool:
        """Whether the last order was, in its first place; one that was not is no order any more."""
        done = not self.order.exists() or len(self.order.read_text().split()) < self.words
        if not done:
            self.order.unlink()
        return done

    def _end(self) -> None:
        former = self.pid or self.world.daemon_pid()
        with suppress(ProcessLookupError):
            os.kill(former, signal.SIGKILL)
        until(lambda: not alive(former) if self.pid else not Path(f"/proc/{former}").exists(), "the daemon's end")

    def _begin(self) -> bool:
        """Whether another one serves; one may have been told to die before."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        pid, _, said = self.process.stdout.readline().partition(b" ")
        self.pid = int(pid)
        return said == b"ready\n"

    def die_at(self, *places: int) -> None:
        """It dies at the first of these places, counted from 1; the next one at the second, counted anew, unless it serves before."""
        self._order("daemon", *map(str, places))

    def kill_vmm_at(self, place: int) -> None:
        """It kills the VMM of the one machine there is, at this place of those at which there is one."""
        self._order("vmm", str(place))

    def _order(self, *words: str) -> None:
        self.order.write_text(" ".join(words))
        self.words = len(words)


# --- in the daemons' process


def vmm_of(running: Path) -> int:
    """The pid of the machine's VMM, as it is written down; 0 if none lives."""
    for record in running.glob("*/vmm.json"):
        with suppress(OSError, ValueError):
            pid = int(json.loads(record.read_text())["pid"])
            return pid if pid and alive(pid) else 0
    return 0


def pass_by(order: Path, running: Path) -> None:
    """Somewhere to come to an end at."""
    with ONE_AT_A_TIME, suppress(FileNotFoundError):
        whom, first, *others = order.read_text().split()
        victim = vmm_of(running) if whom == "vmm" else os.getpid()
        if not victim:
            return
        counted = (str(int(first) - 1), *others) if int(first) > 1 else others
        if counted:
            fresh = order.with_suffix(".new")
            fresh.write_text(" ".join((whom, *counted)))
            fresh.replace(order)  # whole, whenever we are killed
        else:
            order.unlink()
        if int(first) == 1:
            os.kill(victim, signal.SIGKILL)


def always(*_: object) -> bool:
    """It changes something."""
    return True


def something(_: object, path: Path) -> bool:
    """There is something to remove."""
    return os.path.lexists(path)


def nothing(_: object, path: Path) -> bool:
    """It is still to be made."""
    return not os.path.lexists(path)


def empty(_: object, path: Path) -> bool:
    """There is a folder to remove."""
    return path.is_dir() and not any(path.iterdir())


def written(_: object, statement: str, *__: object) -> bool:
    """A statement that changes the database."""
    return not statement.startswith("SELECT")


def place_before(owner: type, name: str, here: Callable[[], None], counts: Callable[..., bool]) -> None:
    """Put a place before each call of a method that counts."""
    method = getattr(owner, name)
    real = inspect.signature(method)

    def passing(*given: object, **named: object) -> object:
        if counts is always or counts(*real.bind(*given, **named).args):
            here()
        return method(*given, **named)

    setattr(owner, name, passing)


def put_places(here: Callable[[], None]) -> None:
    """Put them before everything that a daemon does to the host for a machine."""
    from banger.frontends.http.talk import Talk
    from banger.host.cgroup import RealCgroups
    from banger.host.files import RealFiles
    from banger.host.jail import RealJails
    from banger.host.proc import RealProc
    from banger.host.sqlite import RealDatabase

    make_mortal(here)
    for owner, names, counts in (
        (RealFiles, ("write_atomic", "copy_sparse", "make_sparse", "clone", "replace", "link"), always),
        (RealFiles, ("private_folder",), nothing),
        (RealFiles, ("remove_tree",), something),
        (RealFiles, ("remove_if_empty",), empty),
        (RealJails, ("empty",), something),
        (RealDatabase, ("execute",), written),
        (RealJails, ("furnish", "give_back"), always),
        (RealCgroups, ("ensure", "remove"), always),
        (RealProc, ("spawn", "signal", "run"), always),
        (Talk, ("respond",), always),
    ):
        for name in names:
            place_before(owner, name, here, counts)


def begin(ready: int) -> None:
    """What one daemon does, in a process of its own."""
    from banger import bangerd

    status = 1
    try:
        os.setsid()
        os.environ["BANGER_READY_FD"], sys.argv = str(ready), ["bangerd"]
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        status = bangerd.main()
    except BaseException:
        traceback.print_exc()
    os._exit(status)


def main() -> None:
    """Fork a daemon for each line, and say what it says: that it is ready. With the last line they come to no end: their world ends the last."""
    import pyroute2

    from banger import bangerd

    order, running = Path(os.environ[ORDER]), Path(os.environ["XDG_STATE_HOME"]) / "banger" / "run"
    assert bangerd, "everything is imported before there are places"
    assert pyroute2, "and so is what is imported only when links are changed"
    put_places(lambda: pass_by(order, running))
    pid = 0
    for _ in sys.stdin.buffer:
        if pid:
            os.waitpid(pid, 0)  # a zombie may have threads yet, and its seat
        heard, ready = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(heard)
            begin(ready)
        os.close(ready)
        with os.fdopen(heard, "rb") as pipe:
            sys.stdout.buffer.write(b"%d %b" % (pid, pipe.readline() or b"died\n"))
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
