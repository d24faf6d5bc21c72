"""A Duplex on an upgraded connection: frames of stream 1 and tag 1 in both directions, until either side ends.

The frames are passed on unchanged: credit is agreed between the two ends. A slow peer stops the reading from the other side, so at most one frame and
the transport's bounded buffers are in memory.
"""

from __future__ import annotations

import asyncio

from banger.daemon.duplex import Duplex
from banger.model.errors import BangerError
from banger.wire import CONTROL, CREDIT, DATA, END, EOF, MAX_FRAME, RESET, Decoder, WireError, encode, encode_json

PROTOCOL = "banger-wire"
STREAM = TAG = 1
FROM_CLIENT = frozenset((DATA, EOF, CREDIT, CONTROL, RESET))
READ_BYTES = 256 << 10


async def bridge(duplex: Duplex, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bytes) -> None:
    """Carry frames until the guest's side has ended or the client has gone; the duplex is given up in either case."""
    writer.transport.set_write_buffer_limits(high=4 * MAX_FRAME)
    try:
        async with asyncio.TaskGroup() as group:
            down = group.create_task(_to_client(duplex, writer))
            up = group.create_task(_to_guest(duplex, reader, writer, first))
            await asyncio.wait({down, up}, return_when=asyncio.FIRST_COMPLETED)
            down.cancel()
            up.cancel()
    finally:
        await duplex.aclose()


async def _to_client(duplex: Duplex, writer: asyncio.StreamWriter) -> None:
    try:
        while (frame := await duplex.receive()) is not None:
            writer.write(encode(frame.kind, STREAM, frame.payload, tag=TAG))
            await writer.drain()
    except BangerError as error:
        await _end(writer, error)
    except ConnectionError:
        return


async def _to_guest(duplex: Duplex, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> None:
    decoder = Decoder(TAG)
    try:
        while True:
            for frame in decoder.feed(data):
                if frame.kind not in FROM_CLIENT or frame.stream != STREAM:
                    raise WireError(f"{frame!r} is not for a client to send")
                await duplex.send(frame.kind, frame.payload)
            data = await reader.read(READ_BYTES)
            if not data:
                return
    except BangerError as error:
        await _end(writer, error)
    except WireError as error:
        await _end(writer, BangerError(f"the client broke the protocol: {error}"), code="bad-request")
    except ConnectionError:
        return


async def _end(writer: asyncio.StreamWriter, error: BangerError, code: str = "") -> None:
    """Say why it is over, as the guest would."""
    try:
        writer.write(encode_json(END, STREAM, {"error": {"code": code or error.code, "message": str(error), "hint": error.hint}}, tag=TAG))
        await writer.drain()
    except ConnectionError:
        return
