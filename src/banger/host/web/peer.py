"""One place that is asked for one repository: requests with what the place wants to know of us.

A `Peer` is a server and a name there; it keeps the token that the server's own token service gave for it. Its connections are the pull's
(host/web/session.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

import msgspec

from banger.host.web.logins import Logins
from banger.host.web.session import HOPS, REDIRECTS, STALL, Advice, Again, Session, led
from banger.model.errors import Corrupt, DownloadFailed, NotFound
from banger.model.registry import Challenge, Login, Token, complaint, parse_challenge, retry_after

if TYPE_CHECKING:
    from aiohttp import ClientResponse

#: At most this much of an error's or token's body is read.
SMALL = 1 << 20
ADVICE = Advice(
    untrusted="if it is right, put its authority's certificate into the folder certs.d/{server} of banger's configuration, as ca.crt",
    insecure="a registry without TLS: --plain-http",
)
LOGIN_HINT = "log in with docker login or podman login, or see whether the name is right"


class Peer:
    """A server and a repository there. `name` is what the server is called where logins are kept."""

    def __init__(self, session: Session, logins: Logins, server: str, name: str, repository: str, *, plain_http: bool = False) -> None:
        self.session, self.logins, self.server, self.name, self.repository = session, logins, server, name, repository
        self.secure = not plain_http
        self.base = f"{'http' if plain_http else 'https'}://{server}/v2/{repository}/"
        #: The Authorization header that the server wants, once it has said so.
        self.header = ""
        self.lock = asyncio.Lock()

    @asynccontextmanager
    async def get(self, path: str, headers: Mapping[str, str], *, ranged: bool = False) -> AsyncIterator[ClientResponse]:
        """An answer that can be used (200; with `ranged` also 206 and 416), after logins and redirects."""
        from aiohttp import ClientError

        try:
            response = await self._ask(self.base + path, headers)
        except (ClientError, OSError, TimeoutError) as error:
            raise self.session.failure(self.server, error) from error
        try:
            await self._judge(response, (200, 206, 416) if ranged else (200,))
            yield response
        finally:
            response.close()  # what was not read to its end is not read on

    async def _ask(self, url: str, headers: Mapping[str, str]) -> ClientResponse:
        """Follow redirects and meet a challenge, each a bounded number of times."""
        challenged = False
        for _ in range(HOPS):
            at_home = origin(url) == origin(self.base)
            sent = self.header if at_home else ""
            response = await self.session.send(url, {**headers, **({"Authorization": sent} if sent else {})})
            if response.status in REDIRECTS:
                url = led(self.server, url, response, secure=self.secure)
            elif response.status == 401 and at_home and not challenged:
                challenged = True
                await self._meet(response, sent)
            else:
                return response
        raise DownloadFailed(f"{self.server} leads from one address to the next without an end")

    # -- who we are -------------------------------------------------------------------------------------------------------------------------------

    async def _meet(self, response: ClientResponse, sent: str) -> None:
        """Get what the challenge wants to see; once for all who were challenged at the same time."""
        response.close()
        challenge = next((found for value in response.headers.getall("WWW-Authenticate", []) if (found := parse_challenge(value))), None)
        if challenge is None:
            raise DownloadFailed(f"{self.server} wants a login of a kind that is not supported")
        async with self.lock:
            if self.header != sent:
                return
            login = await self.logins.find(self.name)
            self.header = self._basic(login) if challenge.scheme == "basic" else await self._token(challenge, login)

    def _basic(self, login: Login | None) -> str:
        if login is None or not login.user:
            raise DownloadFailed(f"{self.server} wants a login", hint=f"run: docker login {self.name}; or podman login {self.name}")
        return login.basic

    async def _token(self, challenge: Challenge, login: Login | None) -> str:
        """From the token service that the challenge names, by Docker's token protocol; with a refresh token by OAuth 2."""
        realm = challenge.parameters.get("realm", "")
        self._check_realm(realm)
        asked = {"service": challenge.parameters.get("service", ""), "scope": challenge.parameters.get("scope") or f"repository:{self.repository}:pull"}
        if login is not None and login.token:
            form = asked | {"grant_type": "refresh_token", "refresh_token": login.token, "client_id": "banger"}
            response = await self.session.send(realm, {}, form=form)
        else:
            headers = {"Authorization": login.basic} if login is not None else {}
            response = await self.session.send(f"{realm}{'&' if urlsplit(realm).query else '?'}{urlencode(asked)}", headers)
        try:
            await self._judge(response, (200,), who=f"the token service at {urlsplit(realm).netloc}")
            return f"Bearer {_token_in(await self.body(response, SMALL), self.server)}"
        finally:
            response.close()

    def _check_realm(self, realm: str) -> None:
        try:
            parts = urlsplit(realm)
            sound = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
        except ValueError:
            sound = False
        if not sound:
            raise DownloadFailed(f"{self.server} names a token service at an address that is none")
        if parts.scheme == "http" and self.secure:
            raise DownloadFailed(f"{self.server} names a token service at an insecure address, {parts.netloc}")

    # -- what comes -------------------------------------------------------------------------------------------------------------------------------

    async def _judge(self, response: ClientResponse, fine: Sequence[int], *, who: str = "") -> None:
        """Raise what a status other than a fine one means."""
        who, status = who or self.server, response.status
        if status in fine:
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise Corrupt(f"{who} sends what was asked for in a packing that was not asked for")
            return
        said = complaint(await self._little(response))
        text = f"{status}{f' {response.reason}' if response.reason else ''}{f': {said}' if said else ''}"
        if status in (408, 429) or status >= 500:
            wait = retry_after(response.headers.get("Retry-After", ""), datetime.now(UTC))
            raise Again(
                f"{who} cannot answer now: {text}", wait=wait, hint="try again later" if status != 429 else f"wait; or log in: docker login {self.name}"
            )
        if status == 404:
            raise NotFound(f"{self.name} has no {self.repository} of this tag or digest: {text}", hint="see whether name and tag are right")
        if status in (401, 403):
            raise DownloadFailed(f"{who} refuses {self.repository}: {text}", hint=LOGIN_HINT)
        raise DownloadFailed(f"{who} answers {text}")

    async def _little(self, response: ClientResponse) -> bytes:
        try:
            async with asyncio.timeout(STALL):
                return await response.content.read(SMALL)
        except (OSError, TimeoutError, ValueError):
            return b""

    async def body(self, response: ClientResponse, limit: int) -> bytes:
        """All of a short answer; Corrupt when it is longer than allowed, Again when it is cut."""
        data = bytearray()
        if (response.content_length or 0) > limit:
            raise Corrupt(f"{self.server} sends {response.content_length} bytes where {limit} are allowed")
        async for piece in self.session.pieces(self.server, response):
            data += piece
            if len(data) > limit:
                raise Corrupt(f"{self.server} sends more than the {limit} bytes that are allowed")
        return bytes(data)


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: whom an address asks."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or (443 if parts.scheme == "https" else 80)


def _token_in(data: bytes, server: str) -> str:
    try:
        found = msgspec.json.decode(data, type=Token)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Corrupt(f"the token service of {server} answers what cannot be read") from None
    token = found.token or found.access_token or ""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise Corrupt(f"the token service of {server} gives no token")
    return token
