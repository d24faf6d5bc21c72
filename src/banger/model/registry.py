"""The words between a registry and whoever asks it: challenges, waits, ranges, tokens, errors; and what Docker's configuration knows of logins.

Pure. Headers and bodies come from strangers: what makes no sense counts as not said, so that the caller's own rule applies.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import datetime
from typing import TypeVar

import msgspec

from banger.model.errors import BadRequest
from banger.model.reference import HOST, HUB, HUB_ALIASES, REPOSITORY

T = TypeVar("T")
#: What Docker's configuration calls the login of Docker Hub.
HUB_LOGIN = "https://index.docker.io/v1/"
#: The user name by which credential helpers say that the secret is a refresh token.
TOKEN_USER = "<token>"
_PARAMETER = re.compile(r'\s*([a-zA-Z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))\s*(?:,|$)')
_SCHEME = re.compile(r"\s*([a-zA-Z0-9_-]+)(?:\s*,|\s+|$)")
_HELPER = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}\Z")


class Challenge(msgspec.Struct, frozen=True):
    """What a registry wants to see: scheme (lower case) and parameters of a WWW-Authenticate header (RFC 9110, section 11)."""

    scheme: str
    parameters: dict[str, str]


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """Who we are to a registry: user and secret, or a refresh token. Never shown: it has no text of its own."""

    user: str = ""
    secret: str = ""
    token: str = ""

    def __repr__(self) -> str:
        """Without what is secret, for logs and tracebacks."""
        return "Login(…)"

    @property
    def basic(self) -> str:
        """The value of an Authorization header (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.secret}".encode()).decode()


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """What a token server answers; the first of the two names is Docker's, the second OAuth 2's."""

    token: str | None = None
    access_token: str | None = None


class Said(msgspec.Struct, frozen=True):
    """One error of a registry's."""

    code: str = ""
    message: str | None = None


class Complaint(msgspec.Struct, frozen=True):
    """The body of a registry's error (OCI distribution specification, "Error Codes")."""

    errors: tuple[Said, ...] | None = None


class _Auth(msgspec.Struct, frozen=True):
    auth: str | None = None
    username: str | None = None
    password: str | None = None
    identitytoken: str | None = None


class DockerConfig(msgspec.Struct, frozen=True, rename="camel"):
    """What counts of `~/.docker/config.json`."""

    auths: dict[str, _Auth] | None = None
    creds_store: str | None = None
    cred_helpers: dict[str, str] | None = None

    def __repr__(self) -> str:
        """Without what is secret."""
        return "DockerConfig(…)"


class Helped(msgspec.Struct, frozen=True, rename="pascal"):
    """What a credential helper answers to `get`."""

    username: str = ""
    secret: str = ""

    def __repr__(self) -> str:
        """Without what is secret."""
        return "Helped(…)"


class Mirror(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where what is at `registry` can be had, too: at a host (with port), below a folder there, if it has one for each registry that it mirrors."""

    registry: str
    server: str
    folder: str = ""


def parse_challenge(header: str) -> Challenge | None:
    """The first challenge of a header that can be met: Bearer or Basic. None when there is none."""
    found: list[Challenge] = []
    at = 0
    while at < len(header):
        parameter = _PARAMETER.match(header, at) if found else None
        scheme = _SCHEME.match(header, at)
        if parameter is not None:
            quoted = parameter[2]
            found[-1].parameters[parameter[1].lower()] = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else parameter[3]
            at = parameter.end()
        elif scheme is not None:
            found.append(Challenge(scheme[1].lower(), {}))
            at = scheme.end()
        else:
            break
    return next((one for one in found if one.scheme in ("bearer", "basic")), None)


def retry_after(value: str, now: datetime) -> float | None:
    """Seconds to wait, from a Retry-After header: seconds or a date (RFC 9110, section 10.2.3). None when it says nothing that makes sense."""
    if value.isascii() and value.isdecimal() and len(value) < 10:
        return float(value)
    from email.utils import parsedate_to_datetime  # settings are read where this is not needed

    try:
        moment = parsedate_to_datetime(value)
        return max(0.0, (moment - now).total_seconds()) if moment.tzinfo is not None else None
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def parse_content_range(value: str) -> tuple[int, int | None] | None:
    """First byte and whole length (None for `*`), from `bytes 5-9/10`; None when it makes no sense."""
    found = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", value.strip(), re.ASCII)
    if found is None or int(found[1]) > int(found[2]):
        return None
    return int(found[1]), None if found[3] == "*" else int(found[3])


def complaint(body: bytes) -> str:
    """What a registry's error says, in one line of at most 300 characters; empty when it says nothing that can be read."""
    try:
        errors = msgspec.json.decode(body, type=Complaint).errors or ()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    text = "; ".join((one.message or one.code) for one in errors[:3] if one.message or one.code)
    return "".join(mark if mark.isprintable() else " " for mark in text)[:300]


def login_name(registry: str) -> str:
    """What Docker's configuration and credential helpers call a registry."""
    return HUB_LOGIN if registry == HUB else registry


def helper_for(config: DockerConfig, registry: str) -> str:
    """The credential helper that is in charge of a registry: `pass` of `docker-credential-pass`; empty for none."""
    helper = _entry(config.cred_helpers or {}, registry) or config.creds_store or ""
    return helper if _HELPER.match(helper) else ""


def written_login(config: DockerConfig, registry: str) -> Login | None:
    """The login that is written in the configuration itself, or None."""
    found = _entry(config.auths or {}, registry)
    if found is None:
        return None
    if found.identitytoken:
        return Login(token=found.identitytoken)
    try:
        user, colon, secret = base64.b64decode(found.auth or "", validate=False).decode().rstrip("\0").partition(":")
    except (binascii.Error, ValueError):
        return None
    if colon:
        return Login(user=user, secret=secret)
    return Login(user=found.username, secret=found.password) if found.username and found.password else None


def _entry(entries: Mapping[str, T], registry: str) -> T | None:
    """By the registry's host, however it is written: `host`, `https://host`, `https://host/v1/`."""
    aliases = HUB_ALIASES if registry == HUB else {registry}
    for name in (login_name(registry), registry):
        if name in entries:
            return entries[name]
    return next((value for name, value in entries.items() if name.partition("://")[2].partition("/")[0] in aliases or name in aliases), None)


def parse_mirrors(text: str) -> tuple[Mirror, ...]:
    """`docker.io=mirror.lan:5000, registry.example=mirror.lan:5000/example`; BadRequest for what is none."""
    found = []
    for word in text.replace(",", " ").split():
        registry, _, place = word.partition("=")
        server, _, folder = place.rstrip("/").partition("/")
        if not HOST.fullmatch(registry) or not HOST.fullmatch(server) or (folder and not REPOSITORY.fullmatch(folder)):
            raise BadRequest(
                f"{word[:200]!r} is no mirror", hint="write REGISTRY=HOST or REGISTRY=HOST:PORT/FOLDER, with no scheme; several with a comma"
            )
        found.append(Mirror(registry=HUB if registry in HUB_ALIASES else registry, server=server, folder=folder))
    return tuple(found)
