"""Catalogs of others from the command line, signed by the real minisign, on a server of this host's; and bundles, from there."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger.daemon.signatures import verify
from banger.model.errors import Corrupt
from banger.model.minisign import parse_key
from tests.contract.test_web import Site
from tests.signer import Signer
from tests.unit.test_bundle_source import REAL, WHOLE
from tests.unit.test_bundles import packed
from tests.world import World, until


class Maker:
    """Somebody with a key, by minisign itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.run("-G", "-W", "-p", str(folder / "key.pub"), "-s", str(folder / "key"))

    def run(self, *words: str) -> None:
        """One minisign."""
        subprocess.run(["minisign", *words], check=True, capture_output=True, timeout=60)

    @property
    def key(self) -> str:
        """The public one."""
        return (self.folder / "key.pub").read_text().splitlines()[1]

    def sign(self, data: bytes, *options: str) -> bytes:
        """The signature file."""
        file, signature = self.folder / "file", self.folder / "file.minisig"
        file.write_bytes(data)
        self.run("-S", *options, "-s", str(self.folder / "key"), "-m", str(file), "-x", str(signature))
        return signature.read_bytes()

    def agrees(self, data: bytes, signature: bytes) -> bool:
        """What minisign says of it."""
        (self.folder / "asked").write_bytes(data)
        (self.folder / "asked.minisig").write_bytes(signature)
        command = ["minisign", "-V", "-q", "-P", self.key, "-m", str(self.folder / "asked")]
        return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    assert shutil.which("minisign"), "minisign is missing: python3 packaging/bootstrap.py dev"
    return Maker(tmp_path / "maker")


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.go.set()
    made.shutdown()
    made.server_close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[World]:
    """A world with images and kernels of its own."""
    made = World(tmp_path / "w", images_dir=str(tmp_path / "w" / "images"), kernels_dir=str(tmp_path / "w" / "kernels"))
    yield made
    made.close()


BUNDLE = packed(WHOLE, REAL)


def document(site: Site, serial: int, name: str = "box") -> bytes:
    """A catalog of one image, and the bundle that it is in."""
    site.pages["/box.tar.zst"] = BUNDLE
    image = {"name": name, "source": "bundle", "kernel": "linux", "url": f"{site.url}/box.tar.zst", "sha256": hashlib.sha256(BUNDLE).hexdigest()}
    return json.dumps({"version": 1, "serial": serial, "images": [image]}).encode()


def publish(site: Site, maker: Maker, serial: int, *options: str, name: str = "box") -> str:
    """Publish a catalog; where it is."""
    data = document(site, serial, name)
    site.pages |= {"/team.json": data, "/team.json.minisig": maker.sign(data, *options)}
    return f"{site.url}/team.json"


def kept(world: World) -> list[str]:
    folder = world.state / "catalogs"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def refused(world: World, *words: str) -> tuple[int, str]:
    done = world.banger(*words)
    return done.returncode, done.stderr.decode()


@pytest.mark.parametrize("options", [(), ("-l",)], ids=["hashed", "legacy"])
def test_what_minisign_has_signed_is_right_and_what_it_refuses_is_refused(maker: Maker, options: tuple[str, ...]) -> None:
    data, key = b"some text\n" * 100, parse_key(maker.key)
    good = maker.sign(data, "-t", "made today", *options)
    assert verify(key, data, good, "it") == "made today"
    dice = random.Random(7)
    for _ in range(60):
        made = bytearray(good)
        for _ in range(dice.randrange(1, 3)):
            made[dice.randrange(len(made))] = dice.randrange(256)
        try:
            verify(key, data, bytes(made), "it")
        except Corrupt:
            continue
        assert maker.agrees(data, bytes(made)), bytes(made)


def test_what_these_tests_sign_minisign_takes(maker: Maker) -> None:
    signer = Signer(3)
    for legacy in (False, True):
        (maker.folder / "asked").write_bytes(b"text")
        (maker.folder / "asked.minisig").write_bytes(signer.sign(b"text", legacy=legacy))
        maker.run("-V", "-q", "-P", signer.key, "-m", str(maker.folder / "asked"))


def test_add_pull_update_remove(own: World, site: Site, maker: Maker) -> None:
    url = publish(site, maker, 1, "-t", "made today")
    done = own.banger("catalog", "add", url, "--key", str(maker.folder / "key.pub"))
    assert (done.returncode, done.stdout) == (0, b"team\n"), done.stderr.decode()
    assert f"signed by {maker.key} (made today)" in done.stderr.decode()
    table = own.ok("catalog", "list")
    assert table.splitlines()[1].split() == ["team", "1", "1", "0", maker.key, *table.splitlines()[1].split()[5:6], url]
    rows = {row["name"]: (row["catalog"], row["hides"]) for row in json.loads(own.ok("image", "list", "--available", "--json"))}
    assert rows["box"] == ("team", [])
    assert rows["debian-bookworm"] == ("shipped", [])
    assert "CATALOG" in own.ok("image", "list", "--available")
    assert "CATALOG" not in own.ok("image", "list")
    pulled = own.banger("image", "pull", "box")
    assert (pulled.returncode, pulled.stdout) == (0, b"box\n"), pulled.stderr.decode()
    assert json.loads(own.ok("image", "show", "box", "--json"))["source"] == "bundle"
    publish(site, maker, 2, name="debian-bookworm")
    done = own.banger("catalog", "update")
    assert "shipped" not in done.stdout.decode()
    assert "note: not offered from it, since catalogs that go before it have them: debian-bookworm" in done.stderr.decode()
    assert "shipped (not team)" in own.ok("image", "list", "--available")
    assert own.ok("catalog", "list", "-q") == "team\n"
    own.ok("catalog", "remove", "team")
    assert json.loads(own.ok("catalog", "list", "--json")) == []
    assert (json.loads(own.ok("image", "list", "--json"))[0]["name"], kept(own)) == ("box", []), "what was made of it stays"


