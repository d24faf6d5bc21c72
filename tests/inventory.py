"""What a machine could leave behind on the host: links, tables of nftables, loops, maps, mounts, namespaces, cgroups, sockets, processes, files.

    before = take(world.root)
    …
    assert take(world.root).beyond(before) == {}

In the lab machine all of the host counts. Elsewhere others are at work at the same time, so only what names the folder counts (its path is on a command
line, is a working folder, a mount, a loop's file, a socket's name), and what has a name of banger's own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

#: What the names of links, maps, tables and namespaces that are banger's begin with.
NAMES = ("banger", "br-banger", "bgr", "bng")
#: Comes and goes by itself.
BUSY = ("/system.slice/systemd-", "/system.slice/dbus", "/user.slice", "/init.scope")
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """What was there at one moment, by kind."""

    links: frozenset[str]
    routes: frozenset[str]
    tables: frozenset[str]
    loops: frozenset[str]
    maps: frozenset[str]
    mounts: frozenset[str]
    namespaces: frozenset[str]
    cgroups: frozenset[str]
    sockets: frozenset[str]
    processes: frozenset[str]
    files: frozenset[str]

    def beyond(self, before: Inventory) -> dict[str, list[str]]:
        """What is there now and was not before, by kind; kinds without any are left out."""
        pairs = ((kind, getattr(self, kind) - getattr(before, kind)) for kind in self.__struct_fields__)
        return {kind: sorted(more) for kind, more in pairs if more}

    def changed(self, before: Inventory) -> dict[str, list[str]]:
        """What came (+) and went (-)."""
        came, went = self.beyond(before), before.beyond(self)
        both = {kind: [f"+ {each}" for each in came.get(kind, ())] + [f"- {each}" for each in went.get(kind, ())] for kind in self.__struct_fields__}
        return {kind: lines for kind, lines in both.items() if lines}


def take(folder: Path, *, whole: bool | None = None) -> Inventory:
    """Now, in the network namespace that we are in. `folder` is where a banger of a test's own lives; `whole`: all of the host counts."""
    whole = bool(os.environ.get("BANGER_LAB")) if whole is None else whole

    def named(found: Iterable[str]) -> frozenset[str]:
        return frozenset(each for each in found if whole or each.startswith(NAMES))

    def ours(found: Iterable[str]) -> frozenset[str]:
        return frozenset(each for each in found if whole or str(folder) in each)

    return Inventory(
        links=named(_links()),
        routes=named(_routes()),
        tables=named(_tables()),
        loops=ours(_read("/sys/block", "loop*/loop/backing_file")),
        maps=named(_read("/sys/block", "dm-*/dm/name")),
        mounts=ours(" ".join(line.split()[4:5] + line.split()[-3:-1]) for line in Path("/proc/self/mountinfo").read_text().splitlines()),
        namespaces=named(path.name for path in _entries(Path("/run/netns"))),
        cgroups=ours(_cgroups()),
        sockets=frozenset(each for each in _sockets() if str(folder) in each),
        processes=frozenset(_processes(folder)),
        files=frozenset(_files(folder)),
    )


def _entries(folder: Path) -> list[Path]:
    with suppress(FileNotFoundError):
        return list(folder.iterdir())
    return []


def _read(folder: str, pattern: str) -> list[str]:
    found = []
    for path in Path(folder).glob(pattern):
        with suppress(OSError):  # it may go meanwhile
            found.append(path.read_text().strip())
    return found


def _links() -> list[str]:
    """proc_net(5) dev; not from /sys, which shows the namespace that it was mounted in."""
    return [line.partition(":")[0].strip() for line in Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]]


def _routes() -> list[str]:
    """proc_net(5) route: link, destination and gateway."""
    return [" ".join(line.split()[:3]) for line in Path("/proc/thread-self/net/route").read_text().splitlines()[1:]]


def _tables() -> list[str]:
    """Each rule of each table, as nft prints it without counters, led by its table; none where there is no nft."""
    command = shutil.which("nft", path=PATH)
    if command is None:
        return []
    said = subprocess.run([command, "--stateless", "list", "ruleset"], capture_output=True, text=True, timeout=30, check=False).stdout
    found, table, chain = [], "", ""
    for line in said.splitlines():
        depth = len(line) - len(line.lstrip("\t"))
        table = line.split()[2] if depth == 0 and line.startswith("table ") else table
        chain = line.strip() if depth == 1 else chain
        found.append(f"{table}: {chain if depth > 1 else ''} {line.strip()}")
    return [line for line in found if not line.endswith(("}", ": "))]


def _cgroups() -> list[str]:
    root = Path("/sys/fs/cgroup")
    found = (f"/{Path(folder).relative_to(root)}" for folder, _, _ in os.walk(root))
    return [name for name in found if not name.startswith(BUSY)]


def _sockets() -> list[str]:
    """Unix sockets with a path; unix(7) has no entry for those without."""
    lines = Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:]
    return [line.split(None, 7)[7] for line in lines if len(line.split(None, 7)) > 7]


def _processes(folder: Path) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                if str(folder) in words or str((entry / "cwd").readlink()).startswith(str(folder)):
                    found.append(f"{entry.name} {words}")
    return found


def _files(folder: Path) -> list[str]:
    """What lies in machines' folders, lasting and volatile."""
    state = folder / "state" / "banger"
    return [str(path.relative_to(folder)) for kind in ("vms", "run") for path in (state / kind).rglob("*")]
