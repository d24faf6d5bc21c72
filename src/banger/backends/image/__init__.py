"""The contract of image sources: ways to make a root file system."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from banger.model.catalog import ImageEntry, ImageManifest, ImagePart
from banger.model.finding import Finding


class ImageSource(Protocol):
    """An image is made in a staging folder, which the caller publishes by renaming it; a half-made one never looks like an image."""

    def plan(self, entry: ImageEntry, into: Path) -> ImagePart:
        """Decide; BadRequest when the entry lacks what this source needs."""

    async def ensure(self, part: ImagePart) -> ImageManifest:
        """Make `rootfs.ext4` in the part's folder and return its manifest (not yet written); progress is reported as events."""

    async def remove(self, part: ImagePart) -> None:
        """Remove the part's folder, also what belongs to mapped users in it."""

    def inspect(self, part: ImagePart) -> ImageManifest | None:
        """The manifest in the part's folder, or None."""

    def check(self) -> list[Finding]:
        """Whether images can be made this way here."""


@runtime_checkable
class Moving(Protocol):
    """Sources whose entries name what somebody else may replace at any time."""

    async def current(self, entry: ImageEntry) -> str:
        """What a manifest's `resolved` would be if the image were made now; little is fetched for it, and nothing made. Errors as of `ensure`."""
