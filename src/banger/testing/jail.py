"""Jails and control groups that are only written down: files are copied, users remembered."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from banger.host.cgroup import OURS, Limits
from banger.host.jail import Thing


class FakeJails:
    """`missing` is what `lack` says: on a host that is not root's, jails cannot be."""

    def __init__(self) -> None:
        self.missing = "only root can make jails"
        #: Whose each jail is, by its root, and whose each file that was given to one.
        self.owners: dict[Path, int] = {}
        self.given: dict[Path, int] = {}

    def lack(self, folder: Path, first: int, last: int) -> str:
        """See Jails."""
        return self.missing

    def furnish(self, root: Path, things: Iterable[Thing], uid: int) -> None:
        """See Jails."""
        root.mkdir(mode=0o700, parents=True)
        for thing in things:
            if Path(thing.source).is_file():
                shutil.copy(thing.source, root / thing.name)
            if not thing.read_only:
                self.given[Path(thing.source)] = uid
        self.owners[root] = uid

    def owner(self, root: Path) -> int:
        """See Jails."""
        return self.owners.get(root, -1)

    def give_back(self, path: Path) -> None:
        """See Jails."""
        self.given.pop(path, None)

    def empty(self, folder: Path) -> None:
        """See Jails."""
        self.owners = {root: uid for root, uid in self.owners.items() if folder not in root.parents}
        if folder.exists():
            shutil.rmtree(folder)


class FakeCgroups:
    """`missing` is what `lack` says; `groups` are the limits by name."""

    def __init__(self) -> None:
        self.missing = ""
        self.groups: dict[str, Limits] = {}

    def lack(self) -> str:
        """See Cgroups."""
        return self.missing

    def ensure(self, name: str, limits: Limits) -> str:
        """See Cgroups."""
        self.groups[name] = limits
        return f"{OURS}/{name}"

    async def remove(self, name: str) -> None:
        """See Cgroups."""
        self.groups.pop(name, None)
