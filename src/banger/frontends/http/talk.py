"""One HTTP/1.1 conversation over a stream reader and writer: requests in, responses out. h11 knows the grammar, this file the limits.

It knows nothing of operations, sockets or addresses, so the same code serves a Unix socket, TCP and a test. Whoever made the writer closes it.
"""

from __future__ import annotations

import asyncio

import h11
import msgspec

MAX_HEAD = 32 << 10
#: A request to an agent may have half of it (wire.MAX_REQUEST); what is longer than that is told with more words.
MAX_BODY = 4 << 20
READ_BYTES = 256 << 10
REQUEST_SECONDS = 10.0
IDLE_SECONDS = 300.0
WRITE_SECONDS = 60.0


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A whole request; header names are lower-case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class Malformed(Exception):
    """What came is no HTTP request, or breaks a limit; the conversation ends after a response with `status`."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Talk:
    """The conversation; `idle` is true while no request has begun."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, build: str) -> None:
        self.reader, self.writer = reader, writer
        self.idle = True
        self._bodyless = False
        self._build = build
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)

    async def request(self) -> Request | None:
        """The next request; None when the peer has gone or stays silent. Raises Malformed."""
        if self._http.our_state is h11.DONE:
            self._http.start_next_cycle()
        if not self._http.trailing_data[0] and not await self._begun():
            return None
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                return await self._request()
        except TimeoutError:
            raise Malformed("the request was not complete in time", 408) from None
        except h11.RemoteProtocolError as error:
            raise Malformed(f"not an HTTP request: {error}", error.error_status_hint) from error

    async def _begun(self) -> bool:
        """Wait for the first bytes of a request; false when none will come."""
        self.idle = True
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                return await self._read()
        except TimeoutError:
            return False
        finally:
            self.idle = False

    async def _read(self) -> bool:
        data = await self.reader.read(READ_BYTES)
        self._http.receive_data(data)
        return bool(data)

    async def _request(self) -> Request | None:
        head: h11.Request | None = None
        body = bytearray()
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                await self._continue()
                await self._read()
            elif isinstance(event, h11.Request):
                head = event
                self._bodyless = event.method == b"HEAD"
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > MAX_BODY:
                    raise Malformed(f"the request's body is over the limit of {MAX_BODY} bytes", 413)
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                return _whole(head, bytes(body))
            else:
                return None

    async def _continue(self) -> None:
        if self._http.they_are_waiting_for_100_continue:
            await self._send(h11.InformationalResponse(status_code=100, headers=[]))

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            self.writer.write(data)
            await self.writer.drain()

    def _headers(self, *more: tuple[str, str]) -> list[tuple[str, str]]:
        return [("Banger-Build", self._build), *more]

    async def respond(self, status: int, body: bytes, *more: tuple[str, str]) -> None:
        """A whole JSON response in one piece; a peer that does not take it in time is let go."""
        length = [] if status == 204 else [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        events = (
            h11.Response(status_code=status, headers=self._headers(*length, *more)),
            h11.Data(data=b"" if self._bodyless else body),
            h11.EndOfMessage(),
        )
        self.writer.write(b"".join(self._http.send(event) or b"" for event in events))
        async with asyncio.timeout(WRITE_SECONDS):
            await self.writer.drain()

    async def begin_lines(self) -> None:
        """Start a response of lines whose number nobody knows."""
        await self._send(h11.Response(status_code=200, headers=self._headers(("Content-Type", "application/x-ndjson"))))

    async def line(self, text: bytes) -> None:
        """One line; waits while the peer is slow."""
        await self._send(h11.Data(data=text + b"\n"))

    async def end_lines(self) -> None:
        """No more lines."""
        await self._send(h11.EndOfMessage())

    async def switch(self, protocol: str) -> bytes:
        """Leave HTTP; returns what the peer has already sent in the new protocol."""
        headers = self._headers(("Upgrade", protocol), ("Connection", "Upgrade"))
        await self._send(h11.InformationalResponse(status_code=101, headers=headers))
        return self._http.trailing_data[0]

    async def gone(self) -> None:
        """Returns when the peer has left (or sends far too much ahead) while its response is under way."""
        try:
            while len(self._http.trailing_data[0]) <= MAX_BODY and await self._read():
                pass
        except ConnectionError:
            return

    def reusable(self) -> bool:
        """Whether another request may follow."""
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    def responding(self) -> bool:
        """Whether the response has begun (or cannot begin any more), so that no other can be sent."""
        return self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE)


def _whole(head: h11.Request, body: bytes) -> Request:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
    return Request(method=head.method.decode("ascii"), target=head.target.decode("latin-1"), headers=headers, body=body)
