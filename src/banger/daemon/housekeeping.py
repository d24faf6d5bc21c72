"""Housekeeping: what takes space, and the removal of what nothing needs and can be had again. What may go is decided by model/usage.py.

Each thing goes by the service that owns it, which looks once more whether somebody uses it; while an operation is under way nothing is removed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import msgspec

from banger.daemon.images import Images, Kernels
from banger.daemon.operations import Operations, failure_of
from banger.host import Host
from banger.model.errors import BadRequest, BangerError, Busy
from banger.model.usage import Freed, Usage, spare_images, spare_kernels, unneeded
from banger.model.vm import VmPlan

log = logging.getLogger(__name__)


class Spare(msgspec.Struct, frozen=True, kw_only=True):
    """What may go: names of images and kernels, files of the cache."""

    images: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()
    cache: tuple[Path, ...] = ()


class Housekeeping:
    """Of this daemon's folders. `plans`: all machines' there are."""

    def __init__(self, host: Host, operations: Operations, images: Images, kernels: Kernels, plans: Callable[[], list[VmPlan]]) -> None:
        self.host, self.operations, self.images, self.kernels, self.plans = host, operations, images, kernels, plans

    async def usage(self) -> list[Usage]:
        """A row for each kind of thing; looks at every file, so not quick."""
        return await asyncio.to_thread(self._usage, self._spare((), 0), tuple(self.plans()))

    def _usage(self, spare: Spare, plans: tuple[VmPlan, ...]) -> list[Usage]:
        paths = self.host.paths
        return [
            self._shelf("images", paths.images, spare.images),
            self._shelf("kernels", paths.kernels, spare.kernels),
            self._layers_row(spare.images),
            self._row("cache", paths.cache, [path for path in children(paths.cache) if path != paths.blobs], self._bytes(spare.cache)),
            self._row(
                "machines", paths.machines, [path for plan in plans for path in children(paths.vm_state(plan.id)) if not is_log(path)], 0, len(plans)
            ),
            self._row("logs", paths.state, [*paths.state.glob("bangerd.log*"), *(path for path in paths.machines.glob("*/*") if is_log(path))], 0),
            self._row("firecrackers", paths.firecrackers, children(paths.firecrackers), 0),
        ]

    def _layers_row(self, leaving: Collection[str]) -> Usage:
        """While an image is being pulled its layers are nobody's to count apart: then none is reclaimable."""
        place = self.host.paths.blobs
        try:
            found = self.images.prune_cache(dry=True, leaving=leaving)
        except Busy:
            return self._row("layers", place, children(place / "blobs" / "sha256"), 0)
        used = found.removed_bytes + found.kept_bytes
        return Usage(kind="layers", count=found.removed + found.kept, used_bytes=used, reclaimable_bytes=found.removed_bytes, place=str(place))

    def _shelf(self, kind: str, place: Path, leaving: Iterable[str]) -> Usage:
        """What stays is counted first, so that what shares a file with it frees nothing of that."""
        seen: set[tuple[int, int]] = set()
        going = {place / name for name in leaving}
        there = children(place)
        stays = sum(self.host.files.tree_bytes(path, seen) for path in there if path not in going)
        goes = sum(self.host.files.tree_bytes(path, seen) for path in there if path in going)
        count = sum(not path.name.startswith(".") for path in there)
        return Usage(kind=kind, count=count, used_bytes=stays + goes, reclaimable_bytes=goes, place=str(place))

    def _row(self, kind: str, place: Path, files: list[Path], reclaimable: int, count: int | None = None) -> Usage:
        return Usage(
            kind=kind, count=len(files) if count is None else count, used_bytes=self._bytes(files), reclaimable_bytes=reclaimable, place=str(place)
        )

    def _bytes(self, files: Iterable[Path]) -> int:
        seen: set[tuple[int, int]] = set()
        return sum(self.host.files.tree_bytes(path, seen) for path in files)

    def _spare(self, keep: tuple[str, ...], newest: int) -> Spare:
        shelf, kernels = self.images.shelf, self.kernels.shelf
        images, every = shelf.every(), kernels.every()
        leaving = spare_images(images, {image.name: self.images.users(image.name) for image in images}, shelf.catalog, keep, newest)
        spare = spare_kernels(every, {kernel.name: self.kernels.users(kernel.name) for kernel in every}, leaving, kernels.catalog, keep)
        cache = self.host.paths.cache
        needed = {plan.machine.initramfs for plan in self.plans()}
        made = ("initramfs/*.cpio", "overlay/*.ext4", "bundles/*.tar.zst", "build/*.disk")
        files = unneeded((str(path) for pattern in made for path in cache.glob(pattern)), needed)
        return Spare(images=tuple(leaving), kernels=tuple(spare), cache=tuple(map(Path, files)))

    async def prune(self, *, keep: tuple[str, ...], newest: int, dry: bool) -> list[Freed]:
        """Remove what may go, the images before their kernels; what fails is told, the others go on. Busy while an operation is under way."""
        if newest < 0:
            raise BadRequest(f"{newest} images cannot be kept")
        for name in keep:
            if self.images.shelf.local(name) is None and self.kernels.shelf.local(name) is None:
                raise BadRequest(f"there is no image and no kernel {name!r} to be kept", hint="run: banger image list, banger kernel list")
        self._require_quiet()
        spare = self._spare(keep, newest)
        rows = [await self._go("image", name, self.host.paths.image(name), dry, self.images.delete) for name in spare.images]
        rows += [await self._go("kernel", name, self.host.paths.kernel(name), dry, self.kernels.delete) for name in spare.kernels]
        rows += [await self._go("cache", str(path), path, dry, self._drop) for path in spare.cache]
        return rows + await self._layers(spare.images, dry)

    def _require_quiet(self) -> None:
        """Whatever is being made may need what nothing uses yet."""
        if self.operations.running:
            raise Busy(f"{len(self.operations.running)} operations are under way, which may need it", hint="wait for them: banger daemon operations")

    async def _go(self, kind: str, name: str, place: Path, dry: bool, remove: Callable[[str], object]) -> Freed:
        """By bytes that leave the disk with it: a file that has another name stays."""
        freed = await asyncio.to_thread(self.host.files.tree_bytes, place, set(), alone=True)
        if dry:
            return Freed(kind=kind, name=name, freed_bytes=freed)
        try:
            self._require_quiet()
            found = remove(name)
            if asyncio.iscoroutine(found):
                await found
            log.info("%s %s went by prune", kind, name)
            return Freed(kind=kind, name=name, freed_bytes=freed)
        except (BangerError, OSError) as error:
            return Freed(kind=kind, name=name, freed_bytes=0, failure=failure_of(error))

    def _drop(self, path: str) -> None:
        self.host.files.remove_tree(Path(path))

    async def _layers(self, leaving: Collection[str], dry: bool) -> list[Freed]:
        """Layers that no image which stays was made of."""
        try:
            found = await asyncio.to_thread(self.images.prune_cache, dry=dry, leaving=leaving)
        except (BangerError, OSError) as error:
            return [Freed(kind="layers", name=str(self.host.paths.blobs), freed_bytes=0, failure=failure_of(error))]
        return [Freed(kind="layers", name=str(self.host.paths.blobs), freed_bytes=found.removed_bytes)] if found.removed else []


def children(folder: Path) -> list[Path]:
    """What is in a folder, if there is one."""
    return sorted(folder.iterdir()) if folder.is_dir() else []


def is_log(path: Path) -> bool:
    """A machine's console."""
    return path.name.startswith("console.log")
