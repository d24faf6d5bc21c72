"""Kernels from the Debian archive: the package is extracted, not installed; vmlinux is unpacked from vmlinuz, all modules are kept.

Owns the part's folder while it is being made; whatever goes wrong, `ensure` removes it.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import msgspec

from banger.backends.sources import KernelMaker
from banger.host import Host
from banger.host.mmdebstrap import Request, bootstrap, check_room, findings, require, validate
from banger.host.unshare import mapped
from banger.model.catalog import KernelEntry, KernelManifest, KernelPart
from banger.model.errors import BadRequest, Corrupt
from banger.model.event import report, step
from banger.model.finding import Finding

#: Debian's names of architectures, by uname's.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
#: The tar, what is taken from it, and the unpacked kernel; a cloud kernel of Debian 12 needs about 400 MiB of it for a moment.
ROOM = 768 << 20
#: The most that is taken out of the tar; Debian's largest kernel package has some 500 MiB of modules.
LIMIT = 1 << 30
#: The folder in the part's folder for all that does not stay.
BUILD = ".build"


class DebianKernel(KernelMaker):
    """Source `debian`: suite and package name what to take; `{arch}` in the package stands for Debian's name of this machine's architecture."""

    def plan(self, entry: KernelEntry, into: Path) -> KernelPart:
        """See KernelSource."""
        machine = self.host.facts.architecture()
        if machine not in ARCHITECTURES:
            raise BadRequest(f"kernel {entry.name}: there is none for {machine}", hint=f"known are: {', '.join(sorted(ARCHITECTURES))}")
        if not entry.suite or not entry.package:
            raise BadRequest(f"kernel {entry.name}: a catalog entry of source debian needs suite and package")
        concrete = msgspec.structs.replace(entry, package=entry.package.replace("{arch}", ARCHITECTURES[machine]))
        validate(request(concrete))
        return KernelPart(entry=concrete, into=str(into))

    async def make(self, part: KernelPart) -> KernelManifest:
        """See Source."""
        require(self.check(), self.host.facts.distribution())
        async with step("make kernel", f"making {part.entry.name} from {part.entry.package}"):
            return await self._make(part)

    async def _make(self, part: KernelPart) -> KernelManifest:
        what = f"kernel {part.entry.name}"
        into = self.host.files.private_folder(Path(part.into))
        check_room(self.host.files, into, ROOM, what)
        build = self.host.files.private_folder(into / BUILD)
        temporary = self.host.files.private_folder(build / "tmp")
        root = self.host.facts.root()
        tar = build / "kernel.tar"
        await bootstrap(self.host.proc, self.host.files, root=root, request=request(part.entry), target=tar, temporary=temporary, what=what)
        report("unpack kernel and modules")
        await self.host.archive.take(tar, build / "taken", chosen, limit=LIMIT)
        release = await self._arrange(build / "taken", into, what)
        await self._remove(build)
        return await self._manifest(part, into, release)

    async def _arrange(self, taken: Path, into: Path, what: str) -> str:
        """vmlinux, config and modules to their places; the release is the name of the modules' folder."""
        modules = sole(taken / "modules", f"{what}: folder of modules")
        image = sole(taken / "boot", f"{what}: vmlinuz")
        await self.host.archive.unpack_kernel(image, into / "vmlinux")
        modules.rename(into / "modules")
        config = taken / "config" / f"config-{modules.name}"
        if config.exists():
            config.rename(into / "config")
        return modules.name

    async def _manifest(self, part: KernelPart, into: Path, release: str) -> KernelManifest:
        kernel = into / "vmlinux"
        return KernelManifest(
            name=part.entry.name,
            source=part.entry.source,
            release=release,
            digest=await self.host.archive.sha256(kernel),
            size_bytes=kernel.stat().st_size,
            architecture=self.host.facts.architecture(),
            built=self.host.clock.now(),
        )

    async def remove(self, part: KernelPart) -> None:
        """See KernelSource."""
        await self._remove(Path(part.into))

    async def _remove(self, path: Path) -> None:
        if path.exists():
            await self.host.proc.run([*mapped(self.host.facts.root()), "rm", "-rf", "--one-file-system", "--", str(path)], timeout=120)

    def check(self) -> list[Finding]:
        """See KernelSource."""
        return findings(self.host.proc, self.host.files, root=self.host.facts.root())


def request(entry: KernelEntry) -> Request:
    """The package and what it depends on, extracted only: none of its scripts run."""
    return Request(suite=entry.suite, variant="extract", packages=(entry.package,))


def chosen(name: PurePosixPath) -> PurePosixPath | None:
    """Where a file of the package goes: the kernel to boot/, its configuration to config/, modules (by release) to modules/, nothing else."""
    parts = name.parts[1:] if name.parts[:1] == ("usr",) else name.parts
    if len(parts) == 2 and parts[0] == "boot":
        if parts[1].startswith("vmlinuz-"):
            return PurePosixPath("boot", parts[1])
        return PurePosixPath("config", parts[1]) if parts[1].startswith("config-") else None
    return PurePosixPath(*parts[1:]) if parts[:2] == ("lib", "modules") and len(parts) > 3 else None


def sole(folder: Path, what: str) -> Path:
    """The one thing in a folder; Corrupt when there is none, or more."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    if len(found) != 1:
        raise Corrupt(f"{what}: the package holds {len(found)} where one is expected")
    return found[0]


def backend(host: Host) -> DebianKernel:
    """Source `debian`."""
    return DebianKernel(host)
