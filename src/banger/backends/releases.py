"""Which Firecracker machines are started with: the one in the settings, else the newest that `banger firecracker install` has installed, else PATH's.

What a binary says of its version is asked once for each file (path, time and size), and of an installed one never: its folder's name says it.
Reads only; `daemon/releases.py` installs and removes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from banger.model import codec
from banger.model.errors import BangerError, VmmFailed
from banger.model.releases import FLOOR, VERSION, Binary, Release, numbers, parse_version, show_version

if TYPE_CHECKING:
    from banger.host import Host

log = logging.getLogger(__name__)
BINARY, JAILER = "firecracker", "jailer"
#: What files have said of their version, by path, time of change and size.
Said = dict[tuple[str, int, int], str]


class Binaries:
    """All that could be used. `said` is kept as long as this is."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.said: Said = {}

    def installed(self) -> list[Release]:
        """What is installed, the newest first; what cannot be read is left out and logged."""
        folder = self.host.paths.firecrackers
        names = [path.name for path in folder.iterdir() if VERSION.match(path.name)] if folder.is_dir() else []
        return [found for name in sorted(names, key=numbers, reverse=True) if (found := self._release(name)) is not None]

    def _release(self, name: str) -> Release | None:
        try:
            data = self.host.files.read(self.host.paths.firecracker(name) / "manifest.json")
            return None if data is None else codec.decode(data, Release, what=f"Firecracker {name}")
        except (BangerError, OSError) as error:
            log.warning("the installed Firecracker %s cannot be read: %s", name, error)
            return None

    def every(self) -> list[Binary]:
        """All of them; the one that is used is marked."""
        used = self.used()
        return [msgspec.structs.replace(found, used=found == used) for found in (*self._set(), *self._own_ones(), *self._on_path())]

    def used(self) -> Binary | None:
        """The one that machines are started with. Where the setting names one, it is that one or none."""
        if self.host.settings.firecracker:
            return next(self._set(), None)
        return next(chain(self._own_ones(), self._on_path()), None)

    def _set(self) -> Iterator[Binary]:
        asked = self.host.settings.firecracker
        path = self.host.proc.which(asked) if asked else None
        if path is not None:
            yield self._foreign(path, "setting")

    def _own_ones(self) -> Iterator[Binary]:
        yield from (self._own(release) for release in self.installed())

    def _on_path(self) -> Iterator[Binary]:
        path = self.host.proc.which(BINARY)
        if path is not None:
            yield self._foreign(path, "PATH")

    def _own(self, release: Release) -> Binary:
        path = self.host.paths.firecracker(release.version) / BINARY
        jailer = self._jailer(path)
        return Binary(version=release.version, path=str(path), source="installed", used=True, jailer=jailer, trust=release.trust.value)

    def _foreign(self, path: Path, source: str) -> Binary:
        return Binary(version=self.version(path), path=str(path), source=source, used=True, jailer=self._jailer(path))

    def _jailer(self, binary: Path) -> str:
        """The one in the settings, else beside the binary, else PATH's; empty when there is none."""
        if self.host.settings.jailer_path:
            return str(self.host.proc.which(self.host.settings.jailer_path) or "")
        return str(self.host.proc.which(str(binary.resolve().parent / JAILER)) or self.host.proc.which(JAILER) or "")

    def version(self, path: Path, name: str = "Firecracker") -> str:
        """What a binary says of itself; empty when it says nothing that makes sense."""
        status = self.host.files.stamp(path)
        key = (str(path), *status)
        if key not in self.said:
            try:
                self.said[key] = show_version(parse_version(self.host.proc.ask([str(path), "--version"]), name))
            except VmmFailed as error:
                log.warning("%s: %s", path, error)
                self.said[key] = ""
        return self.said[key]


def why(binary: Binary) -> str:
    """One line: which it is, and why it."""
    reason = {"setting": "by the setting firecracker", "installed": "installed by banger", "PATH": "the one on PATH"}[binary.source]
    return f"{binary.version or 'unknown version'} at {binary.path}, {reason}"


def too_old(binary: Binary) -> bool:
    """Whether it is below the floor; one that does not say its version is judged when it is started."""
    return bool(binary.version) and numbers(binary.version) < FLOOR
