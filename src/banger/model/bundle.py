"""Bundles: images and kernels in one file, for hosts without a network. A tar archive packed by zstd: `manifest.json`, then exactly what it lists.

Everything in it is hostile: the manifest is judged here before a byte of the rest is taken, and each file must be as long and have the digest that it
says. Paths are those that files have on the shelves, so nothing can lead elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

import msgspec

from banger.model.catalog import ImageManifest, KernelManifest
from banger.model.errors import Corrupt
from banger.model.ids import valid_artefact_name
from banger.model.volume import LARGEST

VERSION = 1
MANIFEST = "manifest.json"
#: A kernel has some thousand modules; a bundle some kernels.
LARGEST_MANIFEST, MOST_FILES = 16 << 20, 100_000
LARGEST_OTHER = 1 << 30
DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
#: What a kernel's folder has beside its modules.
BESIDE = ("vmlinux", "config", "initrd.img")
MODULE = re.compile(r"modules/([A-Za-z0-9._+@,=-]+/)*([A-Za-z0-9._+@,=-]+\.ko|modules\.[a-z.]+)\Z")


class BundledFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file: its path (`images/NAME/rootfs.ext4`, `kernels/NAME/vmlinux` …), length and digest."""

    path: str
    size: int
    digest: str

    @property
    def owner(self) -> tuple[str, str]:
        """`images` or `kernels`, and the name."""
        first, second, *_ = self.path.split("/")
        return first, second


class Bundle(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`manifest.json` of a bundle; the files come in this order."""

    version: int = VERSION
    images: tuple[ImageManifest, ...] = ()
    kernels: tuple[KernelManifest, ...] = ()
    files: tuple[BundledFile, ...] = ()


def checked(bundle: Bundle, what: str) -> Bundle:
    """The bundle, if what it says is whole and leads nowhere but to its own images and kernels; Corrupt names what is wrong."""
    if bundle.version != VERSION:
        raise Corrupt(f"{what} has version {bundle.version}, this banger reads {VERSION}")
    if len(bundle.files) > MOST_FILES:
        raise Corrupt(f"{what} lists {len(bundle.files)} files, more than any bundle has")
    listed = {file.path: file for file in bundle.files}
    if len(listed) != len(bundle.files):
        raise Corrupt(f"{what} lists a file twice")
    folders = [*(("images", image.name) for image in bundle.images), *(("kernels", kernel.name) for kernel in bundle.kernels)]
    if len(set(folders)) != len(folders):
        raise Corrupt(f"{what} lists a name twice")
    for _, name in folders:
        valid_artefact_name(name)
    for file in bundle.files:
        _require_sound(file, folders, what)
    for path, digest, size in _main_files(bundle):
        if path not in listed or (listed[path].digest, listed[path].size) != (digest, size):
            raise Corrupt(f"{what}: {path} is not listed as its own manifest describes it")
    return bundle


def _main_files(bundle: Bundle) -> list[tuple[str, str, int]]:
    images = [(f"images/{image.name}/rootfs.ext4", image.digest, image.size_bytes) for image in bundle.images]
    return images + [(f"kernels/{kernel.name}/vmlinux", kernel.digest, kernel.size_bytes) for kernel in bundle.kernels]


def _require_sound(file: BundledFile, folders: Sequence[tuple[str, str]], what: str) -> None:
    parts = PurePosixPath(file.path).parts
    inside = "/".join(parts[2:])
    sound = len(parts) > 2 and "/".join(parts) == file.path and ".." not in parts and parts[:2] in folders
    if not sound or not (inside == "rootfs.ext4" if parts[0] == "images" else inside in BESIDE or MODULE.match(inside)):
        raise Corrupt(f"{what} lists a file that does not belong in it: {file.path!r}")
    most = LARGEST if parts[0] == "images" else LARGEST_OTHER
    if not DIGEST.match(file.digest) or not 0 <= file.size <= most:
        raise Corrupt(f"{what}: {file.path} cannot have that length or digest")


def own(image: ImageManifest) -> ImageManifest:
    """An image as it is once its bytes are banger's own, wherever they came from. Of which build it is nobody is believed but this host's builds."""
    return msgspec.structs.replace(image, file="", stamp=(0, 0), recipe="")


def content_name(bundle: Bundle, digest: str) -> str:
    """What a bundle's file is called that nobody named: after its first image or kernel, and its own digest."""
    first = (*bundle.images, *bundle.kernels)[0]
    architecture = next((kernel.architecture for kernel in bundle.kernels), "any")
    return f"{first.name}-{architecture}-{digest.removeprefix('sha256:')[:12]}.tar.zst"
