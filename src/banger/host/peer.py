"""One place that is asked for one repository: requests over aiohttp, with what the place wants to know of us.

A `Peer` is a server and a name there; it keeps the token that the server's own token service gave for it. A `Session` is the connections of one
pull. Whatever fails in passing is `Again`; everything else is an error of banger's that says what to do.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlencode, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import msgspec

from banger.host.logins import Logins
from banger.host.web import loopback
from banger.model.errors import Corrupt, DownloadFailed, NotFound
from banger.model.registry import Challenge, Login, Token, complaint, parse_challenge, retry_after

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

log = logging.getLogger(__name__)
#: Seconds to connect, and in which so many bytes must come: who sends less has stalled.
CONNECT, STALL, LEAST = 20.0, 30.0, 1 << 16
#: At most this much of an error's or token's body is read.
SMALL = 1 << 20
HOPS = 6
REDIRECTS = frozenset({301, 302, 303, 307, 308})
LOGIN_HINT = "log in with docker login or podman login, or see whether the name is right"


class Again(Exception):
    """It failed in passing. `wait`: for how many seconds the server asks; `tries`: how often it is worth trying at most."""

    def __init__(self, message: str, *, wait: float | None = None, tries: int = 100, hint: str = "try again later") -> None:
        super().__init__(message)
        self.wait, self.tries, self.hint = wait, tries, hint


class Session:
    """Connections, certificates and proxies of one pull. The environment's proxies count, but never for this host itself."""

    def __init__(self, certificates: Sequence[Path], *, plain_http: bool) -> None:
        self.certificates, self.scheme = tuple(certificates), "http" if plain_http else "https"
        self.contexts: dict[str, ssl.SSLContext] = {}
        self.client: ClientSession | None = None

    async def __aenter__(self) -> Session:
        await asyncio.to_thread(import_module, "aiohttp")  # a quarter of a second, at the first pull
        from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector

        self.client = ClientSession(
            connector=TCPConnector(limit_per_host=8),
            timeout=ClientTimeout(total=None, connect=None, sock_connect=CONNECT, sock_read=STALL),
            auto_decompress=False,
            cookie_jar=DummyCookieJar(),
            headers={"User-Agent": "banger", "Accept-Encoding": "identity"},
            read_bufsize=1 << 19,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.client is not None, "it was entered"
        await self.client.close()

    def context(self, server: str) -> ssl.SSLContext:
        """What is trusted at a server: the system's certificates and those in a folder of the server's name; and who we are, where that is there."""
        if server not in self.contexts:
            context = ssl.create_default_context()
            for folder in (place / server for place in self.certificates):
                _add_certificates(context, folder)
            self.contexts[server] = context
        return self.contexts[server]

    def proxy(self, url: str) -> tuple[str, dict[str, str]] | None:
        """The proxy for an address, and the headers by which it knows us."""
        parts = urlsplit(url)
        found = getproxies().get(parts.scheme, "")
        if not found.startswith(("http://", "https://")) or loopback(parts.hostname or "") or proxy_bypass(parts.netloc):
            return None
        place = urlsplit(found)
        login = Login(user=unquote(place.username), secret=unquote(place.password or "")).basic if place.username else ""
        known = {"Proxy-Authorization": login} if login else {}
        return place._replace(netloc=place.netloc.rpartition("@")[2]).geturl(), known


def _add_certificates(context: ssl.SSLContext, folder: Path) -> None:
    """As Docker does with `certs.d/HOST:PORT/`: `*.crt` are authorities, `NAME.cert` with `NAME.key` is us."""
    if not folder.is_dir():
        return
    try:
        for path in sorted(folder.glob("*.crt")):
            context.load_verify_locations(path)
        for path in sorted(folder.glob("*.cert")):
            context.load_cert_chain(path, path.with_suffix(".key"))
    except (OSError, ssl.SSLError) as error:
        raise DownloadFailed(
            f"the certificates in {folder} cannot be used: {error}", hint="they are PEM files: *.crt, or NAME.cert with NAME.key"
        ) from error


class Peer:
    """A server and a repository there. `name` is what the server is called where logins are kept."""

    def __init__(self, session: Session, logins: Logins, server: str, name: str, repository: str) -> None:
        self.session, self.logins, self.server, self.name, self.repository = session, logins, server, name, repository
        self.base = f"{session.scheme}://{server}/v2/{repository}/"
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
            raise self._failure(error) from error
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
            response = await self._send(url, {**headers, **({"Authorization": sent} if sent else {})})
            if response.status in REDIRECTS:
                url = self._led(url, response)
            elif response.status == 401 and at_home and not challenged:
                challenged = True
                await self._meet(response, sent)
            else:
                return response
        raise DownloadFailed(f"{self.server} leads from one address to the next without an end")

    async def _send(self, url: str, headers: Mapping[str, str], *, form: Mapping[str, str] | None = None) -> ClientResponse:
        """One request. The address goes out as it came: those that stores sign are worth nothing when they are written another way."""
        from yarl import URL

        assert self.session.client is not None, "the session is entered"
        proxy = self.session.proxy(url)
        secure = urlsplit(url).scheme == "https"
        async with asyncio.timeout(CONNECT + STALL):
            return await self.session.client.request(
                "GET" if form is None else "POST",
                URL(url, encoded=True),
                data=form,
                headers={**headers, **(proxy[1] if proxy and not secure else {})},
                allow_redirects=False,
                ssl=self.session.context(urlsplit(url).netloc) if secure else True,
                proxy=proxy[0] if proxy else None,
                proxy_headers=proxy[1] if proxy and secure else None,
            )

    def _led(self, url: str, response: ClientResponse) -> str:
        """Where a redirect leads: never from https to http, never with a login in the address."""
        response.close()
        try:
            target = urljoin(url, response.headers.get("Location", ""))
            parts = urlsplit(target)
            whole = bool(parts.hostname) and (parts.port is None or parts.port > 0)
        except ValueError:
            whole = False
        if not whole or parts.scheme not in ("http", "https") or "@" in parts.netloc:
            raise DownloadFailed(f"{self.server} leads to an address that is none")
        if parts.scheme == "http" and self.session.scheme == "https":
            raise DownloadFailed(f"{self.server} leads from a secure address to an insecure one, at {parts.netloc}")
        return target

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
            response = await self._send(realm, {}, form=form)
        else:
            headers = {"Authorization": login.basic} if login is not None else {}
            response = await self._send(f"{realm}{'&' if urlsplit(realm).query else '?'}{urlencode(asked)}", headers)
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
        if parts.scheme == "http" and self.session.scheme == "https":
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
        async for piece in self.pieces(response):
            data += piece
            if len(data) > limit:
                raise Corrupt(f"{self.server} sends more than the {limit} bytes that are allowed")
        return bytes(data)

    async def pieces(self, response: ClientResponse) -> AsyncIterator[bytes]:
        """What comes, in pieces of some size; Again when too little comes for too long, or the connection ends before its time."""
        from aiohttp import ClientError

        ended = False
        while not ended:
            parts: list[bytes] = []
            size = 0
            try:
                async with asyncio.timeout(STALL):
                    while size < LEAST and not ended:
                        data = await response.content.readany()
                        ended, size = not data, size + len(data)
                        parts.append(data)
            except (ClientError, OSError, TimeoutError) as error:
                if size:
                    yield b"".join(parts)
                raise self._failure(error) from error
            if size:
                yield b"".join(parts)

    def _failure(self, error: BaseException) -> Exception:
        """What a failure of the network means."""
        from aiohttp import ClientConnectorCertificateError, ClientConnectorError, ClientConnectorSSLError, InvalidURL

        if isinstance(error, ClientConnectorCertificateError):
            hint = f"if it is right, put its authority's certificate into the folder certs.d/{self.server} of banger's configuration, as ca.crt"
            return DownloadFailed(f"the certificate of {self.server} is not to be trusted: {error.certificate_error}", hint=hint)
        if isinstance(error, ClientConnectorSSLError):
            return DownloadFailed(f"{self.server} does not speak TLS as it should: {error.os_error}", hint="a registry without TLS: --plain-http")
        if isinstance(error, InvalidURL):
            return DownloadFailed(f"{self.server} leads to an address that is none")
        if isinstance(error, ClientConnectorError):
            return Again(
                f"{self.server} cannot be reached: {error.os_error.strerror or error.os_error}",
                tries=2,
                hint="is this host online, and the name right?",
            )
        if isinstance(error, TimeoutError):
            return Again(f"{self.server} has stalled: next to nothing came for {STALL:g} s")
        said = " ".join(str(error).split())[:200]  # which may quote what came
        return Again(f"{self.server} broke the connection off: {said or type(error).__name__}")


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
