"""The frames between the daemon and the agent in a guest, and between the CLI and the daemon; `docs/wire.md` is the law.

Idea: bytes in, frames out, and back. Nothing here reads, writes or waits, so the same code serves asyncio, a blocking
socket and a test. What comes from a guest is hostile: sizes are bounded before anything is kept, and whatever breaks a
rule is a `WireError`, after which the connection is of no more use.
Owns no resource. It is on the CLI's hot path: only `struct` is imported at the top, `json` when the first object passes.
"""

from __future__ import annotations

from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION = 1  # the wire's major version, `wire` in both hellos
MARKER = b"banger-wire\r\n\x1a\n\0"
MAX_PAYLOAD = 65_536
MAX_FRAME = 12 + MAX_PAYLOAD + 4
MAX_REQUEST = 2_097_152  # of JSON: as much as Linux passes to a command, argv and environment together
MAX_HUNT = 1_048_576
MAX_CREDIT = 2**31 - 1  # outstanding at any one time
WINDOW = 262_144

HELLO, OPEN, OPENED, DATA, STDERR, EOF, CREDIT, CONTROL, END, RESET, PART = range(1, 12)
NAMES = ("", "hello", "open", "opened", "data", "stderr", "eof", "credit", "control", "end", "reset", "part")

_HEADER = Struct(">IIB3s")
_WORD = Struct(">I")


class Frame(tuple[int, int, bytes]):
    """One whole frame; unpacks as `kind, stream, payload`."""

    __slots__ = ()

    @property
    def kind(self) -> int:
        """One of the numbers in NAMES."""
        return self[0]

    @property
    def stream(self) -> int:
        """0 for a hello, else the stream's number."""
        return self[1]

    @property
    def payload(self) -> bytes:
        """At most MAX_PAYLOAD bytes."""
        return self[2]

    def __repr__(self) -> str:
        return f"Frame({NAMES[self[0]]}, stream={self[1]}, {len(self[2])} bytes)"


class WireError(ValueError):
    """The conversation is broken. From `Decoder.feed`: `frames` are the good ones that came before it in the same call,
    `rest` is where a guest's hunt for the next preamble goes on."""

    frames: tuple[Frame, ...] = ()
    rest: bytes = b""


def preamble() -> bytes:
    """What a host sends first on each new connection, before its hello: it ends whatever its predecessor had begun."""
    return bytes(MAX_FRAME) + MARKER


def encode(kind: int, stream: int, payload: bytes | bytearray | memoryview = b"", *, tag: int) -> bytes:
    """One frame as bytes."""
    size = len(payload)
    if size > MAX_PAYLOAD:
        raise WireError(f"{NAMES[kind]} frame: payload of {size} bytes is over the limit of {MAX_PAYLOAD}")
    return b"".join((_HEADER.pack(size, stream, kind, b"\0\0\0"), payload, _WORD.pack(tag)))


def encode_json(kind: int, stream: int, obj: Mapping[str, object], *, tag: int) -> bytes:
    """One frame whose payload is an object; text that is not Unicode (a lone surrogate) is refused."""
    return encode(kind, stream, _json(kind, obj), tag=tag)


def encode_request(stream: int, obj: Mapping[str, object], *, tag: int, limit: int = MAX_REQUEST) -> bytes:
    """The frames of a request: as many parts as it takes, and the `open` with the last of it. `limit` is what the guest says that it takes."""
    text = _json(OPEN, obj)
    most = min(limit, MAX_REQUEST)
    if len(text) > most:
        raise WireError(f"it has {len(text)} bytes (argv and environment as JSON), and may have {most}")
    pieces = [text[at : at + MAX_PAYLOAD] for at in range(0, len(text), MAX_PAYLOAD)]
    parts = [encode(PART, stream, piece, tag=tag) for piece in pieces[:-1]]
    return b"".join([*parts, encode(OPEN, stream, pieces[-1], tag=tag)])


