"""Installing banger into a system: the privileged helper for one user, and that user's daemon, as units of systemd.

Decides first, then does: an installation is a list of steps, each with its words; what is so already is no step. Everything that is made bears a
mark, and only what bears it is replaced or removed. The user's own data is never touched.
Owns three units in /etc/systemd/system, the copy of the helper's code, and the folders in /run of both.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from banger.host.files import Files
from banger.host.frozen import freeze, is_frozen
from banger.host.privilege import KEPT
from banger.host.proc import Proc
from banger.model.errors import AlreadyExists, BadRequest, HostLacks

MARK = "Made by `banger system install`"
UNITS = ("banger-helper.socket", "banger-helper.service", "bangerd.service")
ENABLED = ("banger-helper.socket", "bangerd.service")
#: What the helper's code stands on.
PACKAGES = ("banger", "msgspec", "pyroute2")
MAIN = f'"""{MARK}; removed by `banger system uninstall`."""\n\nfrom banger.helper import main\n\nraise SystemExit(main())\n'
SYSTEMCTL_SECONDS = 60.0
PLAIN = re.compile(r"[A-Za-z0-9@%+=:,./_-]+\Z")


class Installation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For whom, and with what. `roots` are the user's folders that are banger's; `python` runs the helper and is safe from others; `daemon` is the
    daemon's command and `environment` what it needs to be found by it."""

    owner: str
    uid: int
    gid: int
    roots: tuple[str, ...]
    python: str
    daemon: tuple[str, ...]
    environment: Mapping[str, str] = {}


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a system keeps things."""

    units: Path = Path("/etc/systemd/system")
    code: Path = Path("/usr/local/lib/banger-helper")
    run: tuple[Path, ...] = (Path("/run/banger-helper"), Path("/run/bangerd"))
    #: sd_booted(3): this folder is there if systemd is process 1.
    booted: Path = Path("/run/systemd/system")


class Standing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an installation stands: `owner` is empty when there is none; `units` are systemd's words, by unit; `current`: the helper has the code that
    asks."""

    owner: str
    units: Mapping[str, str]
    current: bool


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do: its words, and the deed."""

    words: str
    act: Callable[[], Awaitable[None]]


def quoted(word: str) -> str:
    """A word for a unit's command line (systemd.service(5)): percent signs and dollars are doubled, the rest is in quotes where it has to be."""
    word = word.replace("%", "%%").replace("$", "$$")
    if not word.isprintable():
        raise BadRequest(f"{word!r} cannot stand in a unit of systemd")
    return word if PLAIN.match(word) else '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def rendered(template: str, wanted: Installation, code: Path) -> str:
    """A unit from its template."""
    helper = [
        wanted.python,
        "-I",
        "-S",
        "-B",
        str(code),
        "--owner",
        f"{wanted.uid}:{wanted.gid}",
        *(w for root in wanted.roots for w in ("--root", root)),
    ]
    values = {
        "MARK": f"{MARK} for {wanted.owner}; removed by `banger system uninstall`.",
        "OWNER": wanted.owner,
        "HELPER": " ".join(map(quoted, helper)),
        "DAEMON": " ".join(map(quoted, wanted.daemon)),
        "ENVIRONMENT": "\n".join(f"Environment={quoted(f'{name}={value}')}" for name, value in wanted.environment.items()),
        "CAPABILITIES": " ".join(KEPT),
    }
    for name, value in values.items():
        template = template.replace(f"@{name}@", value)
    return template


def owner_in(unit: str) -> str:
    """For whom a unit was made; empty when it is none of ours."""
    found = re.match(rf"# {re.escape(MARK)} for (.+?); removed by", unit)
    return found[1] if found else ""


