"""Daemons that are killed before each single change that they make to a file system, one after the other, for each of the ways of arrivals.py.

    python -m tests.dying FOLDER        prints what was found wrong, a line each, and at last how many kills there were

Each of them is a process that is forked for it, and so is its successor: which begins as bangerd does, must find all of it sound and made of what was
there before or of what the command makes, and must be able to do the same.
"""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.arrivals import WAYS, Way, copy, ground, state, unsound
from tests.touching import Change, told

DIED = -signal.SIGKILL


def forked(work: Callable[[], Awaitable[str]]) -> int:
    """Do it in a process of its own; its status, 0 when it returns nothing, 1 when it says what is wrong."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 2
        try:
            said = asyncio.run(_text(work))
            print(said, end="", flush=True)
            status = 1 if said else 0
        except BaseException:
            traceback.print_exc(file=sys.stdout)
            sys.stdout.flush()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


async def _text(work: Callable[[], Awaitable[str]]) -> str:
    return await work()


async def prepare(way: Way, root: Path) -> str:
    """What must have been before."""
    async with ground(root) as place:
        daemon = await place.daemon()
        for act in way.before:
            await act(place, daemon)
    return ""


async def die(way: Way, root: Path, number: int) -> str:
    """The command, by a daemon that is killed before its change of that number."""
    left = number

    def count(change: Change) -> None:
        nonlocal left
        left -= any(path.startswith(f"{root}/") for path in change.paths)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    async with ground(root) as place:
        daemon = await place.daemon()
        with told(count):
            await way.act(place, daemon)
    return ""


async def succeed(way: Way, root: Path, before: dict[str, str], after: dict[str, str], number: int) -> str:
    """What the next daemon finds wrong."""
    async with ground(root) as place:
        daemon = await place.daemon()
        wrong = unsound(place) + strangers(state(place), before, after)
        await way.act(place, daemon)
        wrong += [f"afterwards {one}" for one in (unsound(place) + ([] if state(place) == after else [f"there is {state(place)} instead of {after}"]))]
        return "".join(f"{way.name}, killed before change {number}: {one}\n" for one in wrong)


def strangers(found: dict[str, str], before: dict[str, str], after: dict[str, str]) -> list[str]:
    """What is neither as it was nor as it was to become, or is missing though it was to be there all the time."""
    lost = [name for name in before if name in after and name not in found]
    return [f"{name} is lost" for name in lost] + [
        f"{name} is neither the old nor the new one" for name, value in found.items() if value not in (before.get(name), after.get(name))
    ]


async def look(root: Path, into: dict[str, str]) -> None:
    """Into what there is."""
    async with ground(root) as place:
        into |= state(place)


def sweep(way: Way, folder: Path) -> int:
    """All places of one way; how many there were."""
    number = 0
    before: dict[str, str] = {}
    after: dict[str, str] = {}
    whole = folder / "whole"
    asyncio.run(prepare(way, whole))  # here, so that what is imported by it is imported once
    copy(whole, folder / "before")
    asyncio.run(look(whole, before))
    asyncio.run(die(way, whole, 0))
    asyncio.run(look(whole, after))
    while True:
        number += 1
        root = folder / str(number)
        copy(folder / "before", root)
        status = forked(lambda root=root, number=number: die(way, root, number))  # type: ignore[misc]
        if status == 0:
            return number - 1
        if status != DIED:
            print(f"{way.name}, before change {number}: it ended with {status}")
        forked(lambda root=root, number=number: succeed(way, root, before, after, number))  # type: ignore[misc]
        shutil.rmtree(root)


def main() -> int:
    """Every way, in a folder of its own."""
    folder, wanted = Path(sys.argv[1]), sys.argv[2:]
    total = 0
    gc.freeze()  # what is there is copied less often by those that are forked
    for at, way in enumerate(WAYS):
        if not wanted or way.name in wanted:
            (folder / str(at)).mkdir()
            count = sweep(way, folder / str(at))
            assert count > 0, way.name
            print(f"{way.name}: {count} kills")
            total += count
    print(f"{total} kills")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
