"""What registries and Docker's configuration say is read as meant, and as nothing when it makes no sense."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.model.config import load_settings
from banger.model.errors import BadRequest
from banger.model.registry import (
    HUB_LOGIN,
    Challenge,
    DockerConfig,
    Login,
    Mirror,
    complaint,
    helper_for,
    parse_challenge,
    parse_content_range,
    parse_mirrors,
    retry_after,
    written_login,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (
            'Bearer realm="https://a/t",service="s",scope="repository:a/b:pull,push"',
            ("bearer", {"realm": "https://a/t", "service": "s", "scope": "repository:a/b:pull,push"}),
        ),
        ('Basic realm="x \\"y\\""', ("basic", {"realm": 'x "y"'})),
        ("Basic", ("basic", {})),
        ('Negotiate, Bearer realm="r", error=invalid_token', ("bearer", {"realm": "r", "error": "invalid_token"})),
        ('NTLM abc== , Basic realm="r"', ("basic", {"realm": "r"})),
        ("", None),
        ("Negotiate", None),
        (",,,", None),
    ],
)
def test_challenges(header: str, found: tuple[str, dict[str, str]] | None) -> None:
    assert parse_challenge(header) == (Challenge(*found) if found else None)


@given(st.text(max_size=200))
def test_any_header_is_a_challenge_or_none(header: str) -> None:
    found = parse_challenge(header)
    assert found is None or found.scheme in ("basic", "bearer")
    retry_after(header, NOW)
    parse_content_range(header)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("17", 17.0),
        ("Thu, 01 Jan 2026 00:01:00 GMT", 60.0),
        ("Wed, 31 Dec 2025 00:00:00 GMT", 0.0),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("9" * 30, None),
        ("٣", None),
    ],
)
def test_waits(value: str, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("bytes 5-9/10", (5, 10)),
        ("bytes 5-9/*", (5, None)),
        ("bytes 9-5/10", None),
        ("bytes */10", None),
        ("5-9/10", None),
        ("", None),
        ("bytes -1-9/10", None),
    ],
)
def test_ranges(value: str, found: tuple[int, int | None] | None) -> None:
    assert parse_content_range(value) == found


def test_what_a_registry_complains_of_is_one_short_line() -> None:
    assert complaint(b'{"errors":[{"code":"DENIED","message":"no\\n\\u001b[31mno"},{"code":"X"}]}') == "no  [31mno; X"
    assert len(complaint(b'{"errors":[{"message":"' + b"x" * 5000 + b'"}]}')) == 300
    for body in (b"", b"<html>", b"[]", b'{"errors":5}', b"[" * 100_000, b"\xff"):
        assert complaint(body) == ""


def config(text: str) -> DockerConfig:
    return msgspec.json.decode(text, type=DockerConfig)


def auth(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize("key", ["host:5000", "https://host:5000", "http://host:5000/v2/", "https://host:5000/"])
def test_a_login_is_found_however_the_registry_is_written(key: str) -> None:
    found = written_login(config(f'{{"auths": {{"other": {{}}, "{key}": {{"auth": "{auth("ada:a:b")}"}}}}}}'), "host:5000")
    assert found == Login(user="ada", secret="a:b")


def test_the_hubs_login_has_a_name_of_its_own() -> None:
    for key in (HUB_LOGIN, "docker.io", "index.docker.io", "https://registry-1.docker.io/v2/"):
        found = config(f'{{"auths": {{"{key}": {{"auth": "{auth("a:b")}"}}}}}}')
        assert written_login(found, "docker.io") == Login(user="a", secret="b")
        assert written_login(found, "docker.io.example") is None


def test_logins_of_other_forms() -> None:
    assert written_login(config('{"auths": {"h": {"identitytoken": "t"}}}'), "h") == Login(token="t")
    assert written_login(config('{"auths": {"h": {"username": "u", "password": "p"}}}'), "h") == Login(user="u", secret="p")
    for text in ("{}", '{"auths": null}', '{"auths": {"h": {}}}', '{"auths": {"h": {"auth": "!"}}}', '{"auths": {"h": {"auth": "eHg="}}}'):
        assert written_login(config(text), "h") is None


def test_helpers_by_registry_first_and_never_by_path() -> None:
    found = config('{"credsStore": "all", "credHelpers": {"h": "one", "e": "../evil", "f": "a b"}}')
    assert [helper_for(found, host) for host in ("h", "x", "e", "f")] == ["one", "all", "", ""]


def test_secrets_have_no_text() -> None:
    held = config('{"auths": {"h": {"password": "geheim"}}}')
    assert "geheim" not in repr(Login(user="a", secret="geheim", token="geheim")) + repr(held)


def test_mirrors() -> None:
    assert parse_mirrors("") == ()
    assert parse_mirrors("docker.io=m.lan:5000, index.docker.io=n.lan  h:1=m.lan/a/b/") == (
        Mirror(registry="docker.io", server="m.lan:5000"),
        Mirror(registry="docker.io", server="n.lan"),
        Mirror(registry="h:1", server="m.lan", folder="a/b"),
    )
    for text in ("m.lan", "a=", "=b", "a=http://b", "a=b/C", "a=b c", "a=b/../c"):
        with pytest.raises(BadRequest, match="is no mirror"):
            parse_mirrors(text)
    with pytest.raises(BadRequest, match="BANGER_REGISTRY_MIRRORS: registry_mirrors: 'x' is no mirror"):
        load_settings("", {"BANGER_REGISTRY_MIRRORS": "x"})
