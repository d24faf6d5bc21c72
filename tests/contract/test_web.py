"""Files from a web server on loopback, and Firecracker installed from it: cut connections, lengths that lie, full disks, and kill -9."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from banger.host.web import RealWeb, acceptable
from banger.host.web.session import LEAST
from banger.model.errors import BadRequest, BangerError, Corrupt, DownloadFailed, NotFound
from tests.registry import Front, sha256
from tests.unit.test_releases import archive
from tests.vm.test_space import Small, place
from tests.world import World, until

__all__ = ["place"]
VERSION = "1.18.2"
NAME = f"firecracker-v{VERSION}-x86_64.tgz"


class Site(ThreadingHTTPServer):
    """Pages by path, by ranges, too; `tags`: they have one each. `short` ends each answer that many bytes early, `go` lets on one that is held in its
    middle."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pages: dict[str, bytes] = {}
        self.leads: dict[str, str] = {}
        self.short, self.announced, self.tags = 0, True, True
        self.held, self.go = threading.Event(), threading.Event()
        self.go.set()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def publish(self, data: bytes) -> None:
        """A release and its digest."""
        self.pages |= {f"/v{VERSION}/{NAME}": data, f"/v{VERSION}/{NAME}.sha256.txt": f"{hashlib.sha256(data).hexdigest()}  {NAME}\n".encode()}


