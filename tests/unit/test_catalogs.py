"""Catalogs of others: nothing is read before its signature is right, none becomes older, no key changes unseen, none replaces what goes before."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from banger.daemon import Daemon
from banger.daemon.doctor import _catalogs
from banger.model import codec
from banger.model.errors import AlreadyExists, BadRequest, BangerError, Corrupt, NotFound
from banger.model.finding import Level
from banger.model.published import CatalogRow, Published, name_of, require_sound
from tests.place import Place
from tests.signer import Signer

URL = "https://example.org/team.json"
ALICE, MALLORY = Signer(1), Signer(2)
SHA = "0" * 64
BOX = {"name": "node", "source": "bundle", "kernel": "linux-node", "url": "https://example.org/node.tar.zst", "sha256": SHA}


def text(serial: int = 1, *images: dict[str, object], kernels: tuple[dict[str, object], ...] = (), **more: object) -> bytes:
    return json.dumps({"version": 1, "serial": serial, "images": images or (BOX,), "kernels": kernels, **more}).encode()


def publish(place: Place, document: bytes, signature: bytes | None = None, url: str = URL) -> None:
    place.fake.web.pages |= {url: document, f"{url}.minisig": ALICE.sign(document) if signature is None else signature}


async def end(stream: AsyncIterator[object]) -> object:
    return [item async for item in stream][-1]


async def add(daemon: Daemon, location: str = URL, *, name: str | None = None, key: str | None = ALICE.key, unsigned: bool = False) -> CatalogRow:
    return cast(CatalogRow, await end(daemon.catalogs.add(location, name=name, key=None if unsigned else key, unsigned=unsigned)))


async def update(daemon: Daemon, *names: str) -> list[CatalogRow]:
    return cast(list[CatalogRow], await end(daemon.catalogs.update(names or None)))


def offered(daemon: Daemon) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {row.name: (row.catalog, row.hides) for row in daemon.images.rows(available=True) if row.catalog}


async def test_a_signed_catalog_is_added_and_what_it_has_is_on_offer_at_once(place: Place) -> None:
    daemon = await place.daemon()
    publish(place, text())
    row = await add(daemon)
    assert (row.name, row.serial, row.images, row.key, row.comment, row.hidden) == ("team", 1, 1, ALICE.key, "timestamp:1", ())
    assert place.fake.web.asked == [URL, f"{URL}.minisig"]
    assert offered(daemon) == {"node": ("team", ())}
    assert [row.name for row in daemon.kernels.rows(available=True)] == ["linux", "linux-node"], "a bundle brings its kernel"
    assert [path.name for path in place.fake.paths.catalogs.iterdir()] == ["team.json"]
    assert offered(await place.daemon()) == {"node": ("team", ())}, "the next daemon knows it"
    await daemon.catalogs.remove("team")
    assert (daemon.catalogs.rows(), offered(daemon)) == ([], {})
    with pytest.raises(NotFound):
        await daemon.catalogs.remove("team")


async def test_a_legacy_signature_is_as_good(place: Place) -> None:
    daemon = await place.daemon()
    publish(place, text(), ALICE.sign(text(), legacy=True))
    assert (await add(daemon)).serial == 1


async def test_a_file_and_its_signature_beside_it_are_as_good(place: Place, tmp_path: Path) -> None:
    daemon = await place.daemon()
    (tmp_path / "stick.json").write_bytes(text())
    with pytest.raises(NotFound, match="no signature of"):
        await add(daemon, str(tmp_path / "stick.json"))
    (tmp_path / "stick.json.minisig").write_bytes(ALICE.sign(text()))
    assert (await add(daemon, str(tmp_path / "stick.json"), key=f"untrusted comment: hers\n{ALICE.key}\n")).name == "stick"


# --- signatures


@pytest.mark.parametrize("signature", [MALLORY.sign(text()), ALICE.sign(text(2)), Signer(2, ALICE.id).sign(text()), b"", b"x" * 400])
async def test_a_signature_that_is_not_hers_is_refused_before_anything_is_read(place: Place, signature: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = await place.daemon()
    publish(place, text(), signature)
    with monkeypatch.context() as patch:
        patch.setattr("banger.daemon.catalogs.codec.decode", unread)
        with pytest.raises(Corrupt):
            await add(daemon)
    assert list(place.fake.paths.catalogs.iterdir()) == []
    assert offered(daemon) == {}


def unread(*_: object, **__: object) -> None:
    raise AssertionError("it was read")


# --- what is asked


@pytest.mark.parametrize(
    ("location", "key", "unsigned"),
    [
        (URL, None, False),
        (URL, "", False),
        (URL, ALICE.key, True),
        (URL, ALICE.key[:-4], False),
        (URL, ALICE.key[:-1] + "?", False),
        (URL, "RWQ" * 100, False),
        (URL, base64.b64encode(b"ED" + bytes(40)).decode(), False),
        ("http://example.org/team.json", ALICE.key, False),
        ("ftp://example.org/team.json", None, True),
        ("team.json", None, True),
        ("https://example.org/", None, True),
        ("https://example.org/shipped.json", None, True),
        ("https://example.org/own", None, True),
    ],
)
async def test_what_cannot_be_meant_is_refused_at_once(place: Place, location: str, key: str | None, unsigned: bool) -> None:
    daemon = await place.daemon()
    with pytest.raises(BadRequest):
        daemon.catalogs.add(location, name=None, key=key, unsigned=unsigned)
    assert place.fake.web.asked == []


@pytest.mark.parametrize("name", ["../x", ".x", "a/b", "", "shipped", "x" * 200])
async def test_a_name_leads_nowhere(place: Place, name: str) -> None:
    daemon = await place.daemon()
    publish(place, text())
    if name:
        with pytest.raises(BadRequest):
            daemon.catalogs.add(URL, name=name, key=ALICE.key, unsigned=False)
    with pytest.raises((BadRequest, NotFound)):
        await daemon.catalogs.remove(name)


def test_a_catalog_is_called_after_its_file() -> None:
    assert [name_of(location) for location in ("https://x.org/a/team.json?x=1", "/media/b.c.json")] == ["team", "b"]


# --- later


async def test_an_unsigned_one_stays_with_its_place(place: Place) -> None:
    daemon = await place.daemon()
    publish(place, text(), b"nothing")
    assert (await add(daemon, unsigned=True)).key == ""
    assert place.fake.web.asked == [URL], "nobody looks for a signature"
    with pytest.raises(AlreadyExists, match="team already, from"):
        await add(daemon, "https://elsewhere.example.org/team.json", unsigned=True)
    with pytest.raises(AlreadyExists, match="it was no key at all"):
        await add(daemon)


async def test_another_key_is_refused_and_both_are_told(place: Place) -> None:
    daemon = await place.daemon()
    publish(place, text())
    await add(daemon)
    publish(place, text(2), MALLORY.sign(text(2)))
    with pytest.raises(AlreadyExists) as caught:
        await add(daemon, key=MALLORY.key)
    assert ALICE.key in str(caught.value)
    assert MALLORY.key in str(caught.value)
    with pytest.raises(AlreadyExists, match="no key at all"):
        await add(daemon, unsigned=True)
    with pytest.raises(Corrupt, match="by 0202020202020202, not by 0101010101010101") as refused:
        await update(daemon)
    assert ALICE.key in str(refused.value)
    assert daemon.catalogs.rows()[0].serial == 1
    await daemon.catalogs.remove("team")
    assert (await add(daemon, key=MALLORY.key)).serial == 2, "once it is meant"


async def test_a_signed_one_may_move(place: Place) -> None:
    daemon = await place.daemon()
    publish(place, text())
    await add(daemon)
    moved = "https://elsewhere.example.org/team.json"
    publish(place, text(2), url=moved)
    assert (await add(daemon, moved)).location == moved
    assert len(daemon.catalogs.rows()) == 1


async def test_it_becomes_newer_only(place: Place) -> None:
    daemon = await place.daemon()
    publish(place, text(5))
    await add(daemon)
    publish(place, text(4))
    for attempt in (update(daemon), add(daemon)):
        with pytest.raises(Corrupt, match="is older than the one that is here: its serial is 4, not at least 5"):
            await attempt
    other = text(5, BOX | {"name": "other"})
    publish(place, other)
    with pytest.raises(Corrupt, match="has changed, but not its serial"):
        await update(daemon)
    assert offered(daemon) == {"node": ("team", ())}
    publish(place, text(5))
    assert (await update(daemon))[0].serial == 5, "the same again is no harm"
    publish(place, text(6, BOX | {"name": "other"}))
    assert (await update(daemon, "team"))[0].serial == 6
    assert offered(daemon) == {"other": ("team", ())}


async def test_one_that_fails_does_not_keep_others_from_being_updated(place: Place) -> None:
    daemon = await place.daemon()
    for name in ("a", "b"):
        publish(place, text(1, BOX | {"name": name}), url=f"https://example.org/{name}.json")
        await add(daemon, f"https://example.org/{name}.json")
    del place.fake.web.pages["https://example.org/a.json"]
    publish(place, text(2, BOX | {"name": "b"}), url="https://example.org/b.json")
    with pytest.raises(NotFound):
        await update(daemon)
    assert [row.serial for row in daemon.catalogs.rows()] == [1, 2]
    with pytest.raises(NotFound, match="no catalog 'c'"):
        daemon.catalogs.update(["b", "c"])


# --- who wins


async def test_nobody_replaces_what_goes_before_and_it_is_told(place: Place) -> None:
    own = place.fake.paths.config / "catalog"
    own.mkdir(parents=True)
    entry = {"name": "mine", "source": "debian", "kernel": "linux"}
    (own / "images.json").write_text(json.dumps({"version": 1, "entries": [entry, entry | {"name": "both"}]}))
    (place.fake.paths.config / "images.json").write_text(json.dumps({"version": 1, "entries": [entry | {"name": "given"}, entry | {"name": "both"}]}))
    daemon = await place.daemon()
    names = ("mine", "both", "given", "new")
    for catalog in ("first", "second"):
        publish(place, text(1, *(BOX | {"name": name} for name in names)), url=f"https://example.org/{catalog}.json")
        row = await add(daemon, f"https://example.org/{catalog}.json")
        assert row.hidden == (names[:3] if catalog == "first" else names)
        place.fake.clock.advance(1)
    assert offered(daemon) == {
        "mine": ("own", ("first", "second")),
        "both": ("own", ("shipped", "first", "second")),
        "given": ("shipped", ("first", "second")),
        "new": ("first", ("second",)),
    }
    assert daemon.images.shelf.catalog["both"].source == "debian"
    await daemon.catalogs.remove("first")
    assert offered(daemon)["new"] == ("second", ())


async def test_a_bundles_kernel_does_not_replace_one_that_somebody_has(place: Place) -> None:
    (place.fake.paths.config).mkdir(exist_ok=True)
    entry = {"name": "linux-node", "source": "debian", "suite": "bookworm", "package": "p"}
    (place.fake.paths.config / "kernels.json").write_text(json.dumps({"version": 1, "entries": [entry]}))
    daemon = await place.daemon()
    publish(place, text())
    await add(daemon)
    assert daemon.kernels.shelf.catalog["linux-node"].source == "debian"


# --- what may be in one


def made(change: Callable[[dict[str, object]], dict[str, object]]) -> bytes:
    return text(1, change(dict(BOX)))


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b"", "truncated|malformed"),
        (b"[]", "Expected `object`"),
        (text(0), "serial"),
        (text(1 << 70), "serial"),
        (text(more=1), "more"),
        (json.dumps({"version": 1, "images": []}).encode(), "serial"),
        (json.dumps({"version": 2, "serial": 1}).encode(), "has version 2"),
        (text(1, BOX, BOX), "two images called 'node'"),
        (text(1, BOX | {"name": "../x"}), "not the name"),
        (text(1, BOX | {"kernel": "../x"}), "not the name"),
        (text(1, BOX | {"kernel": ""}), "not the name"),
        (text(1, BOX | {"source": "rootfs", "file": "/etc/shadow"}), "of source 'rootfs'"),
        (text(1, BOX | {"file": "/etc/shadow"}), "names a file of this host"),
        (text(1, BOX | {"plain_http": True}), "without TLS"),
        (text(1, BOX | {"sha256": ""}), "needs url and sha256"),
        (text(1, BOX | {"url": "http://127.0.0.1:9/x"}), "not https"),
        (text(1, BOX | {"url": "file:///etc/shadow"}), "not https"),
        (text(1, BOX | {"source": "nothing"}), "of source 'nothing'"),
        (text(kernels=({"name": "k", "source": "folder", "file": "/boot"},)), "of source 'folder'"),
        (text(kernels=({"name": "k", "source": "tarball", "url": "https://x.org/k"},)), "needs url and sha256"),
        (text(1, *({**BOX, "name": f"n{number}"} for number in range(10_001))), "more than 10000 entries"),
        (b"\xff\xfe", "malformed|invalid"),
        (b"[" * 100_000, "Expected|depth|recursion"),
    ],
)
async def test_also_a_signed_one_keeps_to_what_those_of_others_may_say(place: Place, document: bytes, reason: str) -> None:
    daemon = await place.daemon()
    publish(place, document)
    with pytest.raises(Corrupt, match=reason):
        await add(daemon)
    assert list(place.fake.paths.catalogs.iterdir()) == []


async def test_a_huge_one_is_not_taken(place: Place, tmp_path: Path) -> None:
    daemon = await place.daemon()
    publish(place, text() + b" " * (4 << 20))
    with pytest.raises(Corrupt, match="longer than it may be"):
        await add(daemon)
    publish(place, text(), ALICE.sign(text()) + b"x" * (1 << 20))
    with pytest.raises(Corrupt, match="longer than it may be"):
        await add(daemon)
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(Corrupt, match="longer than it may be"):
        await add(daemon, str(tmp_path / "huge.json"), unsigned=True)
    with pytest.raises(NotFound):
        await add(daemon, "/dev/zero", unsigned=True)
    assert list(place.fake.paths.catalogs.iterdir()) == []


words = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@settings(max_examples=300)
@given(key=st.sampled_from(["version", "serial", "images", "kernels", "other"]), field=st.sampled_from([*BOX, "size_mib", "packages"]), value=words)
def test_a_catalog_of_anything_is_one_or_is_refused(key: str, field: str, value: object) -> None:
    for data in (json.loads(text()) | {key: value}, json.loads(text(1, BOX | {field: value}))):
        with suppress(BangerError):
            require_sound(codec.decode(json.dumps(data).encode(), Published, what="it"), "it", secure=True)


# --- what is kept


async def test_one_that_cannot_be_read_any_more_hides_nothing_and_can_be_removed(place: Place) -> None:
    daemon = await place.daemon()
    publish(place, text())
    await add(daemon)
    (place.fake.paths.catalogs / "broken.json").write_text("{")
    newer = json.loads((place.fake.paths.catalogs / "team.json").read_text()) | {"name": "newer", "version": 2}
    (place.fake.paths.catalogs / "newer.json").write_text(json.dumps(newer))
    daemon = await place.daemon()
    assert [(row.name, bool(row.trouble)) for row in daemon.catalogs.rows()] == [("team", False), ("broken", True), ("newer", True)]
    assert offered(daemon) == {"node": ("team", ())}
    found = _catalogs(place.host, place.fake.paths.config)
    assert (found.level, "banger catalog remove broken" in found.fix) == (Level.WARN, True)
    with pytest.raises(AlreadyExists, match="cannot be read"):
        await add(daemon, name="broken")
    await daemon.catalogs.remove("broken")
    await daemon.catalogs.remove("newer")
    assert _catalogs(place.host, place.fake.paths.config).level is Level.PASS


async def test_what_a_killed_daemon_has_left_goes_and_what_a_living_one_has_stays(place: Place) -> None:
    daemon = await place.daemon()
    folder = place.fake.paths.catalogs
    for name in (".staging~999999~1~aa", daemon.catalogs._staging().name):
        (folder / name).mkdir(parents=True)
    (folder / ".team.json.17.new").write_text("half")
    living = daemon.catalogs._staging().name.split("~")[1]
    daemon.catalogs.clean()
    assert [path.name.split("~")[1] for path in folder.iterdir()] == [living]


async def test_an_entry_that_cannot_be_made_does_not_keep_a_daemon_from_cleaning_up(place: Place) -> None:
    daemon = await place.daemon()
    publish(place, text(1, {"name": "download", "source": "debian", "kernel": "linux"}))
    await add(daemon)
    left = place.fake.paths.images / ".staging~999999~1~download~aa"
    left.mkdir()
    await daemon.images.shelf.clean()
    assert not left.exists()
