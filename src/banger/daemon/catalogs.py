"""Catalogs: the shipped ones, extended and overridden by the user's own files of the same form. Unknown fields and versions are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from banger.host import Host
from banger.model import codec
from banger.model.catalog import ImageCatalog, ImageEntry, KernelCatalog, KernelEntry
from banger.model.errors import BadRequest
from banger.model.ids import valid_artefact_name

VERSION = 1


def image_catalog(host: Host, shipped: Path) -> dict[str, ImageEntry]:
    """Image entries by name."""
    found: dict[str, ImageEntry] = {}
    for path, data in _files(host, shipped, "images.json"):
        catalog = codec.decode(data, ImageCatalog, what=f"catalog {path}", error=BadRequest)
        found |= {entry.name: entry for entry in _checked(catalog.version, catalog.entries, path)}
    return found


def kernel_catalog(host: Host, shipped: Path) -> dict[str, KernelEntry]:
    """Kernel entries by name."""
    found: dict[str, KernelEntry] = {}
    for path, data in _files(host, shipped, "kernels.json"):
        catalog = codec.decode(data, KernelCatalog, what=f"catalog {path}", error=BadRequest)
        found |= {entry.name: entry for entry in _checked(catalog.version, catalog.entries, path)}
    return found


def _files(host: Host, shipped: Path, name: str) -> list[tuple[Path, bytes]]:
    folders = [shipped, host.paths.config / "catalog"]
    if host.settings.catalog:
        folders.append(Path(host.settings.catalog))
    return [(folder / name, data) for folder in folders if (data := host.files.read(folder / name)) is not None]


E = TypeVar("E", ImageEntry, KernelEntry)


def _checked(version: int, entries: tuple[E, ...], path: Path) -> tuple[E, ...]:
    if version != VERSION:
        raise BadRequest(f"catalog {path} has version {version}, this banger reads {VERSION}")
    for entry in entries:
        if isinstance(entry, ImageEntry) and entry.plain_http:
            raise BadRequest(f"catalog {path}: {entry.name}: plain_http is not for catalogs", hint="banger image pull --plain-http")
        try:
            valid_artefact_name(entry.name)
        except BadRequest as error:
            raise BadRequest(f"catalog {path}: {error}", hint=error.hint) from error
    return entries
