"""A program in QEMU's place: it answers QMP, and behind its agent's socket is whatever the file named by HOSTILE_MOOD says. Boots nothing.

A mood is read at each connection; `good` is the pretended guest that banger ships for tests. Those that begin with `boot-` break the hello or the
identity, those with `exec-` answer everything well but the opening of a command.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from banger import wire
from banger.host.stream import RealStream, Stream
from banger.testing.guest import FakeGuest, _Talk
from banger.testing.qemu import answer_qmp

BOOT_ID = "00000000-0000-4000-8000-000000000001"
BIG = 1 << 16
ACCEPTED = b'{"pid":1}'
Said = tuple[bytes, bytes]
"""What is sent once, and what is then sent for ever (empty: nothing more)."""


async def for_ever() -> None:
    """Say no more."""
    await asyncio.get_running_loop().create_future()


async def say(stream: Stream, said: Said) -> None:
    """Send it; ends only with the connection."""
    once, always = said
    await stream.write(once)
    while always:
        await stream.write(always)
    await for_ever()


def hello(epoch: int, **more: object) -> bytes:
    """A guest's hello, or nearly."""
    said = {"wire": wire.VERSION, "epoch": epoch, "version": "0.1.0", "boot_id": BOOT_ID, "identified": False}
    return wire.MARKER + wire.encode_json(wire.HELLO, 0, said | more, tag=epoch)


#: How a guest answers the host's hello when it does not mean well. `boot-closed` is not here: it hangs up.
GREETINGS: dict[str, Callable[[int], Said]] = {
    "boot-silent": lambda epoch: (b"", b""),
    "boot-garbage": lambda epoch: (b"", os.urandom(BIG)),
    "boot-zeros": lambda epoch: (b"", bytes(BIG)),
    "boot-oversized": lambda epoch: (wire.MARKER + b"\xff\xff\xff\xff" + bytes(4) + bytes([wire.HELLO, 0, 0, 0]), b"x" * BIG),
    "boot-half": lambda epoch: (hello(epoch)[:-20], b""),
    "boot-wrong-json": lambda epoch: (wire.MARKER + wire.encode(wire.HELLO, 0, b"[" * 60_000, tag=epoch), b""),
    "boot-wrong-epoch": lambda epoch: (hello(epoch ^ 1), b""),
    "boot-wrong-wire": lambda epoch: (hello(epoch, wire=99), b""),
    "boot-wrong-types": lambda epoch: (hello(epoch, boot_id=["x"], identified="perhaps"), b""),
    "boot-error": lambda epoch: (hello(epoch, boot_error="the disk is \x1b[31mon fire " + "x" * 50_000), b""),
}


def after(*frames: tuple[int, bytes]) -> Callable[[int, int], Said]:
    """These frames, well made, and silence."""
    return lambda epoch, number: (b"".join(wire.encode(kind, number, payload, tag=epoch) for kind, payload in frames), b"")


def flood(epoch: int, number: int) -> Said:
    """More than was granted."""
    return wire.encode(wire.OPENED, number, ACCEPTED, tag=epoch), wire.encode(wire.DATA, number, b"x" * wire.MAX_PAYLOAD, tag=epoch)


#: What comes instead of an answer to the opening of a command. `exec-half` hangs up afterwards.
BREACHES: dict[str, Callable[[int, int], Said]] = {
    "exec-garbage": lambda epoch, number: (b"", b"\xa5" * BIG),
    "exec-oversized": lambda epoch, number: (b"\x7f\xff\xff\xff" + number.to_bytes(4, "big") + bytes([wire.DATA, 0, 0, 0]), b"x" * BIG),
    "exec-half": lambda epoch, number: (wire.encode(wire.END, number, b'{"ok":{}}', tag=epoch)[:-6], b""),
    "exec-wrong-tag": lambda epoch, number: (wire.encode(wire.OPENED, number, ACCEPTED, tag=epoch ^ 1), b""),
    "exec-stranger": lambda epoch, number: (wire.encode(wire.DATA, number + 1000, b"x", tag=epoch), b""),
    "exec-flood": flood,
    "exec-twice": after((wire.OPENED, ACCEPTED), (wire.OPENED, ACCEPTED)),
    "exec-credit": after((wire.OPENED, ACCEPTED), *[(wire.CREDIT, wire.MAX_CREDIT.to_bytes(4, "big"))] * 3),
    "exec-no-json": after((wire.OPENED, ACCEPTED), (wire.END, b"\xff\xfe no json")),
    "exec-wrong-end": after((wire.OPENED, ACCEPTED), (wire.END, b'{"ok":{"exit":"zero"},"error":7}')),
    "exec-ugly": after((wire.END, b'{"error":{"code":"\\u001b[31m","message":"\\u001b]0;owned\\u0007"}}')),
}


class Hostile(_Talk):
    """The pretended guest, until a command is opened."""

    mood = ""

    async def _open(self, number: int, request: dict[str, object]) -> None:
        if request.get("op") != "exec":
            await super()._open(number, request)
        elif self.mood == "exec-half":
            await self.stream.write(BREACHES[self.mood](self.epoch, number)[0])
            self.stream.close()
        else:
            await say(self.stream, BREACHES[self.mood](self.epoch, number))


async def serve_agent(stream: Stream, mood: str, guest: FakeGuest) -> None:
    """One connection."""
    if mood == "good":
        await guest.serve(stream)
        return
    hunter, found = wire.Hunter(None), None
    while found is None:
        data = await stream.read(1 << 16)
        if not data:
            return
        found = hunter.feed(data)
    epoch = found["epoch"]
    assert isinstance(epoch, int)
    if mood == "boot-closed":
        return
    if mood in GREETINGS:
        await say(stream, GREETINGS[mood](epoch))
    await stream.write(hello(epoch, identified=guest.identified))
    talk = Hostile(guest, stream, epoch)
    talk.mood = mood
    await talk.go_on(hunter.rest)


async def console(stream: Stream) -> None:
    """A guest that prints what a terminal should not get."""
    await stream.write(b"booting \x1b]0;owned\x07 \xff\xfe\r\nlast words\r\n")
    await for_ever()


async def main() -> None:
    """Until killed, or powered off."""
    words = " ".join(sys.argv)
    guest = FakeGuest()
    guest.boot(lambda: os.kill(os.getpid(), signal.SIGTERM))
    servers = {"qmp": answer_qmp, "console": console, "agent": lambda stream: serve_agent(stream, Path(os.environ["HOSTILE_MOOD"]).read_text(), guest)}
    for name, serve in servers.items():
        found = re.search(rf"id={name},fd=(\d+)", words)
        assert found is not None

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, serve: Callable[[Stream], Awaitable[None]] = serve) -> None:
            try:
                await serve(RealStream(reader, writer))
            except Exception as error:
                print(error, file=sys.stderr)
            finally:
                writer.close()

        await asyncio.start_unix_server(accept, sock=socket.socket(fileno=int(found[1])))
    await for_ever()


if __name__ == "__main__":
    asyncio.run(main())
