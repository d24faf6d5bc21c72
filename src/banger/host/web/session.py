"""Connections over aiohttp, for all that is downloaded: who is trusted, which proxy is asked, when somebody has stalled, and what a failure means.

Whatever fails in passing is `Again`; everything else is an error of banger's that says what to do. aiohttp takes a quarter of a second to import, so
it is imported when a session is entered.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import msgspec

from banger.host.web.causes import cause
from banger.model.errors import DownloadFailed
from banger.model.registry import Login

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

#: Seconds to connect, and in which so many bytes must come: who sends less has stalled.
CONNECT, STALL, LEAST = 20.0, 30.0, 1 << 16
HOPS = 6
REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """Hints; `{server}` in that for a certificate that is not trusted stands for host and port."""

    untrusted: str
    insecure: str


class Again(Exception):
    """It failed in passing. `wait`: for how many seconds the server asks; `tries`: how often it is worth trying at most."""

    def __init__(self, message: str, *, wait: float | None = None, tries: int = 100, hint: str = "try again later") -> None:
        super().__init__(message)
        self.wait, self.tries, self.hint = wait, tries, hint


class Session:
    """Connections, certificates and proxies of one download, or one pull. The environment's proxies count, but never for this host itself.

    `advice` is what helps whom a server's certificate or its lack of TLS stops.
    """

    def __init__(self, certificates: Sequence[Path] = (), *, advice: Advice) -> None:
        self.certificates, self.advice = tuple(certificates), advice
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

    async def send(self, url: str, headers: Mapping[str, str], *, form: Mapping[str, str] | None = None) -> ClientResponse:
        """One request. The address goes out as it came: those that stores sign are worth nothing when they are written another way."""
        from yarl import URL

        assert self.client is not None, "the session is entered"
        proxy = self.proxy(url)
        secure = urlsplit(url).scheme == "https"
        async with asyncio.timeout(CONNECT + STALL):
            return await self.client.request(
                "GET" if form is None else "POST",
                URL(url, encoded=True),
                data=form,
                headers={**headers, **(proxy[1] if proxy and not secure else {})},
                allow_redirects=False,
                ssl=self.context(urlsplit(url).netloc) if secure else True,
                proxy=proxy[0] if proxy else None,
                proxy_headers=proxy[1] if proxy and secure else None,
            )

    async def pieces(self, server: str, response: ClientResponse) -> AsyncIterator[bytes]:
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
                raise self.failure(server, error) from error
            if size:
                yield b"".join(parts)

    def failure(self, server: str, error: BaseException) -> Exception:
        """What a failure of the network means."""
        import aiohttp

        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            said = f"the certificate of {server} is not to be trusted: {cause(error.certificate_error)}"
            return DownloadFailed(said, hint=self.advice.untrusted.format(server=server))
        if isinstance(error, aiohttp.ClientConnectorSSLError):
            return DownloadFailed(f"{server} does not speak TLS as it should: {cause(error.os_error)}", hint=self.advice.insecure)
        if isinstance(error, aiohttp.InvalidURL):
            return DownloadFailed(f"{server} leads to an address that is none")
        if isinstance(error, aiohttp.ClientHttpProxyError):
            said = f"the proxy on the way to {server} does not let it pass: {error.status} {error.message}".strip()
            return Again(said, tries=2, hint="see the environment's https_proxy, http_proxy and no_proxy")
        if isinstance(error, aiohttp.ClientProxyConnectionError):
            said = f"the proxy on the way to {server} cannot be reached: {cause(error.os_error) or 'it does not answer'}"
            return Again(said, tries=2, hint="see the environment's https_proxy, http_proxy and no_proxy")
        if isinstance(error, aiohttp.ClientConnectorError):
            said = f"{server} cannot be reached: {cause(error.os_error) or 'it does not answer'}"
            return Again(said, tries=2, hint="is this host online, and the name right?")
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            said = f"{server} cannot be reached: it has not answered for {CONNECT:g} s"
            return Again(said, tries=2, hint="is this host online, and the name right?")
        if isinstance(error, TimeoutError):
            return Again(f"{server} has stalled: next to nothing came for {STALL:g} s")
        return Again(f"{server} broke the connection off: {broken(error)}")


def broken(error: BaseException) -> str:
    """How a connection ended that should not have."""
    import aiohttp

    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "it has not answered"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer is not whole"
    if isinstance(error, aiohttp.ClientResponseError):
        return "what it answers is not HTTP"
    return cause(error) or type(error).__name__


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


def led(server: str, url: str, response: ClientResponse, *, secure: bool) -> str:
    """Where a redirect leads: never to http where all is to be `secure`, never with a login in the address."""
    response.close()
    try:
        target = urljoin(url, response.headers.get("Location", ""))
        parts = urlsplit(target)
        whole = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        whole = False
    if not whole or parts.scheme not in ("http", "https") or "@" in parts.netloc:
        raise DownloadFailed(f"{server} leads to an address that is none")
    if parts.scheme == "http" and secure:
        raise DownloadFailed(f"{server} leads from a secure address to an insecure one, at {parts.netloc}")
    return target


def loopback(name: str) -> bool:
    """Whether a host's name means this host, without asking anybody."""
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
