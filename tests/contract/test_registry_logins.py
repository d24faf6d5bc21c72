"""Who the user is to a registry: files of Docker's, credential helpers, tokens; and that no secret shows anywhere."""

from __future__ import annotations

import asyncio
import json
import logging
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger.model.errors import DownloadFailed
from banger.model.reference import parse_reference
from tests.pulling import BLOB, LAYER, PACKED, SECRET, auth, client, fetch, pull
from tests.registry import Daemon, Front, registry

pytestmark = pytest.mark.usefixtures("nothing_of_this_machines")


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with registry(tmp_path_factory.mktemp("closed") / "registry", users={"ada": SECRET}) as made:
        made.image("team/box", "1", [LAYER])
        yield made


async def test_without_a_login_it_is_said_how_to_get_one(closed: Daemon, tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match="wants a login") as refused:
        await pull(client(tmp_path), closed.host, tmp_path)
    assert refused.value.hint == f"run: docker login {closed.host}; or podman login {closed.host}"


async def test_the_login_of_dockers_configuration_is_used(closed: Daemon, tmp_path: Path) -> None:
    config: dict[str, object] = {"auths": {f"https://{closed.host}/v2/": auth("ada", SECRET), "other.example": auth("x", "y")}}
    assert await pull(client(tmp_path, config=config), closed.host, tmp_path) == PACKED


async def test_a_wrong_login_is_refused_and_not_tried_again(closed: Daemon, tmp_path: Path) -> None:
    made = Front(closed.host)
    try:
        made.faults = {"/v2/": ["pass"] * 10}
        with pytest.raises(DownloadFailed, match=r"wants a login|refuses team/box: 401"):
            await pull(client(tmp_path, config={"auths": {closed.host: auth("ada", "wrong")}}), closed.host, tmp_path)
    finally:
        made.close()


async def test_a_credential_helper_is_asked_and_its_secret_is_nowhere(closed: Daemon, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    helper = tmp_path / "docker-credential-test"
    answer = json.dumps({"ServerURL": closed.host, "Username": "ada", "Secret": SECRET})
    helper.write_text(f"#!/bin/sh\n[ \"$1\" = get ] && [ \"$(cat)\" = '{closed.host}' ] || exit 1\ncat <<'END'\n{answer}\nEND\n")
    helper.chmod(helper.stat().st_mode | stat.S_IXUSR)
    for config in ({"credsStore": "test"}, {"credHelpers": {closed.host: "test"}, "credsStore": "none"}):
        (tmp_path / "part").unlink(missing_ok=True)
        assert await pull(client(tmp_path, config=dict(config), path=str(tmp_path)), closed.host, tmp_path) == PACKED
    said = caplog.text
    assert "docker-credential-test get" in said
    assert not any(word in said for word in (SECRET, auth("ada", SECRET)["auth"], "wörd"))


async def test_a_helper_that_fails_or_is_missing_is_no_login(closed: Daemon, tmp_path: Path) -> None:
    for config in ({"credsStore": "missing"}, {"credsStore": "../../evil"}):
        with pytest.raises(DownloadFailed, match="wants a login"):
            await pull(client(tmp_path, config=dict(config)), closed.host, tmp_path)


async def test_a_configuration_that_cannot_be_read_is_no_login_and_quoted_nowhere(
    closed: Daemon, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "config.json").write_text('{"auths": {"x": "geheim"')
    with pytest.raises(DownloadFailed, match="wants a login"):
        await pull(client(tmp_path), closed.host, tmp_path)
    assert "geheim" not in caplog.text


async def test_a_token_is_got_once_and_anew_when_it_has_expired(front: Front, tmp_path: Path) -> None:
    front.token = "first"
    made = client(tmp_path)
    async with made.open(parse_reference(f"{front.host}/team/box:1"), plain_http=True) as repository:
        await repository.document("1")
        front.token = "second"
        await asyncio.gather(*(repository.document("1") for _ in range(4)))
        await repository.blob(BLOB, tmp_path / "part", told=lambda _: None)
    tokens = [one.path for one in front.asked if one.path.startswith("/token")]
    assert tokens == ["/token?service=here&scope=repository%3Ateam%2Fbox%3Apull"] * 2


async def test_a_token_service_gets_the_login_and_a_refresh_token_its_own_way(front: Front, tmp_path: Path) -> None:
    front.token, front.login = "t", f"ada:{SECRET}"
    with pytest.raises(DownloadFailed, match=r"the token service at 127\.0\.0\.1:[0-9]+ refuses team/box: 401"):
        await fetch(client(tmp_path), front.host, tmp_path)
    assert await fetch(client(tmp_path, config={"auths": {front.host: auth("ada", SECRET)}}), front.host, tmp_path) == PACKED
    (tmp_path / "part").unlink()
    await fetch(client(tmp_path, config={"auths": {front.host: {"identitytoken": "refresh"}}}), front.host, tmp_path)
    assert any("grant_type=refresh_token&refresh_token=refresh" in one.path for one in front.asked)


@pytest.mark.parametrize("realm", ["", "x", "ftp://127.0.0.1/", "http://a:b@127.0.0.1/", "http://[::1"])
async def test_a_token_service_that_is_none_is_refused(front: Front, tmp_path: Path, realm: str) -> None:
    front.token, front.realm = "t", realm or '"'
    with pytest.raises(DownloadFailed):
        await fetch(client(tmp_path), front.host, tmp_path)