def test_what_is_not_signed_as_it_must_be_is_refused_by_the_command(own: World, site: Site, maker: Maker, tmp_path: Path) -> None:
    url, mallory = publish(site, maker, 2, "-l"), Maker(tmp_path / "mallory")
    assert refused(own, "catalog", "add", url)[0] == 120
    assert refused(own, "catalog", "add", url, "--key", str(tmp_path / "nothing"))[0] == 120
    status, said = refused(own, "catalog", "add", url, "--key", mallory.key)
    assert (status, "is signed by another key" in said, kept(own)) == (125, True, [])
    own.ok("catalog", "add", url, "--key", maker.key)
    publish(site, mallory, 3)
    status, said = refused(own, "catalog", "add", url, "--key", mallory.key)
    assert (status, maker.key in said, mallory.key in said) == (122, True, True)
    assert refused(own, "catalog", "update")[0] == 125
    assert refused(own, "catalog", "add", url, "--unsigned")[0] == 122
    publish(site, maker, 1)
    status, said = refused(own, "catalog", "update", "team")
    assert (status, "is older than the one that is here" in said) == (125, True)
    del site.pages["/team.json.minisig"]
    assert refused(own, "catalog", "update")[0] == 121
    assert json.loads(own.ok("catalog", "list", "--json"))[0]["serial"] == 2


def test_from_a_file_named_as_the_command_sees_it(own: World, site: Site, maker: Maker, tmp_path: Path) -> None:
    file = tmp_path / "stick.json"
    file.write_bytes(document(site, 1))
    Path(f"{file}.minisig").write_bytes(maker.sign(file.read_bytes()))
    own.ok("catalog", "add", os.path.relpath(file), "--key", os.path.relpath(maker.folder / "key.pub"))
    assert json.loads(own.ok("catalog", "list", "--json"))[0]["location"] == str(file)
    done = own.banger("catalog", "add", str(file), "--unsigned", "--name", "other")
    assert "signed by nobody" in done.stderr.decode()
    assert "note: not offered from it" in done.stderr.decode()


def test_a_daemon_killed_while_a_catalog_comes_leaves_the_former_one(own: World, site: Site, maker: Maker) -> None:
    url = publish(site, maker, 1)
    own.ok("catalog", "add", url, "--key", maker.key)
    publish(site, maker, 2)
    pid = own.daemon_pid()
    site.go.clear()
    with own.begin("catalog", "update") as command:
        assert site.held.wait(30)
        os.kill(pid, signal.SIGKILL)
        command.communicate(timeout=60)
    site.go.set()
    assert json.loads(own.ok("catalog", "list", "--json"))[0]["serial"] == 1
    assert kept(own) == ["team.json"]
    own.ok("catalog", "update")
    assert json.loads(own.ok("catalog", "list", "--json"))[0]["serial"] == 2


def test_taking_it_back_leaves_nothing(own: World, site: Site, maker: Maker) -> None:
    url = publish(site, maker, 1)
    own.ok("vm", "list")
    site.go.clear()
    with own.begin("catalog", "add", url, "--key", maker.key) as command:
        assert site.held.wait(30)
        command.send_signal(signal.SIGINT)
        command.communicate(timeout=60)
    site.go.set()
    assert command.returncode == 130
    until(lambda: kept(own) == [], "the end of what was begun")


def there(own: World) -> list[str]:
    return sorted(f"{shelf}/{path.name}" for shelf in ("images", "kernels") for path in (own.root / shelf).iterdir())


def test_a_bundle_is_imported_from_an_address(own: World, site: Site) -> None:
    site.pages["/box.tar.zst"] = BUNDLE
    url, digest = f"{site.url}/box.tar.zst", hashlib.sha256(BUNDLE).hexdigest()
    assert refused(own, "image", "import", url)[0] == 120
    assert refused(own, "image", "import", "http://192.0.2.1/b", "--sha256", digest)[0] == 120
    assert refused(own, "image", "import", url, "--sha256", "0" * 64)[0] == 125
    assert refused(own, "image", "import", f"{url}x", "--unverified")[0] == 121
    site.short = 10
    assert refused(own, "image", "import", url, "--sha256", digest)[0] == 124
    site.short = 0
    assert there(own) == []
    assert own.ok("image", "import", url, "--sha256", digest) == "kernel linux\nimage box\n"
    assert there(own) == ["images/box", "kernels/linux"]


@pytest.mark.parametrize("words", [("image", "import", "URL", "--unverified"), ("image", "pull", "box")])
def test_a_daemon_killed_while_a_bundle_comes_leaves_nothing(own: World, site: Site, maker: Maker, words: tuple[str, ...]) -> None:
    own.ok("catalog", "add", publish(site, maker, 1), "--key", maker.key)
    command = [word.replace("URL", f"{site.url}/box.tar.zst") for word in words]
    pid = own.daemon_pid()
    site.go.clear()
    with own.begin(*command) as begun:
        assert site.held.wait(30)
        os.kill(pid, signal.SIGKILL)
        begun.communicate(timeout=60)
    site.go.set()
    own.ok("image", "list")
    assert there(own) == []
    own.ok(*command)
    assert there(own) == ["images/box", "kernels/linux"]
