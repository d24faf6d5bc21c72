"""The step cache of builds: what a machine had written after a step, as a sparse copy of its disk's own file, named by the step's key.

Lies in the cache folder, so it may go at any time; a copy has its name only once it is whole. Bounded by a setting: what has not been used for longest
goes first.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from banger.host import Host
from banger.model.errors import NoSpace
from banger.model.oci import Pruned
from banger.model.sizes import parse_size

log = logging.getLogger(__name__)
SPARE = 256 << 20


class BuildCache:
    """All kept states."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def path(self, key: str) -> Path:
        """Where a state is, or would be."""
        return self.host.paths.builds / f"{key}.disk"

    def last(self, keys: Sequence[str]) -> int | None:
        """The place of the last of these keys whose state is here; it counts as used now."""
        for place in reversed(range(len(keys))):
            path = self.path(keys[place])
            if self.host.files.size(path) is not None:
                with suppress(OSError):
                    os.utime(path)
                return place
        return None

    async def keep(self, key: str, disk: Path) -> None:
        """Copy a disk that nobody writes just now. One that would not fit is not kept."""
        files, target = self.host.files, self.path(key)
        need = files.used_bytes(disk)
        if need > parse_size(self.host.settings.build_cache) or files.free_bytes(self.host.paths.builds) < need + SPARE:
            log.info("the state after a step takes %d bytes and is not kept", need)
            return
        files.private_folder(target.parent)
        fresh = target.with_name(f".{target.name}.{self.host.clock.random(6).hex()}.new")
        try:
            await asyncio.to_thread(files.copy_sparse, disk, fresh)
            files.replace(fresh, target)
            self.trim(target)
        except NoSpace as error:
            log.info("the state after a step is not kept: %s", error)
        finally:
            files.remove_tree(fresh)

    def trim(self, newest: Path) -> None:
        """Keep within the setting."""
        room = parse_size(self.host.settings.build_cache)
        for path in sorted(self.every(), key=lambda path: (path == newest, path.stat().st_mtime), reverse=True):
            room -= self.host.files.used_bytes(path)
            if room < 0:
                self.host.files.remove_tree(path)

    def every(self) -> list[Path]:
        """All that are here."""
        return sorted(self.host.paths.builds.glob("*.disk"))

    def prune(self, *, dry: bool) -> Pruned:
        """Remove all of them: each can be made again."""
        paths = self.every()
        size = sum(map(self.host.files.used_bytes, paths))
        for path in () if dry else paths:
            self.host.files.remove_tree(path)
        return Pruned(removed=len(paths), removed_bytes=size, kept=0, kept_bytes=0)
