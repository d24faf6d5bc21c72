"""Files from a web server on loopback, and Firecracker installed from it: cut connections, lengths that lie, full disks, and kill -9."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from banger.host.web import RealWeb, acceptable
from banger.model.errors import BadRequest, BangerError, Corrupt, DownloadFailed, NotFound
from tests.unit.test_releases import archive
from tests.vm.test_space import Small, place
from tests.world import World, until

__all__ = ["place"]
VERSION = "1.18.2"
NAME = f"firecracker-v{VERSION}-x86_64.tgz"


class Site(ThreadingHTTPServer):
    """Pages by path; `short` ends each answer that many bytes early, `hold` stops in the middle of it until it is let go."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pages: dict[str, bytes] = {}
        self.leads: dict[str, str] = {}
        self.short, self.announced = 0, True
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
        self.send_response(200)
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
    assert not (tmp_path / "a").exists()


async def test_a_connection_that_is_cut_is_a_failure(site: Site, tmp_path: Path) -> None:
    site.pages["/a"], site.short = bytes(100_000), 1
    with pytest.raises(DownloadFailed, match=r"cut short: 99999 of 100000|did not come"):
        await RealWeb().fetch(f"{site.url}/a", tmp_path / "a", limit=1 << 20)


async def test_more_than_is_allowed_is_refused_announced_or_not(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = bytes(100_001)
    for announced in (True, False):
        site.announced = announced
        with pytest.raises(Corrupt, match="longer than it may be"):
            await RealWeb().fetch(f"{site.url}/a", tmp_path / str(announced), limit=100_000)


async def test_what_is_not_there_and_who_does_not_answer(site: Site, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is nothing at"):
        await RealWeb().fetch(f"{site.url}/a", tmp_path / "a", limit=100)
    with pytest.raises(DownloadFailed, match="did not come"):
        await RealWeb().fetch("http://127.0.0.1:1/a", tmp_path / "a", limit=100)


async def test_who_stops_sending_is_given_up(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("banger.host.web.STALL", 0.3)
    site.pages["/a"] = bytes(100_000)
    site.go.clear()
    with pytest.raises(DownloadFailed):
        await RealWeb().fetch(f"{site.url}/a", tmp_path / "a", limit=1 << 20)


@pytest.mark.parametrize("url", ["http://example.org/", "ftp://x/", "file:///etc/passwd", "https://", "http://127.0.0.1.example.org/", "x"])
def test_only_secure_addresses_and_this_host_are_acceptable(url: str) -> None:
    with pytest.raises(BadRequest):
        acceptable(url)


async def test_a_server_that_nobody_vouches_for_is_refused(site: Site, tmp_path: Path) -> None:
    port = site.server_address[1]
    assert ssl.create_default_context().verify_mode is ssl.CERT_REQUIRED
    with pytest.raises(DownloadFailed):
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


def test_from_a_file_named_as_the_command_sees_it(world: World) -> None:
    file = world.root / "release.tgz"
    file.write_bytes(archive(VERSION))
    done = world.banger("firecracker", "install", "--from", os.path.relpath(file))
    assert (done.returncode, done.stdout.decode()) == (0, f"{VERSION}\n"), done.stderr.decode()
    assert b"taken as it was given" in done.stderr


def test_what_is_cut_or_changed_on_the_way_leaves_nothing(world: World, shop: Site) -> None:
    shop.short = 10
    done = world.banger("firecracker", "install", "--version", VERSION)
    assert (done.returncode, installed(world)) == (124, set()), done.stderr.decode()
    shop.short = 0
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
