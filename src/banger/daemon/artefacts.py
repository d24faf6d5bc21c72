"""Images and kernels on their shelf: local ones first, the catalogs only for what is not there, each name made once however many ask.

The folder is the truth: `NAME/manifest.json` is written last and the folder renamed into place, so what can be seen is whole. Staging folders carry the
pid and start time of the daemon that fills them; those of dead daemons are removed at start.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import msgspec

from banger.host import Host
from banger.host.proc import Life, ProcessId
from banger.model import codec
from banger.model.catalog import Entry, ImageEntry, ImageManifest, Manifest
from banger.model.errors import AlreadyExists, BadRequest, BangerError, NotFound
from banger.model.event import step
from banger.model.finding import Finding
from banger.model.ids import valid_artefact_name
from banger.model.published import OWN, SHIPPED, Offers, Origin

log = logging.getLogger(__name__)
E = TypeVar("E", bound=Entry)
M = TypeVar("M", bound=Manifest)
P = TypeVar("P")
E_contra = TypeVar("E_contra", bound=Entry, contravariant=True)
M_co = TypeVar("M_co", bound=Manifest, covariant=True)
STAGING = ".staging"


class Listed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row of `image list` or `kernel list`; what is only in a catalog has no sizes and no date. `kernel` is empty for kernels.

    `source` of an image that is a file of the user's own is that file; `used_by` are the machines (and images) that need it. Where the catalogs are
    listed, too, `catalog` is the one that offers it, and `hides` are those that have one of that name and do not get their way.
    """

    name: str
    local: bool
    source: str
    kernel: str = ""
    size_bytes: int = 0
    used_bytes: int = 0
    built: datetime | None = None
    description: str = ""
    used_by: tuple[str, ...] = ()
    catalog: str = ""
    hides: tuple[str, ...] = ()


class Source(Protocol[E_contra, M_co, P]):
    """What images and kernels have in common of the backend contracts."""

    def plan(self, entry: E_contra, into: Path) -> P:
        """See the contract."""

    async def ensure(self, part: P) -> M_co:
        """See the contract."""

    async def remove(self, part: P) -> None:
        """See the contract."""

    def check(self) -> list[Finding]:
        """See the contract."""


