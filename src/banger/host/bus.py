"""The system's message bus (D-Bus), as far as it takes to call a method and hear that it was done or why not: the D-Bus Specification, little-endian.

A connection for a few calls, no signals, nothing of ours on the bus. What the bus sends is read within bounds and a time limit.
Owns nothing when it is left.
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from banger.model.errors import HostLacks, TimedOut, ToolFailed

#: Where every system bus listens ("Well-known Message Bus Instances").
SOCKET = Path("/run/dbus/system_bus_socket")
TIMEOUT = 5.0
#: The longest message that is read, its two parts each: what we are told is a few hundred bytes.
LIMIT = 1 << 16
CALL, RETURN, ERROR = 1, 2, 3
#: The service is not to be started for us.
NO_AUTO_START = 2
#: Codes of header fields.
PATH, INTERFACE, MEMBER, ERROR_NAME, REPLY_SERIAL, DESTINATION, SIGNATURE = 1, 2, 3, 4, 5, 6, 8

Value = int | bool | str | bytes | Sequence["Value"]
"""What can be sent: by the signature an int (i, u, q, y), bool (b), str (s, o, g), bytes (ay), or a sequence (an array, a structure)."""


class Writer:
    """Values in the bus's form."""

    def __init__(self) -> None:
        self.data = bytearray()

    def align(self, size: int) -> None:
        """To the next multiple."""
        self.data += bytes(-len(self.data) % size)

    def put(self, signature: str, values: Sequence[Value]) -> Writer:
        """Values, one for each complete type of the signature."""
        for kind, value in zip(complete_types(signature), values, strict=True):
            self._one(kind, value)
        return self

    def _one(self, kind: str, value: Value) -> None:
        if kind in FIXED:
            size, form = FIXED[kind]
            self.align(size)
            self.data += struct.pack(f"<{form}", value)
        elif kind in ("s", "o"):
            data = str(value).encode()
            self.align(4)
            self.data += struct.pack("<I", len(data)) + data + b"\0"
        elif kind == "g":
            self.data += struct.pack("<B", len(str(value))) + str(value).encode() + b"\0"
        elif kind[0] == "(":
            assert isinstance(value, Sequence), kind
            self.align(8)
            self.put(kind[1:-1], value)
        else:
            assert isinstance(value, Sequence), kind
            self._array(kind[1:], value)

    def _array(self, kind: str, values: Sequence[Value]) -> None:
        """Its length is that of the content, without what is between the length and the first element."""
        self.align(4)
        at = len(self.data)
        self.data += bytes(4)
        self.align(8 if kind[0] == "(" else FIXED[kind][0] if kind in FIXED else 4)
        begun = len(self.data)
        for value in values:
            self._one(kind, value)
        struct.pack_into("<I", self.data, at, len(self.data) - begun)


#: By the type: how it is aligned, and how it is packed.
FIXED: Mapping[str, tuple[int, str]] = {"y": (1, "B"), "q": (2, "H"), "i": (4, "i"), "u": (4, "I"), "b": (4, "I")}


def complete_types(signature: str) -> list[str]:
    """`ia(sb)` is `i` and `a(sb)`."""
    found, at = list[str](), 0
    while at < len(signature):
        begun = at
        while signature[at] == "a":
            at += 1
        depth = 0
        while True:
            depth += {"(": 1, ")": -1}.get(signature[at], 0)
            at += 1
            if not depth:
                break
        found.append(signature[begun:at])
    return found


def message(serial: int, fields: Mapping[int, tuple[str, str]], signature: str, values: Sequence[Value]) -> bytes:
    """A call; `fields` are its header's, each with its type."""
    body = Writer().put(signature, values).data
    every = dict(fields) | ({SIGNATURE: ("g", signature)} if signature else {})
    head = Writer().put("yyyyuu", [ord("l"), CALL, NO_AUTO_START, 1, len(body), serial])
    listed = Writer()
    for code, (kind, text) in every.items():
        listed.align(8)
        listed.put("yg", [code, kind]).put(kind, [text])
    head.put("u", [len(listed.data)])
    head.data += listed.data
    head.align(8)
    return bytes(head.data + body)


def header_fields(data: bytes) -> dict[int, str | int]:
    """Of a message that came; ValueError for what no bus sends."""
    found, at = dict[int, str | int](), 0
    try:
        while at < len(data):
            at += -at % 8
            code, kind = data[at], data[at + 2 : at + 3].decode("ascii")
            if data[at + 1] != 1 or data[at + 3]:
                raise ValueError("a header field of an unknown type")
            at += 4
            if kind == "g":
                size, at = data[at], at + 1
            else:
                (size,) = struct.unpack_from("<I", data, at)
                at += 4
            found[code] = size if kind == "u" else data[at : at + size].decode()
            at += 0 if kind == "u" else size + 1
    except (struct.error, IndexError) as error:
        raise ValueError("a header that ends too early") from error
    return found


class Bus:
    """A connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer, self.serial = reader, writer, 0

    async def greet(self) -> None:
        """Say who we are, which the kernel confirms; HostLacks when the bus does not want us."""
        self.writer.write(b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\n")
        if not (await self.reader.readuntil(b"\r\n")).startswith(b"OK "):
            raise HostLacks("the system bus does not let us in")
        self.writer.write(b"BEGIN\r\n")
        await self.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello")

    async def call(self, destination: str, path: str, interface: str, member: str, signature: str = "", values: Sequence[Value] = ()) -> None:
        """Call a method and wait until it is done; ToolFailed with the service's own words when it is not."""
        self.serial += 1
        fields = {PATH: ("o", path), INTERFACE: ("s", interface), MEMBER: ("s", member), DESTINATION: ("s", destination)}
        self.writer.write(message(self.serial, fields, signature, values))
        while True:
            kind, found, body = await self._receive()
            if found.get(REPLY_SERIAL) == self.serial and kind in (RETURN, ERROR):
                break
        if kind == ERROR:
            raise ToolFailed(f"{member}: {first_text(found, body) or found.get(ERROR_NAME, 'failed')}")

    async def _receive(self) -> tuple[int, dict[int, str | int], bytes]:
        order, kind, _, _, body, _, fields = struct.unpack("<BBBBIII", await self.reader.readexactly(16))
        if order != ord("l") or body > LIMIT or fields > LIMIT:
            raise ValueError("a message of another byte order, or a long one")
        listed = await self.reader.readexactly(fields + -fields % 8)
        return kind, header_fields(listed[:fields]), await self.reader.readexactly(body)


def first_text(fields: Mapping[int, str | int], body: bytes) -> str:
    """What an error says, if anything."""
    if not str(fields.get(SIGNATURE, "")).startswith("s") or len(body) < 4:
        return ""
    return body[4 : 4 + int.from_bytes(body[:4], "little")].decode("utf-8", "replace").strip()


@asynccontextmanager
async def connected(path: Path = SOCKET) -> AsyncIterator[Bus]:
    """The bus, for the few calls of this block, which all together have `TIMEOUT` seconds."""
    try:
        async with asyncio.timeout(TIMEOUT):
            reader, writer = await asyncio.open_unix_connection(str(path), limit=LIMIT)
            try:
                bus = Bus(reader, writer)
                await bus.greet()
                yield bus
            finally:
                writer.close()
    except TimeoutError:
        raise TimedOut(f"the system bus did not answer within {TIMEOUT:g} s") from None
    except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
        raise HostLacks(f"the system bus at {path} cannot be used: {error}") from error
