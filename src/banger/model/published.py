"""Catalogs of others: what somebody publishes (`Published`), what is kept of it (`Added`), what is seen of it (`CatalogRow`), and whose entries win.

A published catalog is one JSON file with images and kernels and a `serial`, which grows with each change. It is hostile beyond its signature: it names
no file of this host, and nothing is fetched without TLS because of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import PurePosixPath
from typing import Annotated, Generic, TypeVar
from urllib.parse import urlsplit

import msgspec

from banger.model.catalog import Entry, ImageEntry, KernelEntry
from banger.model.errors import BadRequest, Corrupt
from banger.model.ids import valid_artefact_name

VERSION = 1
#: The most bytes that a published catalog has, and the most entries.
LARGEST, MOST = 4 << 20, 10_000
SHIPPED, OWN = "shipped", "own"
SOURCES = {"image": ("bundle", "debian", "oci"), "kernel": ("bundle", "debian", "tarball")}
SHA256 = re.compile(r"[0-9a-f]{64}\Z")
E = TypeVar("E", bound=Entry)


class Published(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a published catalog says."""

    version: int
    serial: Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]
    images: tuple[ImageEntry, ...] = ()
    kernels: tuple[KernelEntry, ...] = ()


class Added(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A catalog that was added: `document` is its text as it was verified; `key` (base64) is empty for one that is not signed.

    `comment` was signed with it. `added` and `updated`: when it was first and last fetched.
    """

    version: int = 1
    name: str
    location: str
    key: str
    serial: int
    comment: str
    added: datetime
    updated: datetime
    document: str


class CatalogRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row of `catalog list`. `hidden` are the names of what it has and somebody who goes before it has, too; `trouble` is why it cannot be read."""

    name: str
    location: str = ""
    key: str = ""
    serial: int = 0
    comment: str = ""
    images: int = 0
    kernels: int = 0
    hidden: tuple[str, ...] = ()
    added: datetime | None = None
    updated: datetime | None = None
    trouble: str = ""


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """The entries of one catalog; `name` is `own`, `shipped`, or what an added one is called here."""

    name: str
    images: tuple[ImageEntry, ...] = ()
    kernels: tuple[KernelEntry, ...] = ()


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Which catalog an entry is of, and which others have one of that name, too."""

    catalog: str
    hides: tuple[str, ...] = ()


class Offers(msgspec.Struct, Generic[E], frozen=True, kw_only=True):
    """What is on offer, by name."""

    entries: dict[str, E]
    origins: dict[str, Origin]


def merged(layers: Sequence[Layer]) -> tuple[Offers[ImageEntry], Offers[KernelEntry]]:
    """Images and kernels; of two of one name that of the earlier layer. A bundle brings its image's kernel, where nobody else has one of that name."""
    images = _merged([(layer.name, layer.images) for layer in layers])
    kernels = _merged([(layer.name, layer.kernels) for layer in layers])
    for name, image in images.entries.items():
        if image.source == "bundle" and image.kernel and image.kernel not in kernels.entries:
            words = f"comes with image {name}"
            kernels.entries[image.kernel] = KernelEntry(name=image.kernel, source="bundle", url=image.url, sha256=image.sha256, description=words)
            kernels.origins[image.kernel] = Origin(catalog=images.origins[name].catalog)
    return images, kernels


def _merged(layers: Sequence[tuple[str, Sequence[E]]]) -> Offers[E]:
    entries: dict[str, E] = {}
    origins: dict[str, Origin] = {}
    for catalog, listed in layers:
        for entry in listed:
            former = origins.get(entry.name)
            if former is None:
                entries[entry.name], origins[entry.name] = entry, Origin(catalog=catalog)
            elif catalog not in (former.catalog, *former.hides):
                origins[entry.name] = msgspec.structs.replace(former, hides=(*former.hides, catalog))
    return Offers(entries=entries, origins=origins)


def require_sound(found: Published, what: str, *, secure: bool) -> None:
    """Corrupt, naming what is wrong, unless a published catalog keeps to what those of others may say; `secure`: it came over TLS."""
    if found.version != VERSION:
        raise Corrupt(f"{what} has version {found.version}, this banger reads {VERSION}")
    if len(found.images) + len(found.kernels) > MOST:
        raise Corrupt(f"{what} has more than {MOST} entries")
    for noun, entries in (("image", found.images), ("kernel", found.kernels)):
        names = [entry.name for entry in entries]
        twice = next((name for name in names if names.count(name) > 1), "") if len(set(names)) < len(names) else ""
        if twice:
            raise Corrupt(f"{what} has two {noun}s called {twice!r}")
        for entry in entries:
            _require_sound(entry, noun, f"{what}: {noun} {entry.name!r}", secure)


def _require_sound(entry: ImageEntry | KernelEntry, noun: str, what: str, secure: bool) -> None:
    try:
        valid_artefact_name(entry.name)
        if isinstance(entry, ImageEntry):
            valid_artefact_name(entry.kernel)
    except BadRequest as error:
        raise Corrupt(f"{what}: {error}") from error
    if entry.source not in SOURCES[noun]:
        raise Corrupt(f"{what} is of source {entry.source!r}; in catalogs of others there are {', '.join(SOURCES[noun])}")
    if entry.file or (isinstance(entry, ImageEntry) and entry.plain_http):
        raise Corrupt(f"{what} names a file of this host, or asks a registry without TLS; neither is for catalogs of others")
    if entry.source in ("bundle", "tarball") and not (entry.url and SHA256.match(entry.sha256)):
        raise Corrupt(f"{what} needs url and sha256 (64 lower-case hex digits)")
    if entry.url and secure and urlsplit(entry.url).scheme != "https":
        raise Corrupt(f"{what} is at {entry.url[:200]!r}, which is not https")


def name_of(location: str) -> str:
    """What a catalog is called that nobody named: after its file, without the ending."""
    path = urlsplit(location).path if "://" in location else location
    return valid_catalog_name(PurePosixPath(path).name.partition(".")[0])


def valid_catalog_name(name: str) -> str:
    """The name itself; BadRequest for what is not one, or is taken."""
    try:
        valid_artefact_name(name)
    except BadRequest:
        raise BadRequest(f"{name!r} is not the name of a catalog", hint="give --name: letters, digits, '.', '_' and '-'") from None
    if name in (SHIPPED, OWN):
        raise BadRequest(f"{name} is what banger calls other catalogs", hint="give --name")
    return name
