"""Kernels from bundles on the web (model/bundle.py): verified as the image beside them is, and then judged as one from anywhere else.

Owns the part's folder while it is being made; whatever goes wrong, `ensure` removes it.
"""

from __future__ import annotations

from pathlib import Path

from banger.backends.bundled import chosen, obtain, place, require
from banger.backends.guestkernels import finish
from banger.host import Host
from banger.model import codec
from banger.model.bundle import BESIDE
from banger.model.catalog import KernelEntry, KernelManifest, KernelPart
from banger.model.event import step
from banger.model.finding import Finding


class BundleKernel:
    """Source `bundle`: `url` says where, `sha256` what it must be."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def plan(self, entry: KernelEntry, into: Path) -> KernelPart:
        """See KernelSource."""
        require(entry, "kernel")
        return KernelPart(entry=entry, into=str(into))

    async def ensure(self, part: KernelPart) -> KernelManifest:
        """See KernelSource."""
        present = self.inspect(part)
        if present is not None:
            return present
        try:
            async with step("make kernel", f"making {part.entry.name} from {part.entry.url}"):
                return await self._make(part)
        except BaseException:
            await self.remove(part)
            raise

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

    async def remove(self, part: KernelPart) -> None:
        """See KernelSource."""
        self.host.files.remove_tree(Path(part.into))

    def inspect(self, part: KernelPart) -> KernelManifest | None:
        """See KernelSource."""
        data = self.host.files.read(Path(part.into) / "manifest.json")
        return None if data is None else codec.decode(data, KernelManifest, what=f"kernel {part.entry.name}")

    def check(self) -> list[Finding]:
        """See KernelSource: nothing is needed on the host."""
        return []


def backend(host: Host) -> BundleKernel:
    """Source `bundle`."""
    return BundleKernel(host)
