"""Firecracker's releases: fetched or taken from a file, checked, and put in place whole; listed; removed.

A release is made in a folder of its own that carries the pid and start time of the daemon that fills it, and renamed into place: what can be seen is
whole. What comes from outside is hostile until its digest says otherwise; its binaries are run only for their versions, and only after that.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path

from banger.backends.releases import Binaries
from banger.daemon.operations import Operations, Progress
from banger.host import Host
from banger.host.proc import Life, ProcessId
from banger.model import codec
from banger.model.errors import AlreadyExists, Corrupt, DownloadFailed, HostLacks, NotFound
from banger.model.event import report, step
from banger.model.paths import whole
from banger.model.releases import (
    BINARIES,
    DEFAULT,
    FLOOR,
    KNOWN,
    PUBLISHED,
    Binary,
    Release,
    Trust,
    archive_name,
    chosen,
    numbers,
    parse_version,
    published_digest,
    show_version,
    valid_digest,
    valid_version,
)

log = logging.getLogger(__name__)
STAGING = ".staging"
#: An archive is some 8 MiB, with what is left out 100 MiB unpacked; a binary 3 MiB.
LARGEST_ARCHIVE, LARGEST_UNPACKED, LARGEST_BINARY, LARGEST_LIST = 256 << 20, 1 << 30, 64 << 20, 64 << 10
ELF, GZIP = b"\x7fELF", b"\x1f\x8b"


class Releases:
    """The service."""

    def __init__(self, host: Host, operations: Operations) -> None:
        self.host, self.operations = host, operations
        self.binaries = Binaries(host)
        self.lock = asyncio.Lock()

    def rows(self) -> list[Binary]:
        """Every Firecracker that could be used; the one that is used is marked."""
        return self.binaries.every()

    def install(self, *, version: str | None, file: str | None, sha256: str | None, force: bool) -> AsyncIterator[Progress[Release]]:
        """Install one as an operation; BadRequest and HostLacks at once for what cannot be meant."""
        if self.host.facts.architecture() != "x86_64":
            raise HostLacks(f"Firecracker is installed on x86_64 only for now; this is {self.host.facts.architecture()}")
        if file is not None:
            whole(file)
        asked = valid_version(version) if version else None
        digest = valid_digest(sha256) if sha256 else None
        subject = asked or (file if file else DEFAULT)
        return self.operations.follow(self.operations.begin("firecracker.install", subject, lambda: self._install(asked, file, digest, force)))

    async def _install(self, version: str | None, file: str | None, digest: str | None, force: bool) -> Release:
        async with self.lock, step("install firecracker", f"installing {file or f'Firecracker {version or DEFAULT}'}"):
            if not force and file is None and (found := self._installed(version or DEFAULT)) is not None:
                return found
            self.host.files.private_folder(self.host.paths.firecrackers)
            staging = self.host.files.private_folder(self._staging())
            try:
                return await self._make(staging, version, file, digest, force)
            finally:
                self.host.files.remove_tree(staging)

    def _installed(self, version: str) -> Release | None:
        return next((release for release in self.binaries.installed() if release.version == version), None)

    def _staging(self) -> Path:
        me = self.host.proc.identify(os.getpid())
        assert me is not None, "a process finds itself"
        return self.host.paths.firecrackers / f"{STAGING}~{me.pid}~{me.start}~{self.host.clock.random(3).hex()}"

    async def _make(self, staging: Path, version: str | None, file: str | None, digest: str | None, force: bool) -> Release:
        archive = staging / "archive"
        if file is None:
            trust, digest = await self._fetch(archive, version or DEFAULT, digest)
        else:
            trust, digest = await self._take(archive, Path(file), version, digest)
        await self._unpack(archive, staging / "taken")
        made = self.host.files.private_folder(staging / "made")
        for name in BINARIES:
            self._keep(staging / "taken" / name, made / name)
        found = await self._ask(made, version if file is not None else version or DEFAULT)
        release = Release(
            version=found,
            digest=digest,
            trust=trust,
            jailer=(made / "jailer").exists(),
            installed=self.host.clock.now(),
        )
        self.host.files.write_atomic(made / "manifest.json", codec.encode(release))
        self._publish(made, self.host.paths.firecracker(found), force)
        log.info("Firecracker %s is installed: %s", found, trust.value)
        return release

    async def _fetch(self, archive: Path, version: str, digest: str | None) -> tuple[Trust, str]:
        name, base = archive_name(version), (self.host.settings.firecracker_releases or PUBLISHED).rstrip("/")
        trust, wanted = (Trust.GIVEN, digest) if digest else (Trust.KNOWN, KNOWN.get(version, ""))
        if not wanted:
            trust, wanted = Trust.PUBLISHED, await self._published(archive.with_name("list"), f"{base}/v{version}/{name}.sha256.txt", name)
            report(f"the digest of {version} is not known here: checking against the one published beside it")

        def told(done: int, total: int | None) -> None:
            report(f"fetching {name}", done=done, total=total, unit="bytes")

        try:
            await self.host.web.fetch(f"{base}/v{version}/{name}", archive, limit=LARGEST_ARCHIVE, digest=f"sha256:{wanted}", told=told)
        except (NotFound, DownloadFailed) as error:
            error.hint = "is this host online, and the version right? else: banger firecracker install --from FILE"
            raise
        return trust, wanted

    async def _published(self, into: Path, url: str, name: str) -> str:
        await self.host.web.fetch(url, into, limit=LARGEST_LIST)
        found = published_digest((self.host.files.read(into) or b"").decode("utf-8", "replace"), name)
        if not found:
            raise Corrupt(f"{url} does not give the digest of {name}")
        return found

    async def _take(self, archive: Path, file: Path, version: str | None, digest: str | None) -> tuple[Trust, str]:
        """A copy, so that what is checked is what is used."""
        if not file.is_file():
            raise NotFound(f"{file} is not a file")
        if file.stat().st_size > LARGEST_ARCHIVE:
            raise Corrupt(f"{file} is too large for a release of Firecracker")
        self.host.files.copy_sparse(file, archive)
        wanted = digest or KNOWN.get(version or "", "") if self._packed(archive) else digest
        if wanted:
            await self._verify(archive, wanted, str(file))
            return (Trust.GIVEN if digest else Trust.KNOWN), wanted
        found = (await self.host.archive.sha256(archive)).removeprefix("sha256:")
        return (Trust.KNOWN if found in KNOWN.values() else Trust.NONE), found

    async def _verify(self, archive: Path, wanted: str, name: str) -> None:
        found = (await self.host.archive.sha256(archive)).removeprefix("sha256:")
        if found != wanted:
            raise Corrupt(f"{name} is not what it must be: its SHA-256 is {found}, not {wanted}", hint="nothing was installed")

    def _packed(self, archive: Path) -> bool:
        with archive.open("rb") as reader:
            return reader.read(2) == GZIP

    async def _unpack(self, archive: Path, into: Path) -> None:
        """The two binaries; of a single binary just that."""
        self.host.files.private_folder(into)
        if not self._packed(archive):
            archive.rename(into / "firecracker")
            return
        tar = archive.with_name("archive.tar")
        await self.host.archive.gunzip(archive, tar, limit=LARGEST_UNPACKED)
        await self.host.archive.take(tar, into, chosen, limit=2 * LARGEST_BINARY)
        tar.unlink()
        if not (into / "firecracker").exists():
            raise Corrupt("there is no firecracker in the archive", hint="take the archive of a release: firecracker-vX.Y.Z-x86_64.tgz")

    def _keep(self, taken: Path, place: Path) -> None:
        """An executable that is on disk before anybody sees it; only `jailer` may be missing."""
        data = self.host.files.read(taken)
        if data is None:
            return
        if data[:4] != ELF:
            raise Corrupt(f"{place.name} is not an executable: it is no ELF file")
        self.host.files.write_atomic(place, data, mode=0o755)

    async def _ask(self, made: Path, version: str | None) -> str:
        """The version that both binaries say, which must be the one that was asked for, and new enough."""
        found = parse_version((await self.host.proc.run([str(made / "firecracker"), "--version"], timeout=10)).decode("utf-8", "replace"))
        if version is not None and numbers(version) != found:
            raise Corrupt(f"this is Firecracker {show_version(found)}, not {version}")
        if found < FLOOR:
            raise HostLacks(f"Firecracker {show_version(found)} is too old", hint=f"install {show_version(FLOOR)} or newer")
        if (made / "jailer").exists():
            said = (await self.host.proc.run([str(made / "jailer"), "--version"], timeout=10)).decode("utf-8", "replace")
            if parse_version(said, "Jailer") != found:
                raise Corrupt(f"the jailer in the archive is not of Firecracker {show_version(found)}")
        return show_version(found)

    def _publish(self, made: Path, place: Path, force: bool) -> None:
        if place.exists() and not force:
            raise AlreadyExists(f"Firecracker {place.name} is installed", hint="to install it again, use --force")
        self.host.files.exchange(made, place)

    async def uninstall(self, version: str) -> None:
        """Remove an installed one; machines that run keep theirs, which they hold open."""
        async with self.lock:
            place = self.host.paths.firecracker(valid_version(version))
            if not place.exists():
                raise NotFound(f"Firecracker {version} is not among those that banger has installed", hint="run: banger firecracker list")
            away = self._staging()
            place.rename(away)
            self.host.files.remove_tree(away)

    def clean(self) -> None:
        """Remove what daemons that are gone have left unfinished."""
        for path in self.host.paths.firecrackers.glob(f"{STAGING}~*"):
            _, pid, start, _ = path.name.split("~")
            if self.host.proc.look(ProcessId(int(pid), int(start))) is Life.GONE:
                log.info("removing an unfinished installation of Firecracker")
                self.host.files.remove_tree(path)
