"""What images and kernels out of bundles on the web have in common: the bundle is fetched by its digest and taken apart in the part's folder.

A bundle mostly has an image and its kernel, which two sources want one after the other. So the first leaves it in the cache, under its digest, for the
second, which takes it away; what nobody has come for lies there until the cache is emptied.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from banger.backends.downloads import fetch, verify
from banger.host.mmdebstrap import check_room
from banger.model.bundle import Bundle
from banger.model.catalog import ImageEntry, ImageManifest, KernelEntry, KernelManifest
from banger.model.errors import BadRequest, Corrupt
from banger.model.event import report
from banger.model.volume import LARGEST

if TYPE_CHECKING:
    from banger.host import Host

SHA256 = re.compile(r"[0-9a-f]{64}\Z")
M = TypeVar("M", ImageManifest, KernelManifest)


def require(entry: ImageEntry | KernelEntry, noun: str) -> None:
    """BadRequest when an entry does not say where its file is, or not what it must be."""
    if not entry.url or not SHA256.match(entry.sha256):
        raise BadRequest(f"{noun} {entry.name}: a catalog entry of source {entry.source} needs url and sha256 (64 lower-case hex digits)")


async def obtain(host: Host, entry: ImageEntry | KernelEntry, build: Path) -> tuple[Bundle, Path]:
    """What is in the entry's bundle, by its own words, and all its files below `build`/taken: `images/NAME/…`, `kernels/NAME/…`."""
    packed = place(host, entry.sha256)
    if not await _left(host, packed, entry):
        packed = build / "bundle"
        await fetch(host, entry.url, entry.sha256, packed, name=entry.name, limit=LARGEST)
    wanted = await host.bundles.manifest(packed)
    check_room(host.files, build, host.files.used_bytes(packed), f"what is in {entry.url}")
    report("take files")
    found = await host.bundles.read(packed, lambda kind, inside: build / "taken" / kind / inside)
    if found != wanted:
        raise Corrupt(f"{packed} was changed while it was read")
    return found, build / "taken"


async def _left(host: Host, packed: Path, entry: ImageEntry | KernelEntry) -> bool:
    """Whether the bundle still lies in the cache, as it was."""
    if not packed.exists():
        return False
    try:
        await verify(host, packed, entry.sha256, str(packed))
    except Corrupt:
        host.files.remove_tree(packed)
        return False
    return True


def leave(host: Host, entry: ImageEntry, build: Path) -> None:
    """Leave a bundle for the source of its kernel, unless that is here; where the cache is on another file system it is fetched again."""
    left = place(host, entry.sha256)
    if host.paths.kernel(entry.kernel).exists():
        host.files.remove_tree(left)
    elif (build / "bundle").exists():
        host.files.private_folder(left.parent)
        try:
            host.files.replace(build / "bundle", left)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise


def place(host: Host, sha256: str) -> Path:
    """Where a bundle lies in between."""
    return host.paths.cache / "bundles" / f"{sha256}.tar.zst"


def chosen(found: Collection[M], name: str, noun: str, url: str) -> M:
    """The one of that name, or the only one there is; Corrupt when none is meant."""
    named = [one for one in found if one.name == name] or list(found)
    if len(named) != 1:
        raise Corrupt(f"{url} has {len(found)} {noun}s, and none of them is called {name}")
    return named[0]
