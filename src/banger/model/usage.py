"""What takes space on the host's disk, and what of it may go: pure, so that a dry run and the real one cannot differ.

Only what can be had again goes: images and kernels that nothing uses and a catalog or registry still offers, and what lies in the cache. What came from
a file of the user's stays until it is deleted by its name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from banger.model.catalog import Entry, ImageManifest, KernelManifest, Manifest
from banger.model.operation import Failure

#: Sources of images that are had again by the same words, though no catalog has them.
REMEMBERED = frozenset({"oci"})


class Usage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row of `system df`: sizes are what is really taken on disk; a file with two names counts once. `reclaimable_bytes` is what prune would free."""

    kind: str
    count: int
    used_bytes: int
    reclaimable_bytes: int
    place: str


class Freed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing that prune removed, or would remove, or could not (`failure`); `freed_bytes` on disk."""

    kind: str
    name: str
    freed_bytes: int
    failure: Failure | None = None


def spare_images(
    images: Sequence[ImageManifest], used: Mapping[str, Sequence[str]], offered: Mapping[str, Entry], keep: Collection[str], newest: int
) -> list[str]:
    """The images that may go: used by no machine (`used`: name → users), to be had again, not named, and not among the newest."""
    latest = {image.name for image in sorted(images, key=lambda image: image.built, reverse=True)[:newest]}
    return [
        image.name
        for image in images
        if not used.get(image.name) and (_again(image, offered) or image.source in REMEMBERED) and image.name not in {*keep, *latest}
    ]


def spare_kernels(
    kernels: Sequence[KernelManifest], used: Mapping[str, Sequence[str]], leaving: Collection[str], offered: Mapping[str, Entry], keep: Collection[str]
) -> list[str]:
    """The kernels that may go: used by nothing but images that go too (`leaving`; users are `image NAME` or `machine NAME`), and to be had again."""
    going = {f"image {name}" for name in leaving}
    return [kernel.name for kernel in kernels if set(used.get(kernel.name, ())) <= going and _again(kernel, offered) and kernel.name not in keep]


def _again(made: Manifest, offered: Mapping[str, Entry]) -> bool:
    """Whether a catalog has it, and not something else of that name: somebody's catalog does not make what is the user's own spare."""
    entry = offered.get(made.name)
    return entry is not None and entry.source == made.source


def unneeded(found: Iterable[str], needed: Collection[str]) -> list[str]:
    """Files of the cache that no machine was made with."""
    return sorted(path for path in found if path not in needed)