class _Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        site = self.server
        if self.path in site.leads:
            self.send_response(302)
            self.send_header("Location", site.leads[self.path])
            self.end_headers()
            return
        data = site.pages.get(self.path)
        if data is None:
            self.send_error(404)
            return
        tag = f'"{hashlib.sha256(data).hexdigest()}"'
        start, size = int(self.headers.get("Range", "bytes=0-")[6:-1]), len(data)
        start = start if self.headers.get("If-Range", tag) == tag else 0
        data = data[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        if site.tags:
            self.send_header("ETag", tag)
        if site.announced:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        half = len(data) // 2
        self.wfile.write(data[:half])
        if not site.go.is_set():
            self.wfile.flush()
            site.held.set()
            site.go.wait(60)
        self.wfile.write(data[half : len(data) - site.short])

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.go.set()
    made.shutdown()
    made.server_close()


async def test_a_file_comes_whole_and_its_progress_is_told(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = data = os.urandom(300_000)
    told: list[tuple[int, int | None]] = []
    await RealWeb().fetch(f"{site.url}/a", tmp_path / "a", limit=1 << 20, told=lambda done, total: told.append((done, total)))
    assert (tmp_path / "a").read_bytes() == data
    assert told[-1] == (300_000, 300_000)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


async def test_a_redirect_is_followed(site: Site, tmp_path: Path) -> None:
    site.pages["/a"], site.leads["/b"] = b"here", f"{site.url}/a"
    await RealWeb().fetch(f"{site.url}/b", tmp_path / "a", limit=100)
    assert (tmp_path / "a").read_bytes() == b"here"


@pytest.mark.parametrize("where", ["http://192.0.2.1/a", "ftp://127.0.0.1/a", "file:///etc/passwd"])
async def test_a_redirect_to_what_may_not_be_fetched_is_refused(site: Site, tmp_path: Path, where: str) -> None:
    site.leads["/b"] = where
    with pytest.raises(BangerError):
        await RealWeb().fetch(f"{site.url}/b", tmp_path / "a", limit=100)
    assert (tmp_path / "a").read_bytes() == b""


async def test_a_connection_that_is_cut_is_a_failure(site: Site, tmp_path: Path) -> None:
    site.pages["/a"], site.short = bytes(100_000), 1
    with pytest.raises(DownloadFailed, match="broke the connection off"):
        await RealWeb(pause=0.01).fetch(f"{site.url}/a", tmp_path / "a", limit=1 << 20)


DATA = random.Random(5).randbytes(700_000)


@pytest.fixture
def front(site: Site) -> Iterator[Front]:
    """A server that knows ranges, behind one that does what networks do."""
    site.pages["/a"] = DATA
    made = Front(site.url.removeprefix("http://"))
    yield made
    made.close()


BREAKS = [
    (["cut 300000"], [0, 300_000]),
    (["cut 200000", "cut 200000", "status 503"], [0, 200_000, 400_000, 400_000]),
    (["drop", "status 503", "status 429 0"], [0] * 4),
    (["cut 300000", "no-range"], [0, 300_000]),
    (["cut 300000", "other-part"], [0, 300_000, 0]),
    (["cut 300000", "no-part"], [0, 300_000, 0]),
]


@pytest.mark.parametrize("digest", [sha256(DATA), ""])
@pytest.mark.parametrize(("faults", "starts"), BREAKS)
async def test_what_breaks_off_goes_on_where_it_was(front: Front, tmp_path: Path, faults: list[str], starts: list[int], digest: str) -> None:
    """Also what has no digest, where the server says by its tag that it is still the same."""
    front.faults, front.into = {"/a": list(faults)}, tmp_path / "a"
    await RealWeb(pause=0.01).fetch(f"{front.url}/a", tmp_path / "a", limit=1 << 20, digest=digest)
    assert (tmp_path / "a").read_bytes() == DATA
    asked = [int(one.range[6:-1]) if one.range else 0 for one in front.asked]
    assert len(asked) == len(starts)
    assert all(most - 2 * LEAST < start <= most for start, most in zip(asked, starts, strict=True))
    assert all(("If-Range" in one.headers) == (not digest) for one in front.asked if one.range)


async def test_the_same_after_redirects_and_what_is_wrong_in_pieces_is_fetched_as_a_whole(front: Front, site: Site, tmp_path: Path) -> None:
    front.faults, front.into = {"/b": [f"to {front.url}/a"] * 3, "/a": ["cut 300000", "garble"]}, tmp_path / "a"
    await RealWeb(pause=0.01).fetch(f"{front.url}/b", tmp_path / "a", limit=1 << 20, digest=sha256(DATA))
    assert (tmp_path / "a").read_bytes() == DATA
    assert [bool(one.range) for one in front.asked if one.path == "/a"] == [False, True, False]


@pytest.mark.parametrize("tags", [True, False])
async def test_without_a_digest_what_has_changed_meanwhile_or_may_have_begins_anew(front: Front, site: Site, tmp_path: Path, tags: bool) -> None:
    front.faults, front.into, site.tags = {"/a": ["cut 300000"]}, tmp_path / "a", tags
    changed = bytes(650_000)
    front.after = lambda: site.pages.update({"/a": changed})
    await RealWeb(pause=0.01).fetch(f"{front.url}/a", tmp_path / "a", limit=1 << 20)
    assert (tmp_path / "a").read_bytes() == changed
    assert [bool(one.range) for one in front.asked] == [False, tags]


async def test_a_beginning_is_used_only_where_a_digest_vouches_for_it(front: Front, tmp_path: Path) -> None:
    for digest, asked in ((sha256(DATA), "bytes=500000-"), ("", "")):
        (tmp_path / "a").write_bytes(DATA[:500_000])
        await RealWeb().fetch(f"{front.url}/a", tmp_path / "a", limit=1 << 20, digest=digest)
        assert (tmp_path / "a").read_bytes() == DATA
        assert front.asked[-1].range == asked
    count = len(front.asked)
    await RealWeb().fetch(f"{front.url}/a", tmp_path / "a", limit=1 << 20, digest=sha256(DATA))
    assert len(front.asked) == count


@pytest.mark.parametrize(
    ("fault", "words"), [("garble", "is not what it must be"), ("longer", "than it may be|must be"), ("announce 99999999", "than it may")]
)
async def test_a_server_that_lies_is_told_and_nothing_of_it_is_kept(front: Front, tmp_path: Path, fault: str, words: str) -> None:
    front.faults = {"/a": [fault] * 9}
    with pytest.raises(Corrupt, match=words):
        await RealWeb(pause=0.01).fetch(f"{front.url}/a", tmp_path / "a", limit=len(DATA), digest=sha256(DATA))
    assert ((tmp_path / "a").read_bytes(), len(front.asked)) == (b"", 1)


@pytest.mark.parametrize(("fault", "tries"), [("status 400", 1), ("status 403", 1), ("status 404", 1), ("status 503", 6), ("status 429 3600", 1)])
async def test_what_is_refused_is_not_tried_again_and_what_fails_is_not_for_ever(front: Front, tmp_path: Path, fault: str, tries: int) -> None:
    front.faults = {"/a": [fault] * 20}
    with pytest.raises((DownloadFailed, NotFound)):
        await RealWeb(pause=0.01).fetch(f"{front.url}/a", tmp_path / "a", limit=1 << 20)
    assert len(front.asked) == tries


async def test_more_than_is_allowed_is_refused_announced_or_not(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = bytes(100_001)
    for announced in (True, False):
        site.announced = announced
        with pytest.raises(Corrupt, match="than it may be"):
            await RealWeb().fetch(f"{site.url}/a", tmp_path / str(announced), limit=100_000)


async def test_what_is_not_there_is_told(site: Site, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is nothing at"):
        await RealWeb().fetch(f"{site.url}/a", tmp_path / "a", limit=100)


async def test_who_stops_sending_is_given_up(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("banger.host.web.session.STALL", 0.3)
    site.pages["/a"] = bytes(100_000)
    site.go.clear()
    with pytest.raises(DownloadFailed, match="has stalled"):
        await RealWeb(pause=0.01).fetch(f"{site.url}/a", tmp_path / "a", limit=1 << 20)


@pytest.mark.parametrize("url", ["http://example.org/", "ftp://x/", "file:///etc/passwd", "https://", "http://127.0.0.1.example.org/", "x"])
def test_only_secure_addresses_and_this_host_are_acceptable(url: str) -> None:
    with pytest.raises(BadRequest):
        acceptable(url)


async def test_a_server_that_nobody_vouches_for_is_refused(site: Site, tmp_path: Path) -> None:
    port = site.server_address[1]
    assert ssl.create_default_context().verify_mode is ssl.CERT_REQUIRED
    with pytest.raises(DownloadFailed, match=rf"127\.0\.0\.1:{port} does not speak TLS as it should: [a-z ]+$"):
        await RealWeb().fetch(f"https://127.0.0.1:{port}/a", tmp_path / "a", limit=100)


def installed(world: World) -> set[str]:
    folder = world.state / "firecracker"
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


@pytest.fixture
def shop(world: World, site: Site) -> Site:
    """A world that fetches from the site."""
    world.env["BANGER_FIRECRACKER_RELEASES"] = site.url
    site.publish(archive(VERSION))
    return site


def test_install_list_uninstall_from_the_command_line(world: World, shop: Site) -> None:
    assert world.ok("firecracker", "install", "--version", VERSION) == f"{VERSION}\n"
    rows = json.loads(world.ok("firecracker", "list", "--json"))
    assert (rows[0]["version"], rows[0]["source"], rows[0]["used"]) == (VERSION, "installed", True)
    assert rows[0]["jailer"].endswith(f"/{VERSION}/jailer")
    assert f"installed  yes   {world.state}/firecracker/{VERSION}/firecracker" in world.ok("firecracker", "list")
    found = {row["subject"]: row["message"] for row in json.loads(world.banger("doctor", "--json").stdout)}
    assert VERSION in found["firecracker"] or "kvm" in found["firecracker"].lower() or "vmx" in found["firecracker"]
    world.ok("firecracker", "uninstall", VERSION)
    assert installed(world) == set()


def test_a_release_comes_whole_though_connections_break(world: World, shop: Site) -> None:
    front = Front(shop.url.removeprefix("http://"))
    try:
        world.env["BANGER_FIRECRACKER_RELEASES"] = front.url
        front.faults = {f"{NAME}.sha256.txt": ["status 503 0", "pass"], NAME: ["cut 100"]}
        assert world.ok("firecracker", "install", "--version", VERSION) == f"{VERSION}\n"
        assert len(front.asked) == 4
    finally:
        front.close()


def test_a_bundle_whose_download_was_killed_goes_on_where_it_was(world: World, front: Front) -> None:
    command = ("image", "import", f"{front.url}/a", "--sha256", sha256(DATA).removeprefix("sha256:"))
    partial = world.root / "cache" / "banger" / "oci" / "partial"

    def came() -> int:
        return max((path.stat().st_size for path in partial.glob("*")), default=0)

    world.ok("daemon", "status")
    front.faults = {"/a": ["stall 400000"]}
    with world.begin(*command) as begun:
        assert front.held.wait(30)
        until(lambda: came() > 300_000, "the first bytes")
        world.kill_daemon()
        begun.communicate(timeout=60)
    left = came()
    front.go.set()
    done = world.banger(*command)
    assert b"not a bundle" in done.stderr
    assert front.asked[-1].range == f"bytes={left}-"
    assert list(partial.iterdir()) == []


def test_from_a_file_named_as_the_command_sees_it(world: World) -> None:
    file = world.root / "release.tgz"
    file.write_bytes(archive(VERSION))
    done = world.banger("firecracker", "install", "--from", os.path.relpath(file))
    assert (done.returncode, done.stdout.decode()) == (0, f"{VERSION}\n"), done.stderr.decode()
    assert b"taken as it was given" in done.stderr


def test_what_is_changed_on_the_way_leaves_nothing(world: World, shop: Site) -> None:
    shop.pages[f"/v{VERSION}/{NAME}"] = archive(VERSION, ("more", b"x"))
    done = world.banger("firecracker", "install", "--version", VERSION)
    assert (done.returncode, installed(world)) == (125, set()), done.stderr.decode()
    assert b"is not what it must be" in done.stderr


def test_killed_in_the_middle_nothing_is_half_made_and_it_works_again(world: World, shop: Site) -> None:
    pid = json.loads(world.ok("daemon", "status", "--json"))["pid"]
    shop.go.clear()
    with world.begin("firecracker", "install", "--version", VERSION) as command:
        assert shop.held.wait(30)
        os.kill(pid, signal.SIGKILL)
        command.communicate(timeout=60)
    assert [name for name in installed(world) if not name.startswith(".staging~")] == []
    shop.go.set()
    world.ok("firecracker", "list")
    assert installed(world) == set()
    world.ok("firecracker", "install", "--version", VERSION)
    assert installed(world) == {VERSION}


def test_taking_it_back_leaves_nothing(world: World, shop: Site) -> None:
    shop.go.clear()
    with world.begin("firecracker", "install", "--version", VERSION) as command:
        assert shop.held.wait(30)
        command.send_signal(signal.SIGINT)
        command.communicate(timeout=60)
    shop.go.set()
    assert command.returncode == 130
    until(lambda: installed(world) == set(), "the end of what was begun")


def test_a_full_disk_says_so_and_leaves_nothing(place: Path, site: Site) -> None:
    world = World(place)
    try:
        world.env["BANGER_FIRECRACKER_RELEASES"] = site.url
        site.publish(archive(VERSION, ("more", os.urandom(3 << 20))))
        world.ok("daemon", "status")
        disk = Small(world.state / "firecracker", 1)
        done = world.banger("firecracker", "install", "--version", VERSION)
        assert (done.returncode, installed(world)) == (123, set()), done.stderr.decode()
        disk.grow(16)
        world.ok("firecracker", "install", "--version", VERSION)
    finally:
        world.close()
