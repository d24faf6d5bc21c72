"""Images and kernels as operations see them: the two shelves, joined by 'an image needs its kernel' and 'what is used is not removed'."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from pathlib import Path

import msgspec

from banger.daemon.artefacts import Listed, Shelf
from banger.daemon.operations import Operations, Progress
from banger.daemon.references import References, unnamed
from banger.model.catalog import ImageEntry, ImageManifest, ImagePart, KernelEntry, KernelManifest, KernelPart, Wish
from banger.model.errors import BadRequest, WrongState
from banger.model.event import step
from banger.model.finding import Finding
from banger.model.oci import Pruned
from banger.model.vm import VmState, VmStatus

Users = Callable[[str], list[str]]
"""Name → the names of the machines that use it."""


async def evict(machines: Sequence[VmStatus], delete: Callable[[str], Awaitable[None]], image: str) -> None:
    """Delete the machines made from an image; WrongState, and none is deleted, when one of them is not stopped."""
    users = [machine for machine in machines if machine.image == image]
    busy = [machine.name for machine in users if machine.state is not VmState.STOPPED]
    if busy:
        raise WrongState(f"image {image} is used by {', '.join(busy)}, not stopped", hint=f"run: banger vm stop {' '.join(busy)}")
    for machine in users:
        await delete(machine.id)


class Kernels:
    """Guest kernels."""

    def __init__(self, shelf: Shelf[KernelEntry, KernelManifest, KernelPart], operations: Operations, users: Users) -> None:
        self.shelf, self.operations, self.users = shelf, operations, users
        shelf.require_unused = lambda name: refuse_used("kernel", name, users(name))

    async def need(self, name: str) -> KernelManifest:
        """The kernel, got from the catalog when it is not here."""
        return await self.shelf.need(name)

    def rows(self, *, available: bool) -> list[Listed]:
        """See Shelf.rows."""
        return self.shelf.rows(available=available, users=self.users)

    def show(self, name: str) -> KernelManifest:
        """The local kernel of that name."""
        return self.shelf.show(name)

    def pull(self, name: str, *, force: bool) -> AsyncIterator[Progress[KernelManifest]]:
        """Get it as an operation."""
        if force:
            refuse_used("kernel", name, self.users(name))
        return self.operations.follow(self.operations.begin("kernel.pull", name, lambda: self.shelf.pull(name, force=force)))

    def take(self, name: str, *, file: str, force: bool) -> AsyncIterator[Progress[KernelManifest]]:
        """Make one of the user's own files, as an operation."""
        if force:
            refuse_used("kernel", name, self.users(name))
        entry = KernelEntry(name=name, source="folder", file=file)
        return self.operations.follow(self.operations.begin("kernel.import", name, lambda: self.shelf.put(entry, force=force)))

    async def delete(self, name: str) -> None:
        """Remove it unless a machine or an image uses it."""
        refuse_used("kernel", name, self.users(name))
        await self.shelf.delete(name)


