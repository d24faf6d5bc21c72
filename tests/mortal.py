"""A privileged helper that kills itself where it is told to: before any of its changes of the host, or before any of its answers.

    with Mortal(folder) as helper:
        helper.die_at(7)       # at the seventh place from now; the next one lives
        helper.die_at(7, 1)    # and so that the next one dies at its first place

Where it dies is in a file, so that it is known to whoever comes next; as systemd does it, there is a next one at once, and the socket stays.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

FORKING = "--forking"
#: linux/prctl.h
PR_SET_PDEATHSIG = 1

if __name__ != "__main__":
    from tests.privileged import Privileged

    class Mortal(Privileged):
        """One that serves the user of the tests, and is started again whenever it dies."""

        program = (__file__, FORKING)

        def __init__(self, folder: Path) -> None:
            self.order = folder / "state" / "die"
            super().__init__(folder, owner=0)

        def __enter__(self) -> Mortal:
            return self

        def __exit__(self, *_: object) -> None:
            self.order.unlink(missing_ok=True)
            self.kill()
            self.close()

        def die_at(self, *places: int) -> None:
            """Die at the first of these places, counted from 1; the next helper at the second, counted anew, and so on."""
            self.order.write_text(" ".join(map(str, places)))

        @property
        def alive(self) -> bool:
            """Whether it has come to none of the places that it was told of."""
            return self.order.exists()


def pass_by(order: Path) -> None:
    """Somewhere to die at."""
    if not order.exists():
        return
    first, *others = map(int, order.read_text().split())
    if first > 1:
        order.write_text(" ".join(map(str, (first - 1, *others))))
        return
    if others:
        order.write_text(" ".join(map(str, others)))
    else:
        order.unlink()
    os.kill(os.getpid(), signal.SIGKILL)


class Watched:
    """Something whose methods are places to die at."""

    def __init__(self, thing: object, here: Callable[[], None]) -> None:
        self.thing, self.here = thing, here

    def __getattr__(self, name: str) -> object:
        self.here()
        return getattr(self.thing, name)


def make_mortal(here: Callable[[], None]) -> None:
    """Put places before each change that is asked of the kernel, and before each answer."""
    from banger.host import dm, links, nft, served

    netlink, write, call, do, answer = links._netlink, links._write_sysctl, dm.RealDm._call, nft.RealNft._do, served.Servant.answer

    @asynccontextmanager
    async def watched(what: str) -> AsyncIterator[object]:
        async with netlink(what) as route:
            yield Watched(route, here)

    def written(name: str, value: str) -> None:
        here()
        write(name, value)

    def called(self: dm.RealDm, command: int, argument: bytearray) -> None:
        if command != dm.STATUS:
            here()
        call(self, command, argument)

    def done(self: nft.RealNft, commands: str) -> None:
        here()
        do(self, commands)

    async def answered(self: served.Servant, data: bytes) -> object:
        found = await answer(self, data)
        here()
        return found

    for place, name, function in (
        (links, "_netlink", watched),
        (links, "_write_sysctl", written),
        (dm.RealDm, "_call", called),
        (nft.RealNft, "_do", done),
        (served.Servant, "answer", answered),
    ):
        setattr(place, name, function)


def follow_each_other() -> None:
    """One helper after the other, each a fork of this process, which has everything imported; they end with it. Returns in each of them."""
    import pyroute2

    assert pyroute2, "otherwise imported by each, when it changes links"
    library = ctypes.CDLL(None)
    while (pid := os.fork()) != 0:
        _, status = os.waitpid(pid, 0)
        if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
            raise SystemExit(f"a helper ended by itself: {status}")
    library.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.environ["LISTEN_PID"] = str(os.getpid())


def main() -> int:
    """The helper's process."""
    from banger import helper

    order = Path(sys.argv[sys.argv.index("--root") + 1]) / "die"
    make_mortal(lambda: pass_by(order))
    if FORKING in sys.argv:
        sys.argv.remove(FORKING)
        follow_each_other()
    return helper.main()


if __name__ == "__main__":
    raise SystemExit(main())
