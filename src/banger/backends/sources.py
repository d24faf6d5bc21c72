"""What all sources of images and kernels do alike: make a thing once, in a folder that is theirs until it is published.

A source says what it makes and how (`make`, with its steps); whatever goes wrong, or is cancelled, its folder is gone before the error goes on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from banger.model import codec
from banger.model.catalog import ImageManifest, ImagePart, KernelManifest, KernelPart
from banger.model.errors import BangerError

if TYPE_CHECKING:
    from banger.host import Host
    from banger.model.finding import Finding

P = TypeVar("P", ImagePart, KernelPart)
M = TypeVar("M", ImageManifest, KernelManifest)


class Source(ABC, Generic[P, M]):
    """The verbs of ImageSource and KernelSource but for `plan`; `noun` and `manifest` are what is made, for people and as a record."""

    noun: ClassVar[str]
    manifest: type[M]

    def __init__(self, host: Host) -> None:
        self.host = host

    @abstractmethod
    async def make(self, part: P) -> M:
        """Make it in the part's folder, which may not be there yet, and return its manifest (not yet written)."""

    async def ensure(self, part: P) -> M:
        """See ImageSource and KernelSource."""
        present = self.inspect(part)
        if present is not None:
            return present
        try:
            return await self.make(part)
        except BaseException as error:
            await self._clean(part, error)
            raise

    async def _clean(self, part: P, error: BaseException) -> None:
        try:
            await self.remove(part)
        except (BangerError, OSError) as leftover:
            error.add_note(f"{part.into} could not be removed: {leftover}")

    async def remove(self, part: P) -> None:
        """See ImageSource and KernelSource."""
        self.host.files.remove_tree(Path(part.into))

    def inspect(self, part: P) -> M | None:
        """See ImageSource and KernelSource."""
        data = self.host.files.read(Path(part.into) / "manifest.json")
        return None if data is None else codec.decode(data, self.manifest, what=f"{self.noun} {part.entry.name}")

    def check(self) -> list[Finding]:
        """See ImageSource and KernelSource: most need nothing of the host."""
        return []


class ImageMaker(Source[ImagePart, ImageManifest]):
    """A source of images."""

    noun, manifest = "image", ImageManifest


class KernelMaker(Source[KernelPart, KernelManifest]):
    """A source of kernels."""

    noun, manifest = "kernel", KernelManifest
