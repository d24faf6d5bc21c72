"""The contract of kernel sources: ways to get a guest kernel and its modules."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from banger.model.catalog import KernelEntry, KernelManifest, KernelPart
from banger.model.finding import Finding


class KernelSource(Protocol):
    """Made in a staging folder and published by the caller, like an image."""

    def plan(self, entry: KernelEntry, into: Path) -> KernelPart:
        """Decide; BadRequest when the entry lacks what this source needs."""

    async def ensure(self, part: KernelPart) -> KernelManifest:
        """Make `vmlinux` (an uncompressed ELF) and `modules/` in the part's folder and return the manifest (not yet written)."""

    async def remove(self, part: KernelPart) -> None:
        """Remove the part's folder."""

    def inspect(self, part: KernelPart) -> KernelManifest | None:
        """The manifest in the part's folder, or None."""

    def check(self) -> list[Finding]:
        """Whether kernels can be had this way here."""
