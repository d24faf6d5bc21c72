"""Bundles: several images and kernels to one file and back, whole or not at all. What may be in one is judged by model/bundle.py and host/bundle.py.

What is taken lies in staging folders of the two shelves until all of it is verified, so what a killed daemon leaves is removed as theirs is.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec

from banger.backends.downloads import fetch, verify
from banger.daemon.images import Images, Kernels, refuse_used
from banger.daemon.operations import Operations, Progress
from banger.host import Host
from banger.host.mmdebstrap import check_room
from banger.host.web import acceptable
from banger.model.bundle import BESIDE, Bundle, BundledFile, content_name, own
from banger.model.catalog import ImageManifest, KernelManifest
from banger.model.errors import AlreadyExists, BadRequest, Corrupt, NotFound
from banger.model.event import report, step
from banger.model.operation import Loaded, Saved
from banger.model.paths import whole
from banger.model.releases import valid_digest
from banger.model.volume import HEAD, LARGEST, Kind, recognise

log = logging.getLogger(__name__)


class Bundles:
    """Saving and loading."""

    def __init__(self, host: Host, operations: Operations, images: Images, kernels: Kernels) -> None:
        self.host, self.operations, self.images, self.kernels = host, operations, images, kernels

    # -- out ------------------------------------------------------------------------------------------------------------------------------------

    def save(self, names: Sequence[str], *, file: str) -> AsyncIterator[Progress[Saved]]:
        """Write images (with their kernels) and kernels to a new file as an operation; a folder gets a file named after its content."""
        images, kernels = self._chosen(names)
        target = absolute(file)
        if target.exists() and not target.is_dir():
            raise AlreadyExists(f"there is a file {target} already", hint="choose another name, or remove it")
        return self.operations.follow(self.operations.begin("bundle.save", ", ".join(names), lambda: self._save(target, images, kernels)))

    def _chosen(self, names: Sequence[str]) -> tuple[list[ImageManifest], list[KernelManifest]]:
        if not names:
            raise BadRequest("no image and no kernel is named")
        images = {name: image for name in names if (image := self.images.shelf.local(name)) is not None}
        wanted = [*(image.kernel for image in images.values()), *(name for name in names if name not in images)]
        return list(images.values()), [self.kernels.show(name) for name in dict.fromkeys(wanted)]

    async def _save(self, target: Path, images: list[ImageManifest], kernels: list[KernelManifest]) -> Saved:
        async with step("save bundle", f"saving to {target}"):
            listed = [
                (BundledFile(path=f"images/{image.name}/rootfs.ext4", size=image.size_bytes, digest=image.digest), self.images.base(image))
                for image in images
            ]
            for kernel in kernels:
                listed += await self._kernel_files(kernel)
            bundle = Bundle(images=tuple(map(own, images)), kernels=tuple(kernels), files=tuple(file for file, _ in listed))
            named = target.name if not target.is_dir() else ""
            folder = target if target.is_dir() else target.parent
            check_room(self.host.files, folder, sum(self.host.files.used_bytes(path) for _, path in listed) // 4, f"the bundle {target}")
            made, digest = await self.host.bundles.write(
                folder, lambda digest: named or content_name(bundle, digest), bundle, [path for _, path in listed]
            )
        names = tuple(image.name for image in images), tuple(kernel.name for kernel in kernels)
        return Saved(file=str(made), digest=digest, size_bytes=self.host.files.size(made) or 0, images=names[0], kernels=names[1])

    async def _kernel_files(self, kernel: KernelManifest) -> list[tuple[BundledFile, Path]]:
        report(f"look at kernel {kernel.name}")
        folder = self.host.paths.kernel(kernel.name)
        modules = sorted(path for path in folder.glob("modules/**/*") if path.is_file() and not path.is_symlink())
        listed = []
        for path in [*(folder / name for name in BESIDE if (folder / name).exists()), *modules]:
            inside = path.relative_to(folder)
            digest = kernel.digest if path.name == "vmlinux" else await self.host.archive.sha256(path)
            listed.append((BundledFile(path=f"kernels/{kernel.name}/{inside}", size=path.stat().st_size, digest=digest), path))
        return listed

    # -- in -------------------------------------------------------------------------------------------------------------------------------------

    def load(self, *, file: str, sha256: str | None = None, unverified: bool = False, force: bool = False) -> AsyncIterator[Progress[Loaded]]:
        """Take all that is in a bundle, a file or on the web, as an operation; what is here already, byte for byte, stays as it is.

        What comes from the web is what `sha256` says, unless it is to be taken `unverified`.
        """
        digest = valid_digest(sha256) if sha256 else ""
        if file.startswith("/") or "://" not in file:
            source = absolute(file)
            return self.operations.follow(self.operations.begin("bundle.load", str(source), lambda: self._judged(source, digest, force)))
        acceptable(file)
        if not digest and not unverified:
            raise BadRequest(f"nothing says what {file} must be", hint="give --sha256 HEX, from whom you trust; or --unverified to take what comes")
        return self.operations.follow(self.operations.begin("bundle.load", file, lambda: self._fetched(file, digest, force)))

    async def _fetched(self, url: str, digest: str, force: bool) -> Loaded:
        staging = self.host.files.private_folder(self.images.shelf.staging("download"))
        try:
            async with step("fetch bundle", f"fetching {url}"):
                await fetch(self.host, url, digest, staging / "bundle", name="the bundle", limit=LARGEST)
            return await self._load(staging / "bundle", force, url)
        finally:
            self.host.files.remove_tree(staging)

    async def _judged(self, source: Path, digest: str, force: bool) -> Loaded:
        self.host.files.head(source, 1)
        await verify(self.host, source, digest, str(source))
        return await self._load(source, force)

    async def _load(self, source: Path, force: bool, name: str = "") -> Loaded:
        async with step("load bundle", f"loading {name or source}"):
            wanted = await self.host.bundles.manifest(source)
            missing = self._missing(wanted, force)
            if not missing:
                return Loaded(images=(), kernels=(), present=tuple(each.name for each in (*wanted.images, *wanted.kernels)))
            check_room(self.host.files, self.host.paths.images, self.host.files.used_bytes(source), f"what is in {name or source}")
            stages = {"images": self.images.shelf.staging("bundle"), "kernels": self.kernels.shelf.staging("bundle")}
            for stage in stages.values():
                self.host.files.private_folder(stage)
            try:
                bundle = await self.host.bundles.read(source, lambda kind, inside: stages[kind] / inside)
                if bundle != wanted:
                    raise Corrupt(f"{source} was changed while it was read", hint="try again when nobody writes to it")
                await self._judge(bundle, stages)
                return await self._publish(bundle, missing, stages, force)
            finally:
                for stage in stages.values():
                    self.host.files.remove_tree(stage)

    def _missing(self, bundle: Bundle, force: bool) -> set[tuple[str, str]]:
        """What has to be taken; AlreadyExists when something else has the name, unless forced, and WrongState when that is used."""
        missing = set()
        for image in bundle.images:
            if self._stands(self.images.shelf.local(image.name), image.digest, "image", image.name, force, self.images.users(image.name)):
                missing.add(("images", image.name))
        for kernel in bundle.kernels:
            if self._stands(self.kernels.shelf.local(kernel.name), kernel.digest, "kernel", kernel.name, force, self.kernels.users(kernel.name)):
                missing.add(("kernels", kernel.name))
        for image in bundle.images:
            if ("kernels", image.kernel) not in missing and self.kernels.shelf.local(image.kernel) is None:
                report(f"note: the kernel {image.kernel} of image {image.name} is not in the bundle, and not here")
        return missing

    def _stands(self, found: ImageManifest | KernelManifest | None, digest: str, noun: str, name: str, force: bool, users: list[str]) -> bool:
        if found is None:
            return True
        if found.digest == digest:
            return False
        if not force:
            raise AlreadyExists(f"there is another {noun} {name} already", hint=f"banger {noun} delete {name}, or --force to replace it")
        refuse_used(noun, name, users)
        return True

    async def _judge(self, bundle: Bundle, stages: dict[str, Path]) -> None:
        """That images are file systems, and kernels are kernels for this host."""
        for image in bundle.images:
            path = stages["images"] / image.name / "rootfs.ext4"
            if recognise(self.host.files.head(path, HEAD), image.size_bytes, f"image {image.name}").kind is Kind.QCOW2:
                raise Corrupt(f"image {image.name} in the bundle is no plain file system")
        for kernel in bundle.kernels:
            facts = await self.host.archive.kernel_facts(stages["kernels"] / kernel.name / "vmlinux")
            if facts.architecture != self.host.facts.architecture():
                raise BadRequest(f"kernel {kernel.name} is for {facts.architecture}, this host is {self.host.facts.architecture()}")

    async def _publish(self, bundle: Bundle, missing: set[tuple[str, str]], stages: dict[str, Path], force: bool) -> Loaded:
        """Kernels first, so that no image is there without its own."""
        for kernel in bundle.kernels:
            if ("kernels", kernel.name) in missing:
                await self.kernels.shelf.adopt(kernel, stages["kernels"] / kernel.name, force=force)
        for image in bundle.images:
            if ("images", image.name) in missing:
                used = self.host.files.used_bytes(stages["images"] / image.name / "rootfs.ext4")
                await self.images.shelf.adopt(msgspec.structs.replace(own(image), used_bytes=used), stages["images"] / image.name, force=force)
        log.info("a bundle was loaded: %s", ", ".join(sorted(f"{kind}/{name}" for kind, name in missing)) or "all of it was here")
        return Loaded(
            images=tuple(image.name for image in bundle.images if ("images", image.name) in missing),
            kernels=tuple(kernel.name for kernel in bundle.kernels if ("kernels", kernel.name) in missing),
            present=tuple(each.name for each in (*bundle.images, *bundle.kernels) if not {("images", each.name), ("kernels", each.name)} & missing),
        )


def absolute(file: str) -> Path:
    """The path; BadRequest when it is not a whole one, NotFound when its folder is not there."""
    path = whole(file)
    if not path.parent.is_dir():
        raise NotFound(f"there is no folder {path.parent}")
    return path
