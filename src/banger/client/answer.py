"""What comes back from the daemon: a response, a stream of lines, or a conversation in frames. Each owns its socket."""

from __future__ import annotations

import json
from _socket import SHUT_WR
from _socket import socket as Socket

from banger.model.errors import BangerError, Corrupt, DaemonUnreachable, TimedOut, every_error
from banger.wire import MAX_FRAME, Decoder, Frame, encode

MAX_LINE = 16 << 20


def error_of(found: object) -> BangerError:
    """The error that a Failure stands for: the class of its code."""
    if not isinstance(found, dict):
        return Corrupt("the daemon's error cannot be read")
    tail = found.get("tail")
    lines = tuple(str(line) for line in tail) if isinstance(tail, list) else ()
    kind = every_error().get(str(found.get("code")), BangerError)
    return kind(str(found.get("message", "")), hint=str(found.get("hint", "")), stage=str(found.get("stage", "")), tail=lines)


class Response:
    """A response as it comes in: head first, then the body whole or line by line. Owns its socket."""

    def __init__(self, sock: Socket) -> None:
        self.sock = sock
        self._raw = bytearray()
        self._body = bytearray()
        self._ended = False
        self.status, self.headers = self._head()
        self._chunked = self.headers.get("transfer-encoding") == "chunked"

    def _receive(self) -> None:
        try:
            data = self.sock.recv(1 << 18)
        except TimeoutError:
            raise TimedOut("the daemon did not answer in time", hint="see what it does: banger daemon operations") from None
        except ConnectionError as error:
            raise DaemonUnreachable(f"the connection to the daemon broke off: {error}") from error
        if not data:
            raise DaemonUnreachable("the daemon closed the connection", hint="its log says why: banger daemon status")
        self._raw += data

    def _until(self, mark: bytes) -> bytes:
        while (at := self._raw.find(mark)) < 0:
            if len(self._raw) > MAX_LINE:
                raise Corrupt("the daemon's answer is not HTTP")
            self._receive()
        found = bytes(self._raw[:at])
        del self._raw[: at + len(mark)]
        return found

    def _head(self) -> tuple[int, dict[str, str]]:
        lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        try:
            status = int(lines[0].split(" ")[1])
        except (ValueError, IndexError):
            raise Corrupt("the daemon's answer is not HTTP") from None
        return status, {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}

    def _exactly(self, count: int) -> bytes:
        while len(self._raw) < count:
            self._receive()
        found = bytes(self._raw[:count])
        del self._raw[:count]
        return found

    def _chunk(self) -> bytes:
        """The next piece of the body; empty at its end."""
        if not self._chunked:
            self._ended = True
            return self._exactly(int(self.headers.get("content-length", "0")))
        data = self._exactly(int(self._until(b"\r\n"), 16))
        self._exactly(2)
        self._ended = not data
        return data

    def body(self) -> bytes:
        """All of it."""
        while not self._ended:
            self._body += self._chunk()
        return bytes(self._body)

    def line(self) -> bytes | None:
        """The next line of the body, None at its end. An exception in between loses nothing."""
        while (at := self._body.find(b"\n")) < 0:
            if self._ended:
                return None
            self._body += self._chunk()
        found = bytes(self._body[:at])
        del self._body[: at + 1]
        return found

    def buffered(self) -> bool:
        """Whether something has come that was not yet asked for."""
        return b"\n" in self._body or bool(self._raw)

    def rest(self) -> bytes:
        """What came after the head, for another protocol."""
        found = bytes(self._raw)
        self._raw.clear()
        return found


class Lines:
    """The lines of a stream as objects; `{"error": …}` is raised instead. Closing it tells the daemon that nobody listens any more."""

    def __init__(self, response: Response) -> None:
        self._response = response

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> dict[str, object]:
        line = self._response.line()
        if line is None:
            raise StopIteration
        found = json.loads(line)
        if not isinstance(found, dict):
            raise Corrupt("the daemon sent a line that is no object")
        if "error" in found:
            raise error_of(found["error"])
        return found

    def ready(self, seconds: float) -> bool:
        """Whether the next line begins to come within that time."""
        from select import POLLIN, poll

        if self._response.buffered():
            return True
        waiting = poll()
        waiting.register(self._response.sock.fileno(), POLLIN)
        return bool(waiting.poll(int(seconds * 1000)))

    def bound(self, seconds: float | None) -> None:
        """From now on a line must begin within that time, else TimedOut."""
        self._response.sock.settimeout(seconds)

    def leave(self) -> None:
        """Say that no more is wanted; what the daemon then does for a bound machine has been done when the lines end."""
        self._response.sock.shutdown(SHUT_WR)

    def close(self) -> None:
        """Give it up."""
        self._response.sock.close()


class Conversation:
    """An upgraded connection: frames of stream 1 and tag 1 both ways. The socket does not block; whoever holds it polls `fileno()`."""

    def __init__(self, response: Response) -> None:
        self._sock = response.sock
        self._sock.setblocking(False)
        self._decoder = Decoder(1)
        self._early = response.rest()
        self._room = bytearray(4 * MAX_FRAME)
        self.waiting = bytearray()

    def fileno(self) -> int:
        """For poll."""
        return self._sock.fileno()

    def receive(self) -> list[Frame] | None:
        """The frames that have come; None when the other side has closed. WireError if it talks nonsense."""
        if self._early:
            early, self._early = self._early, b""
            return self._decoder.feed(early)
        try:
            count = self._sock.recv_into(self._room)
        except BlockingIOError:
            return []
        except ConnectionError:
            return None
        return self._decoder.feed(memoryview(self._room)[:count]) if count else None

    def send(self, kind: int, payload: bytes = b"") -> None:
        """Queue a frame; `flush` sends."""
        self.waiting += encode(kind, 1, payload, tag=1)

    def flush(self) -> None:
        """Send what can be sent now; the rest stays in `waiting`. A peer that has gone shows when receiving."""
        try:
            while self.waiting:
                del self.waiting[: self._sock.send(self.waiting)]
        except BlockingIOError:
            return
        except ConnectionError:
            self.waiting.clear()

    def close(self) -> None:
        """Hang up; the daemon resets what is not finished."""
        self._sock.close()