class Shelf(Generic[E, M, P]):
    """One kind of artefact (`noun` is `image` or `kernel`)."""

    def __init__(
        self,
        noun: str,
        *,
        host: Host,
        folder: Path,
        catalog: Mapping[str, E],
        manifest: type[M],
        source: Callable[[str], Source[E, M, P]],
    ) -> None:
        self.noun, self.host, self.folder, self.catalog, self.manifest, self.source = noun, host, folder, catalog, manifest, source
        self.origins: Mapping[str, Origin] = {}
        self.locks: dict[str, asyncio.Lock] = {}
        #: WrongState when a machine (or an image) uses what has that name; asked in the moment in which it would go, since making takes its time.
        self.require_unused: Callable[[str], None] = lambda name: None

    def offer(self, offers: Offers[E]) -> None:
        """Replace what the catalogs have."""
        self.catalog, self.origins = offers.entries, offers.origins

    def local(self, name: str) -> M | None:
        """The manifest of what is here, or None when it is not; an unreadable one is an error of its own, never 'not found'."""
        data = self.host.files.read(self.folder / valid_artefact_name(name) / "manifest.json")
        return None if data is None else codec.decode(data, self.manifest, what=f"{self.noun} {name}")

    def every(self) -> list[M]:
        """All that is here, by name. One that cannot be read hides no other: it is left out and logged, and told as itself when it is asked for."""
        names = sorted(path.name for path in self.folder.iterdir() if not path.name.startswith("."))
        return [found for name in names if (found := self._readable(name)) is not None]

    def _readable(self, name: str) -> M | None:
        try:
            return self.local(name)
        except (BangerError, OSError) as error:
            log.warning("%s %s cannot be read: %s", self.noun, name, error)
            return None

    def show(self, name: str) -> M:
        """What is here of that name, or NotFound."""
        found = self.local(name)
        if found is None:
            raise self.missing(name)
        return found

    def here(self, name: str) -> bool:
        """Whether something of that name is here, readable or not."""
        return (self.folder / valid_artefact_name(name)).exists()

    def names(self) -> list[str]:
        """Every name, here or in the catalog."""
        return sorted({*self.catalog, *(made.name for made in self.every())})

    def known(self, name: str) -> str:
        """The name itself, if it is here or in a catalog; else NotFound."""
        if name not in self.catalog and not (self.folder / valid_artefact_name(name)).exists():
            raise self.missing(name)
        return name

    def check(self, name: str) -> list[Finding]:
        """What making it takes, as its source finds it; nothing when it is here already, or when nobody has it (which is told when it is needed)."""
        entry = None if (self.folder / valid_artefact_name(name)).exists() else self.catalog.get(name)
        with suppress(BadRequest):  # a source that does not exist, too
            return self.source(entry.source).check() if entry is not None else []
        return []

    async def need(self, name: str) -> M:
        """What is here; else what a catalog offers is made. NotFound, naming both places, only when neither has it."""
        return self.local(name) or await self._make(name, force=False)

    async def pull(self, name: str, *, force: bool) -> M:
        """The same; with `force` it is made anew and replaces what is here."""
        return await (self._make(name, force=True) if force else self.need(name))

    async def _make(self, name: str, *, force: bool) -> M:
        entry = self.catalog.get(valid_artefact_name(name))
        if entry is None:
            raise self.missing(name)
        async with step(f"pull {self.noun}", f"pulling {name} from {self._whose(name)}"), self._turn(name):
            if not force and (found := self.local(name)) is not None:
                return found
            return await self._build(entry)

    async def obtain(self, entry: E, same: Callable[[M], bool], *, fresh: Callable[[M], bool], ready: Callable[[], None]) -> M:
        """What is here under the entry's name, if it is the `same` and `fresh`; else it is made, and takes the place of the same when `ready` lets it.

        AlreadyExists when the name is another one's.
        """
        async with self._turn(valid_artefact_name(entry.name)):
            found = self.local(entry.name)
            if found is not None and same(found) and fresh(found):
                return found
            if found is None or not same(found):
                self._require_free(entry.name)
            return await self._build(entry, ready)

    @asynccontextmanager
    async def _turn(self, name: str) -> AsyncIterator[None]:
        """Alone with a name. Who has to wait is told so, as a stage of its own: nothing else may happen for minutes."""
        lock = self.locks.setdefault(name, asyncio.Lock())
        async with step("wait", f"for {name}, which is being made already") if lock.locked() else nullcontext():
            await lock.acquire()
        try:
            yield
        finally:
            lock.release()

    async def amend(self, name: str, changed: Callable[[M], M]) -> None:
        """Write another manifest for what is here; what has gone meanwhile is left alone."""
        async with self.locks.setdefault(valid_artefact_name(name), asyncio.Lock()):
            found = self.local(name)
            if found is not None and changed(found) != found:
                self.host.files.write_atomic(self.folder / name / "manifest.json", codec.encode(changed(found)))

    async def put(self, entry: E, *, force: bool, ready: Callable[[], None] | None = None) -> M:
        """Make what no catalog has, under a name that must be free; with `force` it replaces what is here.

        That is when `ready` lets it; without one, WrongState if somebody uses what is here by then.
        """
        lock = self.locks.setdefault(valid_artefact_name(entry.name), asyncio.Lock())
        async with lock:
            if not force:
                self._require_free(entry.name)
            return await self._build(entry, ready)

    async def tag(self, name: str, new: str, renamed: Callable[[M, str], M], file: str) -> M:
        """A second name for what is here: the same bytes of `file`, if it has one, and a manifest of its own (`renamed` makes it)."""
        async with AsyncExitStack() as locks:
            for each in sorted({valid_artefact_name(name), valid_artefact_name(new)}):
                await locks.enter_async_context(self.locks.setdefault(each, asyncio.Lock()))
            made = renamed(self.show(name), new)
            self._require_free(new)
            staging = self.host.files.private_folder(self.staging(new))
            try:
                if self.host.files.size(self.folder / name / file) is not None:
                    self.host.files.link(self.folder / name / file, staging / file)
                self.host.files.write_atomic(staging / "manifest.json", codec.encode(made))
                self.host.files.exchange(staging, self.folder / new)
            finally:
                self.host.files.remove_tree(staging)
        return made

    async def adopt(self, made: M, folder: Path, *, force: bool) -> None:
        """Give a finished folder its manifest and its name; AlreadyExists when that is taken, unless forced: then what had it is at `folder`."""
        async with self.locks.setdefault(made.name, asyncio.Lock()):
            if not force:
                self._require_free(made.name)
            if self.here(made.name):
                self.require_unused(made.name)
            self.host.files.write_atomic(folder / "manifest.json", codec.encode(made))
            self.host.files.exchange(folder, self.folder / made.name)

    def _require_free(self, name: str) -> None:
        if (self.folder / name).exists():
            raise AlreadyExists(f"there is a {self.noun} {name} already", hint=f"choose another name, or: banger {self.noun} delete {name}")

    async def _build(self, entry: E, ready: Callable[[], None] | None = None) -> M:
        staging = self.staging(entry.name)
        try:
            source = self.source(entry.source)
            part = source.plan(entry, staging)
        except BadRequest as error:
            if entry == self.catalog.get(entry.name):
                error.add_note(f"so says the catalog's entry of {self.noun} {entry.name}")
            raise
        self.host.files.private_folder(staging)
        try:
            made = await source.ensure(part)
            self.host.files.write_atomic(staging / "manifest.json", codec.encode(made))
            if self.here(entry.name):
                ready() if ready is not None else self.require_unused(entry.name)
            self.host.files.exchange(staging, self.folder / entry.name)
        finally:
            await source.remove(part)  # also what it has replaced, if anything
        log.info("%s %s is ready", self.noun, entry.name)
        return made

    async def delete(self, name: str) -> None:
        """Remove it in one visible step, also one that cannot be read; NotFound when it is not here, WrongState when somebody uses it."""
        place = self.folder / valid_artefact_name(name)
        async with self.locks.setdefault(name, asyncio.Lock()):
            if not place.exists():
                raise self.missing(name)
            self.require_unused(name)
            away = self._staging(0, 0, name)
            place.rename(away)
            self.host.files.remove_tree(away)

    def rows(self, *, available: bool, users: Callable[[str], list[str]]) -> list[Listed]:
        """Local ones, and with `available` those that only a catalog has; `users` says who needs one."""
        rows = {made.name: listed(made, self.catalog.get(made.name), users(made.name)) for made in self.every()}
        if available:
            rows = {entry.name: offered(entry) for entry in self.catalog.values()} | rows
            rows = {name: self._told(row) for name, row in rows.items()}
        return [rows[name] for name in sorted(rows)]

    def _told(self, row: Listed) -> Listed:
        origin = self.origins.get(row.name)
        return row if origin is None else msgspec.structs.replace(row, catalog=origin.catalog, hides=origin.hides)

    def _whose(self, name: str) -> str:
        origin = self.origins.get(name)
        return f"the {self.noun} catalog" if origin is None or origin.catalog in (SHIPPED, OWN) else f"the catalog {origin.catalog}"

    async def clean(self) -> None:
        """Remove the staging folders of daemons that are gone."""
        for path in self.folder.glob(f"{STAGING}~*"):
            _, pid, start, name, _ = path.name.split("~")
            if self.host.proc.look(ProcessId(int(pid), int(start))) is Life.GONE:
                log.info("removing the unfinished %s %s", self.noun, name)
                await self._discard(path, self.catalog.get(name))

    def staging(self, name: str) -> Path:
        """The path of a folder for something unfinished, which goes when this daemon has gone."""
        me = self.host.proc.identify(os.getpid())
        assert me is not None, "a process finds itself"
        return self._staging(me.pid, me.start, name)

    def _staging(self, pid: int, start: int, name: str) -> Path:
        return self.folder / f"{STAGING}~{pid}~{start}~{name}~{self.host.clock.random(3).hex()}"

    async def _discard(self, path: Path, entry: E | None) -> None:
        """By the source that made it if its entry is still known, since files of mapped users may be in it."""
        with suppress(BadRequest):  # what is on offer under that name now may be something that nobody could have begun
            if entry is not None:
                source = self.source(entry.source)
                await source.remove(source.plan(entry, path))
        self.host.files.remove_tree(path)

    def missing(self, name: str) -> NotFound:
        """The error for a name that nobody has, with those that may be meant."""
        close = difflib.get_close_matches(name, self.names(), n=3, cutoff=0.4)
        meant = f"did you mean {' or '.join(close)}? " if close else ""
        return NotFound(
            f"{self.noun} {name!r} is neither among the local ones ({self.folder}) nor in the {self.noun} catalog",
            hint=f"{meant}run: banger {self.noun} list --available",
        )


def offered(entry: Entry) -> Listed:
    """The row of what a catalog has."""
    kernel = entry.kernel if isinstance(entry, ImageEntry) else ""
    return Listed(name=entry.name, local=False, source=entry.source, kernel=kernel, description=entry.description)


def listed(made: Manifest, entry: Entry | None, users: list[str]) -> Listed:
    """The row of what is here; its description is the catalog's, if it still has one."""
    row = Listed(name=made.name, local=True, source=made.source, size_bytes=made.size_bytes, used_bytes=made.size_bytes, built=made.built)
    described = msgspec.structs.replace(row, description=entry.description if entry else "", used_by=tuple(users))
    if isinstance(made, ImageManifest):
        return msgspec.structs.replace(described, kernel=made.kernel, used_bytes=made.used_bytes, source=made.file or made.reference or made.source)
    return described
