"""Images from bundles on the web (model/bundle.py): the root file system as somebody has saved it, verified twice: the bundle, and each file in it.

Owns the part's folder while it is being made; whatever goes wrong, `ensure` removes it.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from banger.backends.bundled import chosen, leave, obtain, require
from banger.backends.sources import ImageMaker
from banger.host import Host
from banger.model.bundle import own
from banger.model.catalog import ImageEntry, ImageManifest, ImagePart
from banger.model.errors import BadRequest, Corrupt
from banger.model.event import step
from banger.model.volume import HEAD, Kind, recognise


class BundleImage(ImageMaker):
    """Source `bundle`: `url` says where, `sha256` what it must be, `kernel` what the image in it boots with."""

    def plan(self, entry: ImageEntry, into: Path) -> ImagePart:
        """See ImageSource."""
        require(entry, "image")
        if not entry.kernel:
            raise BadRequest(f"image {entry.name}: no kernel is named")
        return ImagePart(entry=entry, into=str(into))

    async def make(self, part: ImagePart) -> ImageManifest:
        """See Source."""
        async with step("make image", f"making {part.entry.name} from {part.entry.url}"):
            return await self._make(part)

    async def _make(self, part: ImagePart) -> ImageManifest:
        entry, into = part.entry, self.host.files.private_folder(Path(part.into))
        build = self.host.files.private_folder(into / ".build")
        bundle, taken = await obtain(self.host, entry, build)
        image = chosen(bundle.images, entry.name, "image", entry.url)
        file, rootfs = taken / "images" / image.name / "rootfs.ext4", into / "rootfs.ext4"
        kind = recognise(self.host.files.head(file, HEAD), image.size_bytes, f"image {entry.name}").kind
        if kind is Kind.QCOW2:
            raise Corrupt(f"image {image.name} in the bundle is no plain file system")
        file.rename(rootfs)
        leave(self.host, entry, build)
        self.host.files.remove_tree(build)
        return msgspec.structs.replace(
            own(image),
            name=entry.name,
            source=entry.source,
            kernel=entry.kernel,
            used_bytes=self.host.files.used_bytes(rootfs),
            filesystem=kind.value,
            reference="",
            resolved="",
        )


def backend(host: Host) -> BundleImage:
    """Source `bundle`."""
    return BundleImage(host)
