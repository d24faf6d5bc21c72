"""Kernels from bundles on the web (model/bundle.py): verified as the image beside them is, and then judged as one from anywhere else.

Owns the part's folder while it is being made; whatever goes wrong, `ensure` removes it.
"""

from __future__ import annotations

from pathlib import Path

from banger.backends.bundled import chosen, obtain, place, require
from banger.backends.guestkernels import finish
from banger.backends.sources import KernelMaker
from banger.host import Host
from banger.model.bundle import BESIDE
from banger.model.catalog import KernelEntry, KernelManifest, KernelPart
from banger.model.event import step


class BundleKernel(KernelMaker):
    """Source `bundle`: `url` says where, `sha256` what it must be."""

    def plan(self, entry: KernelEntry, into: Path) -> KernelPart:
        """See KernelSource."""
        require(entry, "kernel")
        return KernelPart(entry=entry, into=str(into))

    async def make(self, part: KernelPart) -> KernelManifest:
        """See Source."""
        async with step("make kernel", f"making {part.entry.name} from {part.entry.url}"):
            return await self._make(part)

    async def _make(self, part: KernelPart) -> KernelManifest:
        entry, into = part.entry, self.host.files.private_folder(Path(part.into))
        build = self.host.files.private_folder(into / ".build")
        bundle, taken = await obtain(self.host, entry, build)
        kernel = taken / "kernels" / chosen(bundle.kernels, entry.name, "kernel", entry.url).name
        for name in (*(name for name in BESIDE if name != "vmlinux"), "modules"):
            if (kernel / name).exists():
                (kernel / name).rename(into / name)
        made = await finish(self.host, part, kernel / "vmlinux")
        self.host.files.remove_tree(build)
        self.host.files.remove_tree(place(self.host, entry.sha256))
        return made


def backend(host: Host) -> BundleKernel:
    """Source `bundle`."""
    return BundleKernel(host)
