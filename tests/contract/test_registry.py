"""The client of registries against Debian's docker-registry, alone and behind a front that cuts, lies, stalls and refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger.host.web import session
from banger.host.web.registry import RealRepository
from banger.model import oci
from banger.model.errors import BangerError, Corrupt, DownloadFailed, NotFound
from banger.model.reference import HUB_SERVER, parse_reference
from tests.pulling import BLOB, LAYER, PACKED, SECRET, auth, client, fetch, pull, trust
from tests.registry import Daemon, Front, registry, sha256

pytestmark = pytest.mark.usefixtures("nothing_of_this_machines")


async def test_an_image_comes_by_tag_and_by_digest(upstream: Daemon, tmp_path: Path) -> None:
    assert await pull(client(tmp_path), upstream.host, tmp_path) == PACKED
    async with client(tmp_path).open(parse_reference(f"{upstream.host}/team/box"), plain_http=True) as repository:
        found = await repository.document("all")
        assert found.media_type == oci.OCI_INDEX
        assert (await repository.document(found.digest)).data == found.data


async def test_a_tag_that_is_not_there_is_not_found_and_asked_for_once(front: Front, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"has no team/box of this tag or digest: 404 Not Found: manifest unknown"):
        await pull(client(tmp_path), front.host, tmp_path, name="team/box:none")
    assert len(front.asked) == 1


# -- who is trusted -----------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[Daemon]:
    with registry(tmp_path_factory.mktemp("secure") / "registry", users={"ada": SECRET}, certificate=certificate) as made:
        made.image("team/box", "1", [LAYER])
        yield made


async def test_a_private_registry_with_an_authority_of_its_own(secure: Daemon, certificate: Path, tmp_path: Path) -> None:
    made = client(tmp_path, config={"auths": {secure.host: auth("ada", SECRET)}})
    with pytest.raises(DownloadFailed, match=r"is not to be trusted: [-a-z ]+$") as refused:
        await pull(made, secure.host, tmp_path, plain=False)
    assert f"certs.d/{secure.host}" in refused.value.hint
    trust(tmp_path, secure.host, certificate)
    assert await pull(made, secure.host, tmp_path, plain=False) == PACKED


async def test_certificates_that_are_none_are_told(secure: Daemon, tmp_path: Path) -> None:
    (tmp_path / "certs.d" / secure.host).mkdir(parents=True)
    (tmp_path / "certs.d" / secure.host / "ca.crt").write_text("nothing")
    with pytest.raises(DownloadFailed, match=r"certs\.d/.* cannot be used"):
        await pull(client(tmp_path), secure.host, tmp_path, plain=False)


async def test_plain_http_only_when_asked_for_on_loopback_too(front: Front, tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match="TLS") as refused:
        await fetch(client(tmp_path), front.host, tmp_path, plain=False)
    assert "--plain-http" in refused.value.hint
    assert front.asked == []


async def test_a_redirect_gets_no_login_and_is_followed(front: Front, upstream: Daemon, tmp_path: Path) -> None:
    store = Front(upstream.host)
    try:
        front.token = "t"
        front.faults = {"/blobs/": [f"to {store.url}/v2/team/box/blobs/{BLOB.digest}?signature=x"]}
        assert await fetch(client(tmp_path), front.host, tmp_path) == PACKED
        assert [one.authorization for one in store.asked] == [""]
        assert any(one.authorization == "Bearer t" for one in front.asked)
    finally:
        store.close()


@pytest.mark.parametrize("where", ["http://127.0.0.1:1/x", "ftp://127.0.0.1/", "https://a:b@127.0.0.1/", "https://[", "file:///etc/passwd"])
async def test_a_secure_registry_never_leads_to_an_insecure_place(upstream: Daemon, certificate: Path, tmp_path: Path, where: str) -> None:
    made = Front(upstream.host, certificate=certificate)
    try:
        trust(tmp_path, made.host, certificate)
        made.faults = {"/blobs/": [f"to {where}"]}
        with pytest.raises(DownloadFailed, match="leads"):
            await fetch(client(tmp_path), made.host, tmp_path, plain=False)
        assert len(made.asked) == 1
        assert await fetch(client(tmp_path), made.host, tmp_path, plain=False) == PACKED
    finally:
        made.close()


async def test_redirects_without_an_end_end(front: Front, tmp_path: Path) -> None:
    front.faults = {"/blobs/": [f"to {front.url}/v2/team/box/blobs/{BLOB.digest}"] * 50}
    with pytest.raises(DownloadFailed, match="without an end"):
        await fetch(client(tmp_path), front.host, tmp_path)


# -- what goes wrong on the way -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("faults", "starts"),
    [
        (["cut 300000"], [0, 300_000]),
        (["cut 200000", "cut 200000", "status 503"], [0, 200_000, 400_000, 400_000]),
        (["shorter"], [0, len(PACKED) - 5]),
        (["drop", "status 503", "status 500", "status 429 0"], [0] * 5),
        (["cut 300000", "no-range"], [0, 300_000]),
        (["cut 300000", "other-part"], [0, 300_000, 0]),
        (["cut 300000", "no-part"], [0, 300_000, 0]),
        (["cut 300000", "garble"], [0, 300_000, 0]),
    ],
)
async def test_what_breaks_off_goes_on_where_it_was(front: Front, tmp_path: Path, faults: list[str], starts: list[int]) -> None:
    """What was still in a buffer when the connection broke may be lost: less than a piece each time."""
    front.faults, front.into = {"/blobs/": list(faults)}, tmp_path / "part"
    assert await fetch(client(tmp_path), front.host, tmp_path) == PACKED
    asked = [int(one.range[6:-1]) if one.range else 0 for one in front.blobs()]
    assert len(asked) == len(starts)
    assert all(most - 2 * session.LEAST < start <= most for start, most in zip(asked, starts, strict=True))


async def test_what_an_earlier_pull_left_is_used(front: Front, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(PACKED[:500_000])
    assert await fetch(client(tmp_path), front.host, tmp_path) == PACKED
    assert [one.range for one in front.blobs()] == ["bytes=500000-"]
    assert await fetch(client(tmp_path), front.host, tmp_path) == PACKED
    assert len(front.blobs()) == 1


@pytest.mark.parametrize("left", [b"x" * 500_000, b"x" * len(PACKED), PACKED + b"x", b"x" * (len(PACKED) + 100_000)])
async def test_what_an_earlier_pull_left_is_not_trusted(front: Front, tmp_path: Path, left: bytes) -> None:
    (tmp_path / "part").write_bytes(left)
    assert await fetch(client(tmp_path), front.host, tmp_path) == PACKED


@pytest.mark.parametrize(
    ("fault", "words"),
    [("garble", "is not what it must be"), ("longer", "sends more"), ("announce 5", "announces 5 bytes"), ("announce 99999999", "announces")],
)
async def test_a_registry_that_lies_is_told_and_nothing_of_it_is_kept(front: Front, tmp_path: Path, fault: str, words: str) -> None:
    front.faults = {"/blobs/": [fault] * 20}
    with pytest.raises(Corrupt, match=words):
        await fetch(client(tmp_path), front.host, tmp_path)
    assert (tmp_path / "part").read_bytes() == b""
    assert len(front.blobs()) == 1


async def test_a_manifest_that_is_not_what_was_asked_for_is_refused(front: Front, tmp_path: Path) -> None:
    front.faults = {"/manifests/": ["garble"] * 2}
    for name in ("team/box:1", f"team/box@{sha256(b'')}"):
        with pytest.raises((Corrupt, NotFound)):
            await pull(client(tmp_path), front.host, tmp_path, name=name)


@pytest.mark.parametrize(
    ("fault", "tries"), [("status 400", 1), ("status 403", 1), ("status 451", 1), ("status 503", 6), ("status 429", 6), ("drop", 6)]
)
async def test_what_is_refused_is_not_tried_again_and_what_fails_is_not_for_ever(front: Front, tmp_path: Path, fault: str, tries: int) -> None:
    front.faults = {"/blobs/": [fault] * 20}
    with pytest.raises(DownloadFailed):
        await fetch(client(tmp_path), front.host, tmp_path)
    assert tries <= len(front.blobs()) <= (2 * tries if fault == "drop" else tries)  # aiohttp asks once more by itself on a connection that has aged


async def test_who_asks_for_an_hour_of_patience_does_not_get_it(front: Front, tmp_path: Path) -> None:
    front.faults = {"/blobs/": ["status 429 3600"]}
    with pytest.raises(DownloadFailed, match=r"429 .*as told \(it asks for 3600 s of patience\)"):
        await fetch(client(tmp_path), front.host, tmp_path)
    assert len(front.blobs()) == 1


async def test_who_stalls_is_asked_anew(front: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "STALL", 0.5)
    front.faults = {"/blobs/": ["stall 300000"]}
    assert await fetch(client(tmp_path), front.host, tmp_path) == PACKED
    assert [bool(one.range) for one in front.blobs()] == [False, True]


async def test_who_cannot_be_reached_is_told_soon(tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match=r"127\.0\.0\.1:1 cannot be reached: connection refused"):
        await fetch(client(tmp_path), "127.0.0.1:1", tmp_path)


async def test_a_mirror_is_asked_first_and_passed_over_when_it_fails(front: Front, upstream: Daemon, tmp_path: Path) -> None:
    made = client(tmp_path, mirrors=f"registry.example={front.host}")
    assert await fetch(made, "registry.example", tmp_path) == PACKED
    (tmp_path / "part").unlink()
    for faults in ({"/blobs/": ["garble"]}, {"/v2/": ["status 404"]}, {"/v2/": ["status 403"]}, {"/blobs/": ["cut 5000", *["status 503"] * 9]}):
        front.faults = {part: list(words) for part, words in faults.items()}
        made = client(tmp_path, mirrors=f"{upstream.host}={front.host}")
        assert await pull(made, upstream.host, tmp_path) == PACKED
        (tmp_path / "part").unlink()


async def test_a_mirror_may_have_a_folder_for_each_registry(upstream: Daemon, tmp_path: Path) -> None:
    made = client(tmp_path, mirrors=f"docker.io={upstream.host}/team")
    async with made.open(parse_reference("docker.io/x/box:1"), plain_http=True) as repository:
        assert isinstance(repository, RealRepository)
        assert [one.base for one in repository.peers] == [f"http://{upstream.host}/v2/team/x/box/", f"http://{HUB_SERVER}/v2/x/box/"]


async def test_the_environments_proxy_is_used_but_not_for_this_host(front: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://me:word@{front.host}")
    assert await fetch(client(tmp_path), "registry.example", tmp_path) == PACKED
    assert front.asked[0].path == f"http://registry.example/v2/team/box/blobs/{BLOB.digest}"
    assert front.asked[0].headers["Proxy-Authorization"] == "Basic bWU6d29yZA=="
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    (tmp_path / "part").unlink()
    assert await fetch(client(tmp_path), front.host, tmp_path) == PACKED
    monkeypatch.setenv("no_proxy", "registry.example")
    with pytest.raises(DownloadFailed, match=r"registry\.example cannot be reached: (there is no such name|no name server answers|its name)"):
        await pull(client(tmp_path), "registry.example", tmp_path)


async def test_taken_back_nothing_writes_any_more_and_what_came_stays(front: Front, tmp_path: Path) -> None:
    front.faults = {"/blobs/": ["stall 400000"]}
    task = asyncio.create_task(fetch(client(tmp_path), front.host, tmp_path))
    await asyncio.to_thread(front.held.wait, 30)
    async with asyncio.timeout(30):
        while (tmp_path / "part").stat().st_size < 200_000:  # noqa: ASYNC110 (a file has no event)
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    size = (tmp_path / "part").stat().st_size
    front.go.set()
    assert await fetch(client(tmp_path), front.host, tmp_path) == PACKED
    assert front.blobs()[-1].range == f"bytes={size}-"


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"token": 5}', b'{"token": "a b"}', b'{"token": "a\\nb"}', b"\xff", b'{"token": "' + b"x" * (2 << 20)]
)
async def test_a_token_service_that_answers_nonsense_is_told(front: Front, tmp_path: Path, body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests import registry as rig

    front.token = "t"
    monkeypatch.setattr(rig._Handler, "_token", lambda handler: handler._say(200, body))
    with pytest.raises(BangerError):
        await fetch(client(tmp_path), front.host, tmp_path)