def _json(kind: int, obj: Mapping[str, object]) -> bytes:
    import json

    try:
        return json.dumps(obj, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise WireError(f"{NAMES[kind]} frame: not representable as JSON: {error}") from error


def encode_credit(stream: int, count: int, *, tag: int) -> bytes:
    """One `credit` frame: `count` more bytes are welcome."""
    return encode(CREDIT, stream, _WORD.pack(count), tag=tag)


def decode_json(payload: bytes) -> dict[str, object]:
    """The object in a payload; `WireError` for anything else, however deep or odd."""
    import json

    try:
        found: object = json.loads(payload.decode())
    except (ValueError, RecursionError) as error:
        raise WireError(f"payload is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise WireError("payload is not a JSON object")
    return found


def decode_credit(payload: bytes) -> int:
    """The count in the payload of a `credit` frame."""
    if len(payload) != 4:
        raise WireError(f"credit frame: payload of {len(payload)} bytes instead of 4")
    return int(_WORD.unpack(payload)[0])


def _header(buffer: bytearray, at: int) -> tuple[int, int, int]:
    """Length, stream and kind of the frame that begins at `at`; refuses what no frame begins with."""
    size, stream, kind, zero = _HEADER.unpack_from(buffer, at)
    if size > MAX_PAYLOAD:
        raise WireError(f"frame: length {size} is over the limit of {MAX_PAYLOAD}")
    if not HELLO <= kind <= PART:
        raise WireError(f"frame: unknown type {kind}")
    if zero != b"\0\0\0":
        raise WireError(f"{NAMES[kind]} frame: padding is not zero")
    if (stream == 0) != (kind == HELLO):
        raise WireError(f"{NAMES[kind]} frame: stream {stream} does not fit it")
    return size, stream, kind


class Decoder:
    """Cuts a byte stream into frames. Keeps no more than one unfinished frame between calls."""

    __slots__ = ("_buffer", "_need", "_tag", "_used")

    def __init__(self, tag: int) -> None:
        self._tag = _WORD.pack(tag)
        self._buffer = bytearray()
        self._used = 0
        self._need = 12  # bytes the buffer must hold before looking at it again is worth while

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """The frames that `data` completes; raises `WireError` at the first broken one."""
        buffer = self._buffer
        buffer += data
        frames: list[Frame] = []
        if len(buffer) < self._need:
            return frames
        self._used = 0
        try:
            self._cut(frames)
        except WireError as error:
            error.frames, error.rest = tuple(frames), bytes(buffer[self._used :])
            raise
        del buffer[: self._used]
        return frames

    def pending(self) -> int:
        """Bytes of an unfinished frame; zero means that the stream may end here."""
        return len(self._buffer)

    def _cut(self, frames: list[Frame]) -> None:
        buffer, have = self._buffer, len(self._buffer)
        self._need = 12
        with memoryview(buffer) as view:
            while have - self._used >= 12:
                size, stream, kind = _header(buffer, self._used)
                if kind == HELLO:
                    raise WireError("hello frame: only after a marker")
                start = self._used + 12
                stop = start + size
                if stop + 4 > have:
                    self._need = size + 16
                    return
                self._used = stop + 4
                if view[stop : stop + 4] != self._tag:
                    raise WireError(f"{NAMES[kind]} frame: tag is not this connection's")
                frames.append(Frame((kind, stream, bytes(view[start:stop]))))


class Hunter:
    """Finds the peer's hello in a stream that may begin with leftovers of an earlier conversation.

    A host gives the epoch that it has just sent, and gets at most `MAX_HUNT` bytes of patience. Without an epoch
    (the guest's side, for agents made of Python in tests) any sound hello counts and the hunt has no end.
    Afterwards `rest` holds the bytes that followed the hello: feed them to the `Decoder` first.
    """

    __slots__ = ("_buffer", "_epoch", "_seen", "rest")

    def __init__(self, epoch: int | None) -> None:
        self._epoch = epoch
        self._buffer = bytearray()
        self._seen = 0
        self.rest = b""

    def feed(self, data: bytes | bytearray | memoryview) -> dict[str, object] | None:
        """The hello once it has passed, else None."""
        self._seen += len(data)
        self._buffer += data
        while (at := self._buffer.find(MARKER)) >= 0:
            del self._buffer[:at]
            try:
                found = self._hello()
            except WireError:
                del self._buffer[: len(MARKER)]  # a leftover that looks like ours; the true one comes after it
                continue
            if found is not None:
                return found
            break
        else:
            del self._buffer[: max(0, len(self._buffer) - len(MARKER) + 1)]
        if self._epoch is not None and self._seen > MAX_HUNT:
            raise WireError(f"no agent: no hello of this connection within {MAX_HUNT} bytes")
        return None

    def _hello(self) -> dict[str, object] | None:
        buffer, start = self._buffer, len(MARKER)
        if len(buffer) < start + 12:
            return None
        size, _, kind = _header(buffer, start)
        if kind != HELLO:
            raise WireError("no hello after the marker")
        stop = start + 12 + size
        if len(buffer) < stop + 4:
            return None
        hello = decode_json(bytes(buffer[start + 12 : stop]))
        _check_hello(hello, int(_WORD.unpack_from(buffer, stop)[0]), self._epoch)
        self.rest = bytes(buffer[stop + 4 :])
        buffer.clear()
        return hello


def _check_hello(hello: dict[str, object], tag: int, epoch: int | None) -> None:
    """`wire` and `epoch` must be there whatever the version; the epoch is the frame's own tag and, for a host, the one it sent."""
    if type(hello.get("wire")) is not int or type(hello.get("epoch")) is not int:
        raise WireError("hello: `wire` and `epoch` must be integers")
    if tag == 0 or hello["epoch"] != tag or (epoch is not None and tag != epoch):
        raise WireError("hello: of another epoch")


class Meter:
    """The credit of one stream, in both directions; see *Credit* in `docs/wire.md`.

    Sending: `grant` what the peer's `credit` frames say, `available` tells how much may go, `spend` what went.
    Receiving: announce `window` once, `receive` what came, `consume` what was passed on, and announce what that returns, if not 0.
    """

    __slots__ = ("_consumed", "_welcome", "available", "window")

    def __init__(self, window: int = WINDOW) -> None:
        self.window = window
        self.available = 0
        self._welcome = window
        self._consumed = 0

    def grant(self, count: int) -> None:
        """The peer takes `count` bytes more."""
        if self.available + count > MAX_CREDIT:
            raise WireError(f"credit frame: more than {MAX_CREDIT} bytes outstanding")
        self.available += count

    def spend(self, count: int) -> None:
        """`count` bytes are on their way; more than `available` is our own mistake."""
        if count > self.available:
            raise WireError(f"sending {count} bytes with a credit of {self.available}")
        self.available -= count

    def receive(self, count: int) -> None:
        """`count` bytes have come; a peer that was not granted so much is broken."""
        if count > self._welcome:
            raise WireError(f"peer sent {count} bytes with a credit of {self._welcome}")
        self._welcome -= count

    def consume(self, count: int) -> int:
        """`count` received bytes were passed on. Returns what to grant now: 0, or a quarter of the window and more."""
        self._consumed += count
        if self._consumed * 4 < self.window:
            return 0
        count, self._consumed = self._consumed, 0
        self._welcome += count
        return count
