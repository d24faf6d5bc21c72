"""Kernels from this host's own files: a vmlinux, or a bzImage, which is unpacked; with a configuration and modules where they lie beside it.

The user's files are copied first and looked at then. Owns the part's folder while it is being made; whatever goes wrong, `ensure` removes it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import msgspec

from banger.backends.guestkernels import LARGEST_CONFIG, LIMIT, finish, left_out, wanted_module
from banger.backends.sources import KernelMaker
from banger.host import Host
from banger.host.mmdebstrap import check_room
from banger.model.catalog import KernelEntry, KernelManifest, KernelPart
from banger.model.errors import BadRequest, NotFound
from banger.model.event import report, step

#: Names of a kernel in a folder, better ones first, and where besides the folder itself it may lie: a root, and the kernel's own build tree.
KERNELS = ("vmlinux", "bzImage", "Image", "vmlinuz", "vmlinux-*", "vmlinuz-*")
PLACES = ("", "boot", "arch/x86/boot", "arch/arm64/boot")
CONFIGS = ("config", "config-*", ".config", "boot/config-*")
INITRDS = ("initrd.img", "initrd.img-*", "initramfs-*", "boot/initrd.img-*", "boot/initramfs-*")


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What lies where; only the kernel must be there."""

    kernel: Path
    config: Path | None = None
    modules: Path | None = None
    initrd: Path | None = None


class FolderKernel(KernelMaker):
    """Source `folder`: `file` names a kernel, or a folder with one in it."""

    def plan(self, entry: KernelEntry, into: Path) -> KernelPart:
        """See KernelSource."""
        if not entry.file.startswith("/") or "\0" in entry.file:
            raise BadRequest(f"kernel {entry.name}: the path {entry.file!r} does not begin with '/'", hint="give the whole path of a file or folder")
        return KernelPart(entry=entry, into=str(into))

    async def make(self, part: KernelPart) -> KernelManifest:
        """See Source."""
        async with step("make kernel", f"making {part.entry.name} from {part.entry.file}"):
            return await self._make(part, locate(Path(part.entry.file)))

    async def _make(self, part: KernelPart, found: Found) -> KernelManifest:
        files, into = self.host.files, self.host.files.private_folder(Path(part.into))
        image = into / ".taken"
        self._copy(found.kernel, image, LIMIT // 4)
        if found.config is not None:
            self._copy(found.config, into / "config", LARGEST_CONFIG)
        if found.initrd is not None:
            report(left_out(str(found.initrd)))
        if found.modules is not None:
            await self._copy_modules(found.modules, into / "modules", f"kernel {part.entry.name}")
        made = await finish(self.host, part, image)
        files.remove_tree(image)
        return made

    def _copy(self, source: Path, target: Path, most: int) -> None:
        self.host.files.head(source, 1)
        size = self.host.files.size(source) or 0
        if size > most:
            raise BadRequest(f"{source} is too large for what it is taken for ({size} bytes)")
        check_room(self.host.files, target.parent, size, f"a copy of {source}")
        self.host.files.copy_sparse(source, target)

    async def _copy_modules(self, source: Path, target: Path, what: str) -> None:
        """Modules and their lists, as they are; links, and all else that may lie there, are left out."""
        report("copy modules")
        left = LIMIT
        self.host.files.private_folder(target)
        for path in modules_in(source):
            left -= path.stat().st_size
            if left < 0:
                raise BadRequest(f"{what}: its modules have more than {LIMIT >> 30} GiB", hint="strip them: make INSTALL_MOD_STRIP=1 modules_install")
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            self.host.files.copy_sparse(path, place)
            await asyncio.sleep(0)


def locate(path: Path) -> Found:
    """The kernel and what belongs to it, by where such things lie; BadRequest when there are several and none is named."""
    if path.is_file():
        return _beside(path)
    if not path.is_dir():
        raise NotFound(f"there is no kernel and no folder {path}")
    kernels = [found for pattern in KERNELS for place in PLACES for found in _files(path / place, pattern)]
    named = [found for found in kernels if found.name in KERNELS]
    if not kernels:
        raise NotFound(f"there is no kernel in {path}", hint=f"it must be called {', '.join(KERNELS)}, there or in boot/; or name the file itself")
    if not named and len({found.resolve() for found in kernels}) > 1:
        raise BadRequest(f"there are several kernels in {path}: {', '.join(found.name for found in kernels[:5])}", hint="name one of these files")
    kernel = (named or kernels)[0]
    tail = kernel.name.partition("-")[2]
    return Found(
        kernel=kernel,
        config=_fitting(path, CONFIGS, tail),
        modules=_modules(path, tail),
        initrd=_fitting(path, INITRDS, tail),
    )


def _beside(kernel: Path) -> Found:
    """A file that is named: /boot/vmlinuz-6.1 has its configuration beside it and its modules where such a root has them."""
    tail = kernel.name.partition("-")[2]
    if not tail:
        return Found(kernel=kernel, config=_fitting(kernel.parent, ("config", ".config"), ""))
    root = kernel.parent.parent if kernel.parent.name == "boot" else kernel.parent
    return Found(
        kernel=kernel,
        config=next(iter(_files(kernel.parent, f"config-{tail}")), None),
        modules=next((place for place in _folders(root, (f"lib/modules/{tail}", f"usr/lib/modules/{tail}"))), None),
    )


def _fitting(folder: Path, patterns: tuple[str, ...], tail: str) -> Path | None:
    """The first that carries the kernel's own tail, or none."""
    found = [file for pattern in patterns for file in _files(folder, pattern)]
    return next((file for file in found if not file.name.partition("-")[2] or file.name.partition("-")[2] == tail or not tail), None)


def _modules(folder: Path, tail: str) -> Path | None:
    """`modules/`, or what a root or `make modules_install` has; of several releases the kernel's own."""
    places = [place for base in _folders(folder, ("modules", "lib/modules", "usr/lib/modules")) for place in _releases(base)]
    return next((place for place in places if not tail or place.name in (tail, "modules")), None)


def _releases(base: Path) -> list[Path]:
    """A folder of modules has them itself (`kernel/`), or has a folder for each release."""
    children = sorted(child for child in base.iterdir() if child.is_dir() and not child.is_symlink())
    inside = [child for child in children if child.name not in ("kernel", "updates", "extra", "build", "source")]
    return inside if inside and len(inside) == len(children) else [base]


def _files(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.is_file()) if folder.is_dir() else []


def _folders(folder: Path, names: tuple[str, ...]) -> list[Path]:
    return [folder / name for name in names if (folder / name).is_dir()]


def modules_in(folder: Path) -> Iterator[Path]:
    """Every regular file in it that is a module or one of their lists."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(place, name)
            if not path.is_symlink() and path.is_file() and wanted_module(PurePosixPath(name)):
                yield path


def backend(host: Host) -> FolderKernel:
    """Source `folder`."""
    return FolderKernel(host)