class System:
    """The system that banger is installed into."""

    def __init__(self, files: Files, proc: Proc, templates: Path, place: Place | None = None) -> None:
        self.files, self.proc, self.templates = files, proc, templates
        self.place = place or Place()

    def _require_systemd(self) -> None:
        if not self.place.booted.is_dir():
            raise HostLacks("this host does not run systemd", hint="run banger as root where networks and disks are to need it")

    def _present(self, unit: str) -> str:
        return (self.files.read(self.place.units / unit) or b"").decode("utf-8", "replace")

    def installed_for(self) -> str:
        """Whom there is an installation for; empty when there is none."""
        return next((owner for unit in UNITS if (owner := owner_in(self._present(unit)))), "")

    def plan(self, wanted: Installation, packages: Sequence[Path]) -> list[Step]:
        """The steps that are to be taken; none when all is so already. AlreadyExists when it is another user's, or something else is in the way."""
        self._require_systemd()
        owner = self.installed_for()
        if owner not in ("", wanted.owner):
            raise AlreadyExists(f"banger is installed for {owner}", hint="a host has one such user; first: banger system uninstall")
        steps = [] if is_frozen(packages, self.place.code, MAIN) else [self._freeze(packages)]
        steps += [step for unit in UNITS if (step := self._write(unit, wanted))]
        if not steps:
            return [self._systemctl("enable", "--now", *ENABLED)] if owner else []
        restart = [self._systemctl("stop", *UNITS[:2])] if owner else []
        return [*steps, self._systemctl("daemon-reload"), *restart, self._systemctl("enable", *ENABLED), self._systemctl("restart", *ENABLED)]

    def _freeze(self, packages: Sequence[Path]) -> Step:
        async def act() -> None:
            freeze(packages, self.place.code, MAIN)

        if self.place.code.exists() and not (self.place.code / "__main__.py").exists():
            raise AlreadyExists(f"{self.place.code} is there and not banger's", hint="move it away")
        return Step(f"copy the helper's code to {self.place.code}", act)

    def _write(self, unit: str, wanted: Installation) -> Step | None:
        text = rendered((self.templates / unit).read_text(), wanted, self.place.code)
        path, there = self.place.units / unit, self._present(unit)
        if there == text:
            return None
        if there and not owner_in(there):
            raise AlreadyExists(f"{path} is there and not banger's", hint="move it away")

        async def act() -> None:
            self.files.write_atomic(path, text.encode(), mode=0o644)

        return Step(f"write {path}", act)

    def _systemctl(self, *words: str) -> Step:
        async def act() -> None:
            await self.proc.run(["systemctl", *words], timeout=SYSTEMCTL_SECONDS)

        return Step(f"systemctl {' '.join(words)}", act)

    def plan_removal(self) -> list[Step]:
        """The steps that undo an installation, for what is left of it; none when there is nothing."""
        units = [unit for unit in UNITS if owner_in(self._present(unit))]
        paths = [*(self.place.units / unit for unit in units)]
        if self._is_ours(self.place.code):
            paths.append(self.place.code)
        if not paths:
            return []
        paths += [path for path in self.place.run if path.exists()]
        stop = [self._systemctl("disable", "--now", *reversed(units))] if units and self.place.booted.is_dir() else []
        reload = [self._systemctl("daemon-reload")] if stop else []
        return [*stop, *(self._remove(path) for path in paths), *reload]

    def _is_ours(self, code: Path) -> bool:
        return MARK.encode() in (self.files.read(code / "__main__.py") or b"")

    def _remove(self, path: Path) -> Step:
        async def act() -> None:
            self.files.remove_tree(path)

        return Step(f"remove {path}", act)

    async def standing(self, packages: Sequence[Path]) -> Standing:
        """How it stands; changes nothing."""
        owner, units = self.installed_for(), {}
        for unit in UNITS if owner and self.place.booted.is_dir() else ():
            said = await self.proc.run(["systemctl", "show", "--property", "ActiveState", "--value", unit], timeout=SYSTEMCTL_SECONDS)
            units[unit] = said.decode().strip()
        return Standing(owner=owner, units=units, current=is_frozen(packages, self.place.code, MAIN))
