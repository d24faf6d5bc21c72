"""What is on offer: the catalogs shipped, the user's own, and those of others that were added. Unknown fields and versions are refused by name.

The user's own go before the shipped one, and both before those of others, which therefore never replace anything; of these the one added first goes
first.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from banger.host import Host
from banger.model import codec
from banger.model.catalog import ImageCatalog, ImageEntry, KernelCatalog, KernelEntry
from banger.model.errors import BadRequest, BangerError, Corrupt
from banger.model.ids import valid_artefact_name
from banger.model.published import OWN, SHIPPED, Added, Layer, Published

VERSION = 1


def base(host: Host, shipped: Path) -> list[Layer]:
    """The user's own and the shipped catalogs, the first before the second."""
    folders = [(OWN, Path(host.settings.catalog))] if host.settings.catalog else []
    folders += [(OWN, host.paths.config / "catalog"), (SHIPPED, shipped)]
    return [Layer(name=name, images=_images(host, folder), kernels=_kernels(host, folder)) for name, folder in folders]


def _images(host: Host, folder: Path) -> tuple[ImageEntry, ...]:
    path = folder / "images.json"
    if (data := host.files.read(path)) is None:
        return ()
    catalog = codec.decode(data, ImageCatalog, what=f"catalog {path}", error=BadRequest)
    return _checked(catalog.version, catalog.entries, path)


def _kernels(host: Host, folder: Path) -> tuple[KernelEntry, ...]:
    path = folder / "kernels.json"
    if (data := host.files.read(path)) is None:
        return ()
    catalog = codec.decode(data, KernelCatalog, what=f"catalog {path}", error=BadRequest)
    return _checked(catalog.version, catalog.entries, path)


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
    return tuple({entry.name: entry for entry in entries}.values())


class Kept:
    """The catalogs that were added, as they are kept: those that can be read, in the order in which they go, and what is wrong with the others."""

    def __init__(self, host: Host) -> None:
        self.found: list[tuple[Added, Published]] = []
        self.broken: dict[str, str] = {}
        folder = host.paths.catalogs
        for path in sorted(folder.glob("[!.]*.json")) if folder.is_dir() else []:
            try:
                self.found.append(_kept(host, path))
            except (BangerError, OSError) as error:
                self.broken[path.stem] = str(error)
        self.found.sort(key=lambda pair: (pair[0].added, pair[0].name))

    def layers(self) -> list[Layer]:
        """Their entries."""
        return [Layer(name=added.name, images=found.images, kernels=found.kernels) for added, found in self.found]

    def get(self, name: str) -> Added | None:
        """The one of that name, if it can be read."""
        return next((added for added, _ in self.found if added.name == name), None)


def _kept(host: Host, path: Path) -> tuple[Added, Published]:
    added = codec.decode(host.files.read(path) or b"", Added, what=f"catalog {path}")
    if added.version != VERSION:
        raise Corrupt(f"catalog {path} has version {added.version}, this banger reads {VERSION}")
    if added.name != path.stem:
        raise Corrupt(f"catalog {path} is called {added.name!r}")
    return added, codec.decode(added.document.encode(), Published, what=f"catalog {path}")
