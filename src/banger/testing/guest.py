"""A guest's agent in Python: speaks the wire, does nothing real, and misbehaves when told to."""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import StrEnum

from banger import wire
from banger.host.stream import Stream


class Mood(StrEnum):
    """How it behaves: the last three say a proper hello and break the first conversation about a request."""

    GOOD = "good"
    SILENT = "silent"
    GARBAGE = "garbage"
    OVERSIZED = "oversized"
    HALF = "half"
    MUTE = "mute"


class FakeGuest:
    """One guest. `commands` maps an argv to what it prints and its exit status; other commands are not found. `requests` are all it was asked."""

    def __init__(self, mood: Mood = Mood.GOOD) -> None:
        self.mood = mood
        self.boots = 0
        self.identified, self.booted = False, True
        self.boot_error = ""
        #: How the command of its image ends: at once, or once it is signalled.
        self.command_ends: dict[str, object] | None = None
        self.command_signalled: dict[str, object] | None = {"ok": {"signal": "TERM"}}
        self.command_runs = False
        #: What it says that its host keys are; None: there is no ssh server.
        self.host_keys: list[object] | None = None
        self.commands: dict[tuple[str, ...], tuple[bytes, int]] = {("true",): (b"", 0), ("uname", "-r"): (b"6.1.0\n", 0)}
        self.requests: list[dict[str, object]] = []
        #: What was sent to be unpacked, by request, and what its root is as a tar.
        self.unpacked: list[tuple[dict[str, object], bytes]] = []
        self.packed = b"a tar"
        self.poweroff_works = True
        self.power_off: Callable[[], None] = lambda: None

    def boot(self, power_off: Callable[[], None]) -> None:
        """Start anew; `power_off` ends the machine."""
        self.boots += 1
        self.identified, self.power_off, self.command_runs = False, power_off, False

    @property
    def boot_id(self) -> str:
        """Another one at each boot."""
        return f"00000000-0000-4000-8000-{self.boots:012d}"

    async def serve(self, stream: Stream) -> None:
        """One connection."""
        hunter = wire.Hunter(None)
        hello = None
        while hello is None:
            data = await stream.read(1 << 16)
            if not data:
                return
            hello = hunter.feed(data)
        epoch = hello["epoch"]
        assert isinstance(epoch, int)
        if self.mood is Mood.GARBAGE:
            await stream.write(b"\xff" * (wire.MAX_HUNT + 1))
        if self.mood not in (Mood.GARBAGE, Mood.SILENT):
            await self._greet(stream, epoch)
        await _Talk(self, stream, epoch).go_on(hunter.rest)

    async def _greet(self, stream: Stream, epoch: int) -> None:
        hello = {"wire": wire.VERSION, "epoch": epoch, "version": "0.1.0", "boot_id": self.boot_id, "identified": self.identified}
        hello |= {"longest_request": wire.MAX_REQUEST}
        if self.boot_error:
            hello["boot_error"] = self.boot_error
        await stream.write(wire.MARKER + wire.encode_json(wire.HELLO, 0, hello, tag=epoch))


