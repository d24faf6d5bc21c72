"""Kernels from a tar archive on the web: `vmlinux`, and beside it `config`, `modules/` and an `initrd.img`, which is left out. Anything else: refused.

The archive is what its SHA-256 says before anything of it is unpacked. Owns the part's folder while it is being made; whatever goes wrong, `ensure`
removes it.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from banger.backends.bundled import require
from banger.backends.downloads import fetch
from banger.backends.guestkernels import LIMIT, finish, left_out, wanted_module
from banger.backends.sources import KernelMaker
from banger.host import Host
from banger.host.mmdebstrap import check_room
from banger.model.catalog import KernelEntry, KernelManifest, KernelPart
from banger.model.errors import Corrupt
from banger.model.event import report, step

#: The archive as it is fetched.
LARGEST = 1 << 30
ROOM = 512 << 20
SINGLE = ("vmlinux", "config", "initrd.img")


class TarballKernel(KernelMaker):
    """Source `tarball`: `url` says where, `sha256` what it must be."""

    def plan(self, entry: KernelEntry, into: Path) -> KernelPart:
        """See KernelSource."""
        require(entry, "kernel")
        return KernelPart(entry=entry, into=str(into))

    async def make(self, part: KernelPart) -> KernelManifest:
        """See Source."""
        async with step("make kernel", f"making {part.entry.name} from {part.entry.url}"):
            return await self._make(part)

    async def _make(self, part: KernelPart) -> KernelManifest:
        files, into = self.host.files, self.host.files.private_folder(Path(part.into))
        build = files.private_folder(into / ".build")
        check_room(files, into, ROOM, f"kernel {part.entry.name}")
        packed, tar, taken = build / "archive", build / "archive.tar", build / "taken"
        await fetch(self.host, part.entry.url, part.entry.sha256, packed, name=part.entry.name, limit=LARGEST)
        report("unpack")
        await self.host.archive.unpack(packed, tar, limit=LIMIT)
        files.remove_tree(packed)
        await self.host.archive.take(tar, taken, belongs, limit=LIMIT, strict=True)
        files.remove_tree(tar)
        if not (taken / "vmlinux").exists():
            raise Corrupt(f"kernel {part.entry.name}: there is no vmlinux in the archive")
        for name in ("config", "modules"):
            if (taken / name).exists():
                (taken / name).rename(into / name)
        if (taken / "initrd.img").exists():
            report(left_out("initrd.img"))
        made = await finish(self.host, part, taken / "vmlinux")
        files.remove_tree(build)
        return made


def belongs(name: PurePosixPath) -> PurePosixPath | None:
    """Where a file of the archive goes, if it has a place: the three by their names, and modules with their lists."""
    if str(name) in SINGLE:
        return name
    listed = name.name.startswith("modules.")
    return name if name.parts[:1] == ("modules",) and len(name.parts) > 1 and (listed or wanted_module(name)) else None


def backend(host: Host) -> TarballKernel:
    """Source `tarball`."""
    return TarballKernel(host)
