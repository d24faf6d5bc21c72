"""Streams to a guest through Firecracker's vsock socket (its docs/vsock.md): connect, `CONNECT PORT\\n`, and after `OK N\\n` the stream is the guest's.

While the guest does not listen Firecracker closes the connection, so it is tried again, ever more slowly, until there is an answer or no time is left.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from banger.host.stream import Dialer, Stream
from banger.model.errors import GuestFailed, TimedOut

#: Longest answer: `OK `, the port number that Firecracker made up for our end, and the end of the line.
ANSWER = 16
FIRST_PAUSE, LONGEST_PAUSE = 0.004, 0.1


async def dial(dialer: Dialer, path: Path, port: int, *, timeout: float) -> Stream:
    """A stream to a port of the guest; TimedOut when nobody in it has listened within `timeout` seconds."""
    pause = FIRST_PAUSE
    try:
        async with asyncio.timeout(timeout):
            while True:
                try:
                    return await _connect(dialer, path, port)
                except GuestFailed:
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
    except TimeoutError:
        raise TimedOut(f"nobody listens at port {port} in the guest after {timeout:g} s") from None


async def _connect(dialer: Dialer, path: Path, port: int) -> Stream:
    stream = await dialer.unix(path)
    try:
        await stream.write(f"CONNECT {port}\n".encode())
        answer = b""
        while not answer.endswith(b"\n"):
            byte = await stream.read(1)  # what follows the line is the guest's
            answer += byte
            if not byte or len(answer) > ANSWER:
                raise GuestFailed(f"the guest does not listen at port {port}")
        if not answer.startswith(b"OK "):
            raise GuestFailed(f"Firecracker answered {answer!r} to a connection")
    except BaseException:
        stream.close()
        raise
    return stream
