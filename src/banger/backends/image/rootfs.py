"""Images from files of this host: a raw file system is used where it is, or copied (its blocks shared where they can be); a qcow2 file is unfolded.

What a file is its bytes say. A file that is used where it is stays the user's: it is read, never written and never removed.
Owns the part's folder while it is being made; whatever goes wrong, `ensure` removes it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from banger.backends.sources import ImageMaker
from banger.host import Host, qemu_img
from banger.host.mmdebstrap import check_room
from banger.model.catalog import ImageEntry, ImageManifest, ImagePart
from banger.model.errors import BadRequest, Corrupt, HostLacks
from banger.model.event import report, step
from banger.model.finding import Finding
from banger.model.inits import UNKNOWN
from banger.model.volume import HEAD, Kind, Volume, recognise


class RootfsImage(ImageMaker):
    """Source `rootfs`: `file` names the file, `managed` says whether to copy it."""

    def plan(self, entry: ImageEntry, into: Path) -> ImagePart:
        """See ImageSource."""
        if not entry.file.startswith("/") or "\0" in entry.file:
            raise BadRequest(f"image {entry.name}: the path {entry.file!r} does not begin with '/'", hint="give the whole path of a file")
        if not entry.kernel:
            raise BadRequest(f"image {entry.name}: no kernel is named")
        return ImagePart(entry=entry, into=str(into))

    async def make(self, part: ImagePart) -> ImageManifest:
        """See Source."""
        async with step("make image", f"making {part.entry.name} from {part.entry.file}"):
            return await self._make(part)

    async def _make(self, part: ImagePart) -> ImageManifest:
        file, target = Path(part.entry.file), Path(part.into) / "rootfs.ext4"
        stamp = self.host.files.stamp(file)
        volume = self._look(file)
        self.host.files.private_folder(target.parent)
        managed = part.entry.managed or volume.kind is Kind.QCOW2
        if volume.kind is Kind.QCOW2:
            volume = await self._unfold(file, target, volume)
        elif managed:
            await self._copy(file, target, volume)
        report("compute digest")
        digest = await self.host.archive.sha256(target if managed else file)
        if self.host.files.stamp(file) != stamp:
            raise Corrupt(f"{file} was changed while it was read", hint="try again when nobody writes to it")
        return ImageManifest(
            name=part.entry.name,
            kernel=part.entry.kernel,
            source=part.entry.source,
            digest=digest,
            size_bytes=volume.size_bytes,
            used_bytes=self.host.files.used_bytes(target if managed else file),
            packages=0,
            init=UNKNOWN,
            built=self.host.clock.now(),
            filesystem=volume.kind.value,
            file="" if managed else str(file),
            stamp=(0, 0) if managed else stamp,
        )

    def _look(self, file: Path, name: str = "") -> Volume:
        head = self.host.files.head(file, HEAD)
        return recognise(head, self.host.files.size(file) or 0, name or str(file))

    async def _unfold(self, file: Path, target: Path, packed: Volume) -> Volume:
        """A qcow2 file holds a file system, or, mostly, a disk with partitions: which of them is known after its beginning."""
        qemu_img.require(self.host.proc)
        beginning = target.with_name("beginning")
        await qemu_img.begin(self.host.proc, self.host.files, file, beginning)
        recognise(self.host.files.head(beginning, HEAD), packed.size_bytes, str(file))
        self.host.files.remove_tree(beginning)
        check_room(self.host.files, target.parent, self.host.files.used_bytes(file), f"an image from {file}")
        report("unfold the qcow2 file")
        await qemu_img.unfold(self.host.proc, self.host.files, file, target, packed.size_bytes)
        found = self._look(target, str(file))
        if found.kind is Kind.QCOW2:
            raise BadRequest(f"{file} is a qcow2 file within a qcow2 file")
        return found

    async def _copy(self, file: Path, target: Path, volume: Volume) -> None:
        """Blocks are shared where the file system can; else what is not a hole is copied."""
        report("copy")
        try:
            await asyncio.to_thread(self.host.files.clone, file, target, volume.size_bytes)
        except HostLacks:
            check_room(self.host.files, target.parent, self.host.files.used_bytes(file), f"a copy of {file}")
            await asyncio.to_thread(self.host.files.copy_sparse, file, target)

    def check(self) -> list[Finding]:
        """See ImageSource."""
        return [qemu_img.finding(self.host.proc)]


def backend(host: Host) -> RootfsImage:
    """Source `rootfs`."""
    return RootfsImage(host)
