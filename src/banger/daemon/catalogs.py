"""Catalogs of others: added, brought up to date, listed, removed. Nothing of one is read before its signature is right, and none becomes older.

Each is kept as one file, written at once; what is fetched lies until then in a folder that carries the pid and start time of the daemon that fills it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from banger.daemon.artefacts import Shelf
from banger.daemon.offers import Kept
from banger.daemon.operations import Operations, Progress
from banger.daemon.signatures import verify
from banger.host import Host
from banger.host.proc import Life, ProcessId
from banger.host.web import acceptable
from banger.model import codec, minisign
from banger.model.catalog import ImageEntry, ImageManifest, ImagePart, KernelEntry, KernelManifest, KernelPart
from banger.model.errors import AlreadyExists, BadRequest, BangerError, Corrupt, NotFound
from banger.model.event import report, step
from banger.model.minisign import Key, parse_key
from banger.model.published import LARGEST, Added, CatalogRow, Layer, Published, merged, name_of, require_sound, valid_catalog_name

log = logging.getLogger(__name__)
STAGING = ".staging"
ENDING = ".minisig"


class Catalogs:
    """The service. `base` are the catalogs that go before those of others; the shelves get what all of them offer together."""

    def __init__(
        self,
        host: Host,
        operations: Operations,
        base: Sequence[Layer],
        images: Shelf[ImageEntry, ImageManifest, ImagePart],
        kernels: Shelf[KernelEntry, KernelManifest, KernelPart],
    ) -> None:
        self.host, self.operations, self.base, self.images, self.kernels = host, operations, list(base), images, kernels
        self.lock = asyncio.Lock()
        self.refresh()

    def refresh(self) -> None:
        """Put on offer what is here now; one that cannot be read is left out."""
        self.kept = Kept(self.host)
        for name, why in self.kept.broken.items():
            log.warning("the catalog %s cannot be read: %s", name, why)
        images, kernels = merged([*self.base, *self.kept.layers()])
        self.images.offer(images)
        self.kernels.offer(kernels)

    def rows(self) -> list[CatalogRow]:
        """All that were added, in the order in which they go."""
        rows = [self._row(added, found) for added, found in self.kept.found]
        return rows + [CatalogRow(name=name, trouble=why) for name, why in self.kept.broken.items()]

    def _row(self, added: Added, found: Published) -> CatalogRow:
        hidden = [entry.name for entry in found.images if self.images.origins[entry.name].catalog != added.name]
        hidden += [entry.name for entry in found.kernels if self.kernels.origins[entry.name].catalog != added.name]
        return CatalogRow(
            name=added.name,
            location=added.location,
            key=added.key,
            serial=added.serial,
            comment=added.comment,
            images=len(found.images),
            kernels=len(found.kernels),
            hidden=tuple(hidden),
            added=added.added,
            updated=added.updated,
        )

    # -- add, update, remove --------------------------------------------------------------------------------------------------------------------

    def add(self, location: str, *, name: str | None, key: str | None, unsigned: bool) -> AsyncIterator[Progress[CatalogRow]]:
        """Add one as an operation; what cannot be meant is refused at once, and so is another key for one that is here."""
        if key and unsigned:
            raise BadRequest("a catalog with a key is not an unsigned one", hint="give --key or --unsigned")
        if not key and not unsigned:
            raise BadRequest(
                f"nothing says who {location} must be signed by", hint="give --key KEY, from whom you trust; or --unsigned to take what comes"
            )
        trusted = parse_key(key) if key else None
        _require_location(location)
        named = valid_catalog_name(name) if name else name_of(location)
        self._require_same(named, location, trusted)
        return self.operations.follow(self.operations.begin("catalog.add", named, lambda: self._add(named, location, trusted)))

    def _require_same(self, name: str, location: str, key: Key | None) -> None:
        """What is here under that name must be the same one: of the same key, or, unsigned, from the same place."""
        former = self.kept.get(name)
        if name in self.kept.broken:
            raise AlreadyExists(f"there is a catalog {name} already, which cannot be read", hint=f"banger catalog remove {name}")
        if former is None:
            return
        if former.key != (key.text if key else ""):
            before = str(parse_key(former.key)) if former.key else "no key at all"
            raise AlreadyExists(
                f"the key of catalog {name} has changed: it was {before}, and is now {key or 'no key at all'}",
                hint=f"if its maker says so, too: banger catalog remove {name}, and add it again; else choose another --name",
            )
        if key is None and former.location != location:
            raise AlreadyExists(f"there is a catalog {name} already, from {former.location}", hint=f"give --name, or: banger catalog remove {name}")

    async def _add(self, name: str, location: str, key: Key | None) -> CatalogRow:
        async with self.lock, step("add catalog", f"adding {name} from {location}"):
            self._require_same(name, location, key)
            return await self._take(name, location, key)

    def update(self, names: Sequence[str] | None) -> AsyncIterator[Progress[list[CatalogRow]]]:
        """Fetch them (or all) again as an operation. One that fails stays as it was; the others are updated, and then the failure is raised."""
        for name in names or ():
            self._present(name)
        wanted = list(dict.fromkeys(names or [added.name for added, _ in self.kept.found]))
        return self.operations.follow(self.operations.begin("catalog.update", ", ".join(wanted), lambda: self._update(wanted)))

    async def _update(self, names: Sequence[str]) -> list[CatalogRow]:
        rows, failed = [], []
        async with self.lock:
            for name in names:
                former = self._present(name)
                try:
                    async with step("update catalog", f"updating {name} from {former.location}"):
                        rows.append(await self._take(name, former.location, parse_key(former.key) if former.key else None))
                except BangerError as error:
                    report(f"{name} stays as it was: {error}")
                    failed.append(error)
        if failed:
            raise failed[0]
        return rows

    def _present(self, name: str) -> Added:
        found = self.kept.get(name)
        if found is None:
            raise NotFound(f"there is no catalog {name!r} that was added", hint="run: banger catalog list")
        return found

    async def remove(self, name: str) -> None:
        """Forget one; what was made of its entries stays."""
        valid_catalog_name(name)
        async with self.lock:
            if name not in self.kept.broken:
                self._present(name)
            self.host.files.remove_tree(self.host.paths.catalog(name))
            self.refresh()
            log.info("the catalog %s was removed", name)

    # -- what comes -----------------------------------------------------------------------------------------------------------------------------

    async def _take(self, name: str, location: str, key: Key | None) -> CatalogRow:
        staging = self.host.files.private_folder(self._staging())
        try:
            document = await self._fetch(location, staging / "document", LARGEST)
            comment = await self._verified(document, location, key, staging / "signature") if key else ""
        finally:
            self.host.files.remove_tree(staging)
        found = codec.decode(document, Published, what=f"catalog {location}")
        require_sound(found, f"catalog {location}", secure=location.startswith("https:"))
        former = self.kept.get(name)
        _require_newer(former, found, document, location)
        now = self.host.clock.now()
        added = Added(
            name=name,
            location=location,
            key=key.text if key else "",
            serial=found.serial,
            comment=comment,
            added=former.added if former else now,
            updated=now,
            document=document.decode(),
        )
        self.host.files.write_atomic(self.host.paths.catalog(name), codec.encode(added))
        self.refresh()
        log.info("the catalog %s is at serial %d", name, found.serial)
        return self._row(added, found)

    async def _verified(self, document: bytes, location: str, key: Key, into: Path) -> str:
        try:
            signature = await self._fetch(_beside(location), into, minisign.LARGEST)
        except NotFound as error:
            raise NotFound(
                f"there is no signature of {location} beside it ({_beside(location)})", hint="its maker writes it with minisign -S"
            ) from error
        report("verify signature")
        return await asyncio.to_thread(verify, key, document, signature, location)

    async def _fetch(self, location: str, into: Path, limit: int) -> bytes:
        if "://" in location:
            report(f"fetching {location}")
            await self.host.web.fetch(location, into, limit=limit)
            return self.host.files.head(into, limit)
        data = self.host.files.head(Path(location), limit + 1)
        if len(data) > limit:
            raise Corrupt(f"{location} is longer than it may be: more than {limit} bytes")
        return data

    def _staging(self) -> Path:
        me = self.host.proc.identify(os.getpid())
        assert me is not None, "a process finds itself"
        return self.host.paths.catalogs / f"{STAGING}~{me.pid}~{me.start}~{self.host.clock.random(3).hex()}"

    def clean(self) -> None:
        """Remove what daemons that are gone have left unfinished."""
        folder = self.host.paths.catalogs
        for path in folder.glob(f"{STAGING}~*"):
            _, pid, start, _ = path.name.split("~")
            if self.host.proc.look(ProcessId(int(pid), int(start))) is Life.GONE:
                self.host.files.remove_tree(path)
        for path in folder.glob(".*.new"):
            self.host.files.remove_tree(path)


def _require_location(location: str) -> None:
    if "://" in location:
        acceptable(location)
    elif not location.startswith("/") or "\0" in location:
        raise BadRequest(f"the path {location!r} does not begin with '/'", hint="give an https address, or the whole path of a file")


def _beside(location: str) -> str:
    """Where a catalog's signature is."""
    if "://" not in location:
        return location + ENDING
    parts = urlsplit(location)
    return urlunsplit(parts._replace(path=parts.path + ENDING))


def _require_newer(former: Added | None, found: Published, document: bytes, location: str) -> None:
    """Corrupt for what is older than what is here, which may be an old one played again, and for a change that its serial does not tell."""
    if former is None:
        return
    again = f"if its maker means it: banger catalog remove {former.name}, and add it again"
    if found.serial < former.serial:
        raise Corrupt(f"catalog {location} is older than the one that is here: its serial is {found.serial}, not at least {former.serial}", hint=again)
    if found.serial == former.serial and document != former.document.encode():
        raise Corrupt(f"catalog {location} has changed, but not its serial, {found.serial}", hint=again)
