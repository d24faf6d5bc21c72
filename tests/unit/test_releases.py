"""Installing Firecracker: what is checked before anything is used, that it comes whole or not at all, and which of several is used."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from banger.backends.releases import Binaries, why
from banger.daemon.operations import Operations
from banger.daemon.releases import Releases
from banger.model.config import Settings
from banger.model.errors import AlreadyExists, BadRequest, BangerError, Corrupt, HostLacks, NotFound, VmmFailed
from banger.model.releases import DEFAULT, FLOOR, KNOWN, PUBLISHED, Release, Trust, numbers, parse_version, published_digest, valid_version
from banger.testing import FakeHost
from tests.elf import saying

OLD, NEW = "1.11.0", "1.18.2"


def archive(version: str, *extra: tuple[str, bytes], jailer: str | None = None, binary: bytes | None = None) -> bytes:
    """A release as Firecracker makes it, and what a test adds."""
    folder = f"release-v{version}-x86_64"
    members = [
        (f"{folder}/firecracker-v{version}-x86_64", saying(f"Firecracker v{version}\n") if binary is None else binary),
        (f"{folder}/jailer-v{version}-x86_64", saying(f"Jailer v{jailer or version}\n")),
        (f"{folder}/LICENSE", b"words"),
        *extra,
    ]
    return packed(members)


def packed(members: Sequence[tuple[str, bytes]]) -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return whole.getvalue()


class Bench:
    """A service with a web of its own. Nothing is started: what an installed binary says is read out of it."""

    def __init__(self, root: Path, tasks: asyncio.TaskGroup, settings: Settings | None = None) -> None:
        self.fake = FakeHost(root, settings)
        self.service = Releases(self.fake.host, Operations(self.fake.clock, tasks))
        self.fake.proc.commands |= {"firecracker": self._says, "jailer": self._says}

    async def _says(self, argv: Sequence[str], cwd: Path | None) -> bytes:
        return Path(argv[0]).read_bytes().rpartition(b"\x0f\x05")[2]

    def publish(self, version: str, data: bytes, *, listed: bytes | None = None) -> str:
        """Put a release on the web; the digest."""
        name, digest = f"firecracker-v{version}-x86_64.tgz", hashlib.sha256(data).hexdigest()
        place = f"{PUBLISHED}/v{version}/{name}"
        self.fake.web.pages[place] = data
        self.fake.web.pages[f"{place}.sha256.txt"] = listed if listed is not None else f"{digest}  {name}\n".encode()
        return digest

    async def install(self, version: str | None = None, *, file: Path | None = None, sha256: str | None = None, force: bool = False) -> Release:
        stream = self.service.install(version=version, file=str(file) if file else None, sha256=sha256, force=force)
        last = [item async for item in stream][-1]
        assert isinstance(last, Release)
        return last

    def there(self) -> set[str]:
        """What is in the folder, half made things too."""
        return {path.name for path in self.fake.paths.firecrackers.iterdir()} if self.fake.paths.firecrackers.exists() else set()


@pytest.fixture
async def shop(tmp_path: Path) -> Bench:
    group = await asyncio.TaskGroup().__aenter__()
    return Bench(tmp_path, group)


async def test_a_release_is_fetched_checked_and_installed_whole(shop: Bench) -> None:
    digest = shop.publish(NEW, archive(NEW))
    release = await shop.install(NEW)
    assert (release.version, release.trust, release.digest, release.jailer) == (NEW, Trust.PUBLISHED, digest, True)
    place = shop.fake.paths.firecracker(NEW)
    assert {path.name: path.stat().st_mode & 0o777 for path in place.iterdir()} == {"firecracker": 0o755, "jailer": 0o755, "manifest.json": 0o600}
    assert shop.there() == {NEW}


async def test_a_known_version_is_checked_against_what_is_known_and_nothing_else_is_asked(shop: Bench) -> None:
    shop.publish(DEFAULT, archive(DEFAULT))
    with pytest.raises(Corrupt, match=f"its digest is .*, not sha256:{KNOWN[DEFAULT]}"):
        await shop.install()
    assert [address.rpartition("/")[2] for address in shop.fake.web.asked] == [f"firecracker-v{DEFAULT}-x86_64.tgz"]
    assert shop.there() == set()


async def test_what_is_installed_is_not_fetched_again_but_by_force(shop: Bench) -> None:
    shop.publish(NEW, archive(NEW))
    first = await shop.install(NEW)
    asked = len(shop.fake.web.asked)
    assert await shop.install(f"v{NEW}") == first
    assert len(shop.fake.web.asked) == asked
    await shop.install(NEW, force=True)
    assert len(shop.fake.web.asked) == 2 * asked
    assert shop.there() == {NEW}


async def test_at_no_moment_of_a_replacement_is_there_no_release(shop: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.publish(NEW, archive(NEW))
    await shop.install(NEW)

    def killed(fresh: Path, name: Path) -> None:
        assert (name / "firecracker").exists()
        raise OSError(5, "the end")

    monkeypatch.setattr(shop.fake.host.files, "exchange", killed)
    with pytest.raises(OSError, match="the end"):
        await shop.install(NEW, force=True)
    assert shop.there() == {NEW}
    assert (shop.fake.paths.firecracker(NEW) / "firecracker").exists()


@pytest.mark.parametrize("listed", [b"", b"nonsense", b"0" * 64, b"0" * 64 + b"  another-name\n"])
async def test_a_list_that_does_not_give_the_digest_is_refused(shop: Bench, listed: bytes) -> None:
    shop.publish(NEW, archive(NEW), listed=listed)
    with pytest.raises(Corrupt, match="does not give the digest"):
        await shop.install(NEW)
    assert shop.there() == set()


async def test_a_wrong_digest_in_the_list_or_on_the_command_line_is_refused(shop: Bench) -> None:
    name = f"firecracker-v{NEW}-x86_64.tgz"
    shop.publish(NEW, archive(NEW), listed=f"{'0' * 64}  {name}\n".encode())
    with pytest.raises(Corrupt, match="is not what it must be"):
        await shop.install(NEW)
    with pytest.raises(Corrupt, match="is not what it must be"):
        await shop.install(NEW, sha256="f" * 64)
    assert shop.there() == set()
    shop.fake.web.pages[f"{PUBLISHED}/v{NEW}/{name}"] = data = archive(NEW)
    assert (await shop.install(NEW, sha256=hashlib.sha256(data).hexdigest())).trust is Trust.GIVEN


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (packed([("release/README", b"x")]), "there is no firecracker in the archive"),
        (packed([("../firecracker", saying("Firecracker v1.18.2\n"))]), "leads outside"),
        (packed([("a/../../firecracker", saying("Firecracker v1.18.2\n"))]), "leads outside"),
        (packed([("a/firecracker", b"x"), ("b/firecracker", b"y")]), "two files of the name firecracker"),
        (archive(NEW, binary=b"#!/bin/sh\necho Firecracker v1.18.2\n"), "no ELF file"),
        (archive(NEW, binary=b""), "no ELF file"),
        (archive(NEW)[:-20], "cut short|not a sound"),
        (gzip.compress(b"no tar at all"), "not a sound tar"),
        (archive("1.15.0"), "this is Firecracker 1.15.0, not 1.18.2"),
        (archive(NEW, jailer="1.18.1"), "the jailer in the archive is not of Firecracker 1.18.2"),
    ],
    ids=["empty", "outside", "outside-from-within", "twice", "script", "nothing", "cut", "no-tar", "another-version", "another-jailer"],
)
async def test_a_bad_archive_leaves_nothing(shop: Bench, data: bytes, says: str) -> None:
    shop.publish(NEW, data)
    with pytest.raises(Corrupt, match=says):
        await shop.install(NEW)
    assert shop.there() == set()


async def test_a_bomb_is_not_unpacked(shop: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("banger.daemon.releases.LARGEST_UNPACKED", 1 << 20)
    shop.publish(NEW, packed([("a/firecracker", bytes(8 << 20))]))
    with pytest.raises(Corrupt, match="unpacks to more than is allowed"):
        await shop.install(NEW)
    assert shop.there() == set()


async def test_links_in_an_archive_are_not_taken(shop: Bench) -> None:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as tar:
        member = tarfile.TarInfo(f"release/firecracker-v{NEW}-x86_64")
        member.type, member.linkname = tarfile.SYMTYPE, "/usr/bin/true"
        tar.addfile(member)
    shop.publish(NEW, whole.getvalue())
    with pytest.raises(Corrupt, match="there is no firecracker"):
        await shop.install(NEW)


async def test_from_a_file_offline(shop: Bench, tmp_path: Path) -> None:
    data = archive(NEW)
    file = tmp_path / "release.tgz"
    file.write_bytes(data)
    release = await shop.install(file=file)
    assert (release.version, release.trust) == (NEW, Trust.NONE)
    assert release.digest == hashlib.sha256(data).hexdigest()
    assert shop.fake.web.asked == []
    with pytest.raises(AlreadyExists, match=f"Firecracker {NEW} is installed"):
        await shop.install(file=file)
    assert (await shop.install(file=file, sha256=release.digest, force=True)).trust is Trust.GIVEN
    assert shop.there() == {NEW}


async def test_a_single_binary_will_do_without_a_jailer(shop: Bench, tmp_path: Path) -> None:
    file = tmp_path / "fc"
    file.write_bytes(saying(f"Firecracker v{OLD}\n"))
    release = await shop.install(OLD, file=file)
    assert (release.version, release.jailer) == (OLD, False)
    with pytest.raises(Corrupt, match=f"this is Firecracker {OLD}, not {NEW}"):
        await shop.install(NEW, file=file)


async def test_a_file_of_a_known_version_must_be_the_known_one(shop: Bench, tmp_path: Path) -> None:
    file = tmp_path / "release.tgz"
    file.write_bytes(archive(DEFAULT))
    with pytest.raises(Corrupt, match=f"not {KNOWN[DEFAULT]}"):
        await shop.install(DEFAULT, file=file)


async def test_what_is_too_old_is_refused(shop: Bench, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"1\.9\.1 is too old"):
        await shop.install("1.9.1")
    file = tmp_path / "fc"
    file.write_bytes(saying("Firecracker v1.9.1\n"))
    with pytest.raises(HostLacks, match=r"1\.9\.1 is too old"):
        await shop.install(file=file)
    assert shop.there() == set()


@pytest.mark.parametrize("version", ["", "latest", "1.16", "1.16.1/../x", "../1.16.1", "v", "1.16.1 ", "01.2.3", "1.16.1\n"])
def test_what_is_no_version_is_refused(version: str) -> None:
    with pytest.raises(BadRequest):
        valid_version(version)


@pytest.mark.parametrize("digest", ["0", "g" * 64, "0" * 63, "sha512:" + "0" * 64])
async def test_what_is_no_digest_is_refused(shop: Bench, digest: str) -> None:
    with pytest.raises(BadRequest, match="is not a SHA-256 digest"):
        await shop.install(NEW, sha256=digest)


async def test_a_file_that_is_none_or_not_named_wholly_is_refused(shop: Bench, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="does not begin with '/'"):
        await shop.install(file=Path("release.tgz"))
    for path in (tmp_path, tmp_path / "missing", Path("/dev/zero")):
        with pytest.raises(NotFound, match="is not a file"):
            await shop.install(file=path)


async def test_a_version_that_was_never_published_is_told_with_its_address(shop: Bench) -> None:
    with pytest.raises(NotFound, match=r"v1\.99\.0/firecracker-v1\.99\.0-x86_64\.tgz"):
        await shop.install("1.99.0")
    assert shop.there() == set()


async def test_another_place_can_be_set(tmp_path: Path) -> None:
    async with asyncio.TaskGroup() as tasks:
        shop = Bench(tmp_path, tasks, Settings(firecracker_releases="https://mirror.example/fc/"))
        with pytest.raises(NotFound, match=r"https://mirror\.example/fc/v1\.99\.0/"):
            await shop.install("1.99.0")


async def test_uninstalling_removes_it_and_only_it(shop: Bench) -> None:
    for version in (OLD, NEW):
        shop.publish(version, archive(version))
        await shop.install(version)
    await shop.service.uninstall(NEW)
    assert shop.there() == {OLD}
    with pytest.raises(NotFound, match=f"Firecracker {NEW} is not among those"):
        await shop.service.uninstall(NEW)
    with pytest.raises(BadRequest):
        await shop.service.uninstall("../../etc")


async def test_what_a_dead_daemon_left_unfinished_is_removed_and_a_living_ones_is_not(shop: Bench) -> None:
    folder = shop.fake.paths.firecrackers
    me = shop.fake.proc.myself.id
    for name in (".staging~999~99900~abcdef", f".staging~{me.pid}~{me.start}~abcdef"):
        (folder / name / "made").mkdir(parents=True)
    shop.service.clean()
    assert shop.there() == {f".staging~{me.pid}~{me.start}~abcdef"}


async def test_the_setting_wins_then_the_newest_installed_then_the_path(shop: Bench, tmp_path: Path) -> None:
    shop.fake.proc.answers["firecracker"] = "Firecracker v1.12.1\n"
    assert [(row.source, row.version, row.used) for row in shop.service.rows()] == [("PATH", "1.12.1", True)]
    for version in (NEW, OLD):
        shop.publish(version, archive(version))
        await shop.install(version)
    rows = [(row.source, row.version, row.used) for row in shop.service.rows()]
    assert rows == [("installed", NEW, True), ("installed", OLD, False), ("PATH", "1.12.1", False)]
    used = Binaries(shop.fake.host).used()
    assert used is not None
    assert used.jailer == str(shop.fake.paths.firecracker(NEW) / "jailer")
    assert why(used) == f"{NEW} at {shop.fake.paths.firecracker(NEW)}/firecracker, installed by banger"
    fake = FakeHost(tmp_path, Settings(firecracker="/opt/fc/firecracker", jailer_path="/opt/jailer"))
    assert Binaries(fake.host).used() is None  # the setting is all that counts
    fake.proc.commands |= {"firecracker": shop._says, "jailer": shop._says}
    fake.proc.answers["firecracker"] = "Firecracker v1.13.0\n"
    rows = [(row.source, row.path, row.jailer, row.used) for row in Binaries(fake.host).every()]
    assert rows[0] == ("setting", "/opt/fc/firecracker", "/opt/jailer", True)
    assert not any(row[3] for row in rows[1:])


async def test_an_installed_one_that_cannot_be_read_hides_no_other(shop: Bench) -> None:
    for version in (NEW, OLD):
        shop.publish(version, archive(version))
        await shop.install(version)
    (shop.fake.paths.firecracker(NEW) / "manifest.json").write_text("{")
    assert [release.version for release in Binaries(shop.fake.host).installed()] == [OLD]


async def test_where_firecracker_cannot_run_nothing_is_installed(shop: Bench) -> None:
    shop.fake.facts.machine = "aarch64"
    with pytest.raises(BangerError, match="x86_64 only"):
        await shop.install(NEW)


@pytest.mark.parametrize(("said", "version"), [("Firecracker v1.12.1\n\nmore", (1, 12, 1)), ("Firecracker v1.10.0-dev", (1, 10, 0))])
def test_the_version_is_read_from_what_it_says(said: str, version: tuple[int, int, int]) -> None:
    assert parse_version(said) == version


@pytest.mark.parametrize("said", ["", "firecracker", "Firecracker vNext", "QEMU emulator version 7.2.9"])
def test_what_is_no_firecracker_is_not_taken_for_one(said: str) -> None:
    with pytest.raises(VmmFailed, match="does not say which version"):
        parse_version(said)


def test_every_known_version_will_do() -> None:
    assert all(numbers(version) >= FLOOR and len(digest) == 64 for version, digest in KNOWN.items())
    assert DEFAULT in KNOWN


def test_digests_are_read_from_a_list_as_sha256sum_writes_it() -> None:
    digest = "ab" * 32
    assert published_digest(f"{'0' * 64}  other\n{digest} *a.tgz\n", "a.tgz") == digest
    assert published_digest(f"{digest[:-1]}  a.tgz", "a.tgz") == ""
