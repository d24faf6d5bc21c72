"""Images and kernels as operations see them: the two shelves, joined by 'an image needs its kernel' and 'what is used is not removed'."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from banger.daemon.artefacts import Listed, Shelf
from banger.daemon.operations import Operations, Progress
from banger.model.catalog import ImageEntry, ImageManifest, ImagePart, KernelEntry, KernelManifest, KernelPart
from banger.model.errors import WrongState
from banger.model.finding import Finding

Users = Callable[[str], list[str]]
"""Name → the names of the machines that use it."""


class Kernels:
    """Guest kernels."""

    def __init__(self, shelf: Shelf[KernelEntry, KernelManifest, KernelPart], operations: Operations, users: Users) -> None:
        self.shelf, self.operations, self.users = shelf, operations, users

    async def need(self, name: str) -> KernelManifest:
        """The kernel, got from the catalog when it is not here."""
        return await self.shelf.need(name)

    def rows(self, *, available: bool) -> list[Listed]:
        """See Shelf.rows."""
        return self.shelf.rows(available=available)

    def show(self, name: str) -> KernelManifest:
        """The local kernel of that name."""
        return self.shelf.show(name)

    def pull(self, name: str, *, force: bool) -> AsyncIterator[Progress[KernelManifest]]:
        """Get it as an operation."""
        if force:
            refuse_used("kernel", name, self.users(name))
        return self.operations.follow(self.operations.begin("kernel.pull", name, lambda: self.shelf.pull(name, force=force)))

    async def delete(self, name: str) -> None:
        """Remove it unless a machine or an image uses it."""
        refuse_used("kernel", name, self.users(name))
        await self.shelf.delete(name)


class Images:
    """Root file systems."""

    def __init__(self, shelf: Shelf[ImageEntry, ImageManifest, ImagePart], operations: Operations, kernels: Kernels, users: Users) -> None:
        self.shelf, self.operations, self.kernels, self.users = shelf, operations, kernels, users

    def check(self, name: str) -> list[Finding]:
        """What the host must have so that the image and its kernel can be made here, as far as they must be."""
        entry = self.shelf.catalog.get(name)
        kernel = entry.kernel if entry is not None else ""
        return self.shelf.check(name) + (self.kernels.shelf.check(kernel) if kernel else [])

    async def need(self, name: str) -> ImageManifest:
        """The image, got from the catalog when it is not here."""
        return await self.shelf.need(name)

    def rows(self, *, available: bool) -> list[Listed]:
        """See Shelf.rows."""
        return self.shelf.rows(available=available)

    def show(self, name: str) -> ImageManifest:
        """The local image of that name."""
        return self.shelf.show(name)

    def pull(self, name: str, *, force: bool) -> AsyncIterator[Progress[ImageManifest]]:
        """Get it, and then its kernel, as one operation."""
        if force:
            refuse_used("image", name, self.users(name))

        async def work() -> ImageManifest:
            image = await self.shelf.pull(name, force=force)
            await self.kernels.need(image.kernel)
            return image

        return self.operations.follow(self.operations.begin("image.pull", name, work))

    async def delete(self, name: str) -> None:
        """Remove it unless a machine uses it."""
        refuse_used("image", name, self.users(name))
        await self.shelf.delete(name)


def refuse_used(noun: str, name: str, users: list[str]) -> None:
    """WrongState when someone uses it."""
    if users:
        raise WrongState(f"{noun} {name} is used by {', '.join(users)}", hint=f"delete {'them' if len(users) > 1 else 'it'} first")
