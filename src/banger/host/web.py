"""Files from the web: one GET to a file, whole or not at all. Proxies, the system's certificates and redirects are the standard library's.

What comes is hostile: its length is bounded and compared with what was announced, each wait has an end, and a secure address never leads to an
insecure one. Threads only wait for bytes; all writing is done here, so that after a cancel nothing writes any more. The caller removes the file.
"""

from __future__ import annotations

import asyncio
import http.client
import ipaddress
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPMessage, HTTPResponse
from io import FileIO
from pathlib import Path
from typing import IO, Protocol
from urllib.parse import urlsplit

from banger.host.files import explain
from banger.model.errors import BadRequest, BangerError, Corrupt, DownloadFailed, NotFound

#: How long nothing may come, and how long all of it may take, in seconds.
STALL, WHOLE = 20.0, 900.0
PIECE = 1 << 16

#: Told after each piece: bytes so far, and all there will be (None when it was not announced).
Told = Callable[[int, int | None], None]


class Web(Protocol):
    """What banger fetches by itself."""

    async def fetch(self, url: str, into: Path, *, limit: int, told: Told | None = None, seconds: float = WHOLE) -> None:
        """Write what is at `url` to the new file `into`, within so many seconds. NotFound when there is nothing, DownloadFailed when it does not come,
        or not whole.

        Corrupt when it is longer than `limit` bytes; BadRequest for an address that is neither https nor http to this host's loopback.
        """


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows, but never from https to anything else, and never to what is refused as a first address."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        """See the standard library."""
        if urlsplit(req.full_url).scheme == "https" and urlsplit(newurl).scheme != "https":
            raise urllib.error.URLError("it leads from a secure address to an insecure one")
        acceptable(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def acceptable(url: str) -> str:
    """The address itself, or BadRequest."""
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return url
    if parts.scheme == "http" and loopback(parts.hostname or ""):
        return url
    raise BadRequest(f"{url[:200]!r} is not an address to fetch from", hint="use https; http only to this host itself")


def loopback(name: str) -> bool:
    """Whether a host's name means this host, without asking anybody."""
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class RealWeb:
    """The web."""

    async def fetch(self, url: str, into: Path, *, limit: int, told: Told | None = None, seconds: float = WHOLE) -> None:
        """See Web."""
        acceptable(url)
        try:
            async with asyncio.timeout(seconds):
                response = await asyncio.to_thread(_open, url)
                try:
                    await _save(response, url, into, limit, told or (lambda done, total: None))
                finally:
                    # In a thread: closing waits for a read that is still under way after a cancel.
                    asyncio.get_running_loop().run_in_executor(None, response.close)
        except TimeoutError:
            raise DownloadFailed(f"{url} did not come: it takes too long", hint="try again") from None
        except (OSError, http.client.HTTPException) as error:
            raise _failure(url, error) from error


def _open(url: str) -> HTTPResponse:
    proxies = [urllib.request.ProxyHandler({})] if loopback(urlsplit(url).hostname or "") else []
    opener = urllib.request.build_opener(_Redirects(), *proxies)
    response = opener.open(urllib.request.Request(url, headers={"User-Agent": "banger"}), timeout=STALL)
    assert isinstance(response, HTTPResponse), "only http and https are opened"
    return response


async def _save(response: HTTPResponse, url: str, into: Path, limit: int, told: Told) -> None:
    announced = response.headers.get("Content-Length")
    total = int(announced) if announced and announced.isdecimal() else None
    done = 0
    with _new(into) as writer:
        while data := await asyncio.to_thread(response.read1, PIECE):
            done += len(data)
            if done > limit or (total or 0) > limit:
                raise Corrupt(f"{url} is longer than it may be: more than {limit} bytes")
            _write(writer, data, into)
            told(done, total)
    if total is not None and done != total:
        raise DownloadFailed(f"{url} was cut short: {done} of {total} bytes came", hint="try again")


def _new(into: Path) -> FileIO:
    """Unbuffered, so that a full disk shows where bytes are written and not once more when the file is closed."""
    try:
        return into.open("xb", buffering=0)
    except OSError as error:
        raise _local(error, into) from error


def _write(writer: FileIO, data: bytes, into: Path) -> None:
    try:
        while data:
            data = data[writer.write(data) :]
    except OSError as error:
        raise _local(error, into) from error


def _local(error: OSError, into: Path) -> BangerError:
    """What fails here is told apart from what fails out there."""
    told = explain(error, into)
    return told if isinstance(told, BangerError) else DownloadFailed(f"cannot write {into}: {error.strerror}")


def _failure(url: str, error: OSError | http.client.HTTPException) -> BangerError:
    if isinstance(error, urllib.error.HTTPError):
        if error.code in (404, 410):
            return NotFound(f"there is nothing at {url}", hint="is the address right?")
        return DownloadFailed(f"{url} was refused: {error.code} {error.reason}", hint="try again later")
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return DownloadFailed(f"{url} did not come: {reason or type(error).__name__}", hint="is this host online, and the address right?")