class Images:
    """Root file systems. `evict` deletes the machines that use one, if none of them runs."""

    def __init__(
        self,
        shelf: Shelf[ImageEntry, ImageManifest, ImagePart],
        operations: Operations,
        kernels: Kernels,
        users: Users,
        evict: Callable[[str], Awaitable[None]],
    ) -> None:
        self.shelf, self.operations, self.kernels, self.users, self.evict = shelf, operations, kernels, users, evict
        self.references = References(shelf, users)
        shelf.require_unused = lambda name: refuse_used("image", name, users(name))

    def check(self, name: str) -> list[Finding]:
        """What the host must have so that the image and its kernel can be made here, as far as they must be."""
        if self.references.meant(name) is not None:
            if self.references.here(name) is not None:
                return []
            return self.shelf.source("oci").check() + self.kernels.shelf.check(self.shelf.host.settings.default_kernel)
        entry = self.shelf.catalog.get(name)
        kernel = entry.kernel if entry is not None else ""
        return self.shelf.check(name) + (self.kernels.shelf.check(kernel) if kernel else [])

    async def need(self, name: str) -> ImageManifest:
        """The image, got from the catalog or its registry when it is not here."""
        if self.references.meant(name) is not None:
            return await self.references.need(name)
        return await self.shelf.need(name)

    def rows(self, *, available: bool) -> list[Listed]:
        """See Shelf.rows."""
        return self.shelf.rows(available=available, users=self.users)

    def show(self, name: str) -> ImageManifest:
        """The local image of that name, or that came from that reference."""
        return self.shelf.show(self.references.name(name))

    def pull(self, name: str, wish: Wish, *, force: bool) -> AsyncIterator[Progress[ImageManifest]]:
        """Get what it is now, and then its kernel, as one operation; what is wrong with the request is raised at once."""
        self.references.check(wish)
        name, wish = self.references.origin(name, wish) or (name, wish)
        foreign = self.references.meant(name) is not None
        if not foreign and wish != Wish():
            raise BadRequest(f"{name} is no reference to a registry, so nothing can be said of how it is to be pulled", hint="write HOST/NAME:TAG")
        if wish.kernel:
            self.kernels.shelf.known(wish.kernel)
        former = self.references.here(name, wish) if foreign else None
        if force:
            local = former.name if former is not None else name
            refuse_used("image", local, self.users(local))

        async def work() -> ImageManifest:
            image = await (self.references.pull(name, wish, force=force) if foreign else self._offered(name, force=force))
            await self.kernels.need(image.kernel)
            return image

        return self.operations.follow(self.operations.begin("image.pull", name, work))

    async def _offered(self, name: str, *, force: bool) -> ImageManifest:
        """The catalog's; one that is here is made anew where the catalog means a registry's tag, and that has moved on."""
        found, entry = self.shelf.local(name), self.shelf.catalog.get(name)
        if found is not None and found.resolved and entry is not None and not force:
            async with step("pull image", f"asking for {entry.reference}"):
                current = await self.references.current(entry)
            if current not in ("", found.resolved):
                refuse_used("image", name, self.users(name))
                return await self.shelf.pull(name, force=True)
        return await self.shelf.pull(name, force=force)

    def prune_cache(self, *, dry: bool, leaving: Collection[str] = ()) -> Pruned:
        """Remove from the cache of blobs what no local image was made of, but for those that are `leaving`; Busy while an image is being pulled."""
        roots = {image.resolved for image in self.shelf.every() if image.resolved and image.name not in leaving}
        return self.shelf.host.blobs.prune(roots, dry=dry)

    def require_still(self, image: ImageManifest) -> None:
        """WrongState when an image that was here a moment ago has gone since, or another one has its name."""
        found = self.shelf.local(image.name)
        if found is None or (found.digest, found.file) != (image.digest, image.file):
            what = "was removed" if found is None else "was replaced"
            raise WrongState(f"image {image.name} {what} meanwhile", hint="the same command again")

    def base(self, image: ImageManifest) -> Path:
        """The file of an image's root file system; WrongState when it is the user's own and no longer the one that was registered."""
        if not image.file:
            return self.shelf.host.paths.image(image.name) / "rootfs.ext4"
        found = self.shelf.host.files.stamp(Path(image.file))
        if found != image.stamp:
            what = "has changed since it was registered" if found != (0, 0) else "is missing"
            again = f"to take it as it is now: banger image register --force {image.name} --rootfs {image.file}"
            raise WrongState(f"image {image.name}: its file {image.file} {what}", hint=again)
        return Path(image.file)

    def register(self, name: str, *, rootfs: str, kernel: str | None, force: bool) -> AsyncIterator[Progress[ImageManifest]]:
        """Make an image of a file of the user's as an operation. The file stays the user's, but a qcow2 file is unfolded into one of ours."""
        if force:
            refuse_used("image", name, self.users(name))
        chosen = self.kernels.shelf.known(kernel or self.shelf.host.settings.default_kernel)
        entry = ImageEntry(name=name, source="rootfs", kernel=chosen, file=rootfs, managed=False)
        return self.operations.follow(self.operations.begin("image.register", name, lambda: self.shelf.put(entry, force=force)))

    def promote(self, name: str) -> AsyncIterator[Progress[ImageManifest]]:
        """Take a copy of a registered file, as an operation; an image that is banger's own already stays as it is."""

        async def work() -> ImageManifest:
            image = self.show(name)
            if not image.file:
                return image
            self.base(image)
            entry = ImageEntry(name=name, source="rootfs", kernel=image.kernel, file=image.file)
            return await self.shelf.put(entry, force=True, ready=lambda: self.require_still(image))

        self.show(name)
        return self.operations.follow(self.operations.begin("image.promote", name, work))

    async def tag(self, name: str, new: str) -> ImageManifest:
        """A second name for an image; the bytes are there once, until both names are gone. A tag that moves on takes only the first name with it."""
        return await self.shelf.tag(name, new, lambda image, name: msgspec.structs.replace(unnamed(image), name=name), "rootfs.ext4")

    async def delete(self, name: str, *, force: bool = False) -> None:
        """Remove it unless a machine uses it; with `force` those machines go first, but for one that runs, which keeps all of them."""
        name = self.references.name(name)
        if force and self.users(name):
            await self.evict(name)
        refuse_used("image", name, self.users(name))
        await self.shelf.delete(name)


def refuse_used(noun: str, name: str, users: list[str]) -> None:
    """WrongState when someone uses it."""
    if users:
        raise WrongState(f"{noun} {name} is used by {', '.join(users)}", hint=f"delete {'them' if len(users) > 1 else 'it'} first")