class _Talk:
    """What follows the hellos."""

    def __init__(self, guest: FakeGuest, stream: Stream, epoch: int) -> None:
        self.guest, self.stream, self.epoch = guest, stream, epoch
        #: Commands that wait for the host's first credit before they print.
        self.running: dict[int, tuple[bytes, int]] = {}
        #: Tars on their way in.
        self.coming: dict[int, tuple[dict[str, object], bytearray]] = {}
        self.parts = b""
        #: The streams that ask how it is with the image's command.
        self.commands: set[int] = set()

    async def go_on(self, data: bytes) -> None:
        decoder = wire.Decoder(self.epoch)
        while True:
            for frame in decoder.feed(data):
                await self._take(frame)
            data = await self.stream.read(1 << 16)
            if not data:
                return

    async def _send(self, kind: int, number: int, payload: bytes = b"") -> None:
        await self.stream.write(wire.encode(kind, number, payload, tag=self.epoch))

    async def _end(self, number: int, result: object) -> None:
        await self._send(wire.END, number, json.dumps(result).encode())

    async def _take(self, frame: wire.Frame) -> None:
        kind, number, payload = frame
        if kind == wire.PART:
            self.parts += payload
        elif kind == wire.OPEN:
            request, self.parts = wire.decode_json(self.parts + payload), b""
            self.guest.requests.append(request)
            await self._open(number, request)
        elif kind in (wire.DATA, wire.EOF) and number in self.coming:
            await self._unpack(kind, number, payload)
        elif kind == wire.CONTROL and number in self.commands:
            self.guest.requests.append({"op": "signal", **wire.decode_json(payload)})
            if self.guest.command_signalled is not None:
                await self._end(number, self.guest.command_signalled)
        elif kind == wire.CREDIT and number in self.running:
            printed, status = self.running.pop(number)
            if printed:
                await self._send(wire.DATA, number, printed)
            await self._send(wire.EOF, number)
            await self._end(number, {"ok": {"exit": status}})

    async def _open(self, number: int, request: dict[str, object]) -> None:
        if self.guest.mood is Mood.OVERSIZED:
            await self.stream.write((wire.MAX_PAYLOAD + 1).to_bytes(4, "big") + number.to_bytes(4, "big") + bytes([wire.END, 0, 0, 0]))
        elif self.guest.mood is Mood.HALF:
            await self.stream.write(wire.encode(wire.END, number, b'{"ok":{}}', tag=self.epoch)[:-6])
            self.stream.close()
        elif self.guest.mood is not Mood.MUTE:
            await self._answer(number, request)

    async def _answer(self, number: int, request: dict[str, object]) -> None:
        op = request.get("op")
        if op == "exec":
            await self._exec(number, request)
        elif op in ("pack", "unpack"):
            await self._carry(number, request)
        elif op == "identity":
            self.guest.identified = True
            init = request.get("init")
            self.guest.command_runs = isinstance(init, dict) and bool(init.get("command"))
            await self._end(number, {"ok": {"host_keys": self.guest.host_keys or []}})
        elif op == "command":
            await self._command(number)
        elif op in ("ssh-keys", "ssh"):
            await self._ssh(number, keys=op == "ssh-keys")
        elif op == "info":
            info = {"boot_id": self.guest.boot_id, "uptime_ms": 1, "kernel": "6.1.0", "init": "agent", "booted": self.guest.booted}
            await self._end(number, {"ok": info})
        elif op in ("ping", "sync", "quiet", "poweroff"):
            await self._end(number, {"ok": {}})
            if op == "poweroff" and self.guest.poweroff_works:
                self.guest.power_off()
        else:
            await self._end(number, {"error": {"code": "unknown-op", "message": f"no operation {op}"}})

    async def _ssh(self, number: int, *, keys: bool) -> None:
        if self.guest.host_keys is None:
            await self._end(number, {"error": {"code": "no-command", "message": "the image has no ssh server"}})
        elif keys:
            await self._end(number, {"ok": {"host_keys": self.guest.host_keys}})
        else:
            await self._send(wire.OPENED, number, b"{}")

    async def _command(self, number: int) -> None:
        if not self.guest.command_runs:
            await self._end(number, {"error": {"code": "not-found", "message": "nothing was to be run"}})
            return
        self.commands.add(number)
        if "error" not in (self.guest.command_ends or {}):
            await self._send(wire.OPENED, number, b'{"pid":7}')
            await self._send(wire.CREDIT, number, wire.WINDOW.to_bytes(4, "big"))
        if self.guest.command_ends is not None:
            await self._end(number, self.guest.command_ends)

    async def _exec(self, number: int, request: dict[str, object]) -> None:
        argv = request.get("argv")
        known = self.guest.commands.get(tuple(argv)) if isinstance(argv, list) else None
        if known is None:
            await self._end(number, {"error": {"code": "no-command", "message": f"no command {argv}"}})
            return
        self.running[number] = known
        await self._begin(number)

    async def _carry(self, number: int, request: dict[str, object]) -> None:
        if request["op"] == "pack":
            self.running[number] = (self.guest.packed, 0)
        else:
            self.coming[number] = (request, bytearray())
        await self._begin(number)

    async def _begin(self, number: int) -> None:
        await self._send(wire.OPENED, number, b'{"pid":1}')
        await self._send(wire.CREDIT, number, wire.WINDOW.to_bytes(4, "big"))

    async def _unpack(self, kind: int, number: int, payload: bytes) -> None:
        request, data = self.coming[number]
        data += payload
        if kind == wire.DATA:
            await self._send(wire.CREDIT, number, len(payload).to_bytes(4, "big"))
            return
        del self.coming[number]
        self.guest.unpacked.append((request, bytes(data)))
        await self._end(number, {"ok": {"entries": 1}})
