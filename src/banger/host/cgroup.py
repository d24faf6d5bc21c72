"""Control groups (cgroup-v2.rst in the kernel's documentation): a group of its own for each machine, with limits, below one group of ours.

Only the unified hierarchy. Groups are made before a process is put into them, so that it never runs without its limits. Owns `banger` at the top of the
hierarchy and what is below; the group of a machine is removed with its process, and `banger` with the last of them. Needs root.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import msgspec

from banger.model.errors import Busy, HostLacks

OURS = "banger"
NEEDED = ("cpu", "memory", "pids")
#: Microseconds; what a group may use is counted anew after each.
PERIOD = 100_000
END_SECONDS = 5.0


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`cpus` in processors, 1.5 is one and a half; `pids` counts threads, too."""

    memory_bytes: int
    cpus: float
    pids: int


class Cgroups(Protocol):
    """What banger does with control groups."""

    def lack(self) -> str:
        """Why there can be no limits here; empty when there can."""

    def ensure(self, name: str, limits: Limits) -> str:
        """Make the group with these limits, and return its path below the top of the hierarchy. HostLacks when the kernel refuses."""

    async def remove(self, name: str) -> None:
        """Kill what is still in the group and remove it; missing is success. Busy when it does not empty."""


class RealCgroups:
    """The host's."""

    def __init__(self, mounts: Path = Path("/proc/self/mounts")) -> None:
        self.mounts = mounts

    def _top(self) -> Path | None:
        """Where the unified hierarchy is mounted: the first, as the jailer looks for it, too."""
        lines = (line.split(" ") for line in self.mounts.read_text().splitlines())
        return next((Path(words[1]) for words in lines if words[2] == "cgroup2"), None)

    def lack(self) -> str:
        """See Cgroups."""
        top = self._top()
        if top is None:
            return "cgroup v2 is not mounted"
        missing = sorted(set(NEEDED) - set((top / "cgroup.controllers").read_text().split()))
        if missing:
            return f"cgroup v2 has no controllers for {', '.join(missing)}"
        if not os.access(top / "cgroup.subtree_control", os.W_OK):
            return f"{top} cannot be written"
        return "" if _divisible(top) else f"{top} has processes of its own, so no group below it can be limited"

    def ensure(self, name: str, limits: Limits) -> str:
        """See Cgroups."""
        top = self._top()
        if top is None:
            raise HostLacks("cgroup v2 is not mounted")
        for last in (False, False, True):
            try:
                self._make(top, top / OURS / name, limits)
                break
            except OSError as error:
                if last or not isinstance(error, FileNotFoundError):  # another user's daemon may just have removed `banger`, which was empty
                    raise HostLacks(f"cannot make the control group {OURS}/{name}: {error}", hint="or set jailer to no") from error
        return f"{OURS}/{name}"

    def _make(self, top: Path, group: Path, limits: Limits) -> None:
        for parent in (top, top / OURS):
            parent.mkdir(exist_ok=True)
            if not set(NEEDED) <= set((parent / "cgroup.subtree_control").read_text().split()):
                (parent / "cgroup.subtree_control").write_text(" ".join(f"+{controller}" for controller in NEEDED))
        group.mkdir(exist_ok=True)
        (group / "memory.max").write_text(str(limits.memory_bytes))
        (group / "cpu.max").write_text(f"{round(limits.cpus * PERIOD)} {PERIOD}")
        (group / "pids.max").write_text(str(limits.pids))

    async def remove(self, name: str) -> None:
        """See Cgroups."""
        top = self._top()
        if top is None or not (top / OURS / name).exists():
            return
        group = top / OURS / name
        with suppress(FileNotFoundError):
            (group / "cgroup.kill").write_text("1")
        pause = 0.001
        try:
            async with asyncio.timeout(END_SECONDS):
                while not _gone(group):
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, 0.05)
        except TimeoutError:
            raise Busy(f"the control group {group} does not empty") from None
        _gone(top / OURS)


def _divisible(top: Path) -> bool:
    """Only the real top, which has no events, may have processes and groups with limits; in a container it is some group that merely looks like it."""
    given = set(NEEDED) <= set((top / "cgroup.subtree_control").read_text().split())
    return given or not (top / "cgroup.events").exists() or not (top / "cgroup.procs").read_text().strip()


def _gone(group: Path) -> bool:
    """Remove it; False when something is in it."""
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
