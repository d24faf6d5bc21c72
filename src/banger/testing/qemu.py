"""A QEMU that answers on its sockets and runs nothing: just enough of QMP, and a guest of the test's choice behind the agent's socket."""

from __future__ import annotations

import json

from banger.host.stream import Stream
from banger.testing.guest import FakeGuest
from banger.testing.proc import FakeProcess

GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}}, "capabilities": []}}


async def answer_qmp(stream: Stream) -> None:
    """One QMP conversation with a QEMU that runs."""
    await converse(stream, Halt())


class Halt:
    """Whether the guest is halted for want of room; who follows is told when that changes."""

    def __init__(self) -> None:
        self.halted = False
        self.followers: list[Stream] = []

    async def set(self, halted: bool) -> None:
        """Halt it, or let it go on."""
        self.halted = halted
        for stream in self.followers:
            await _send(stream, {"event": "STOP" if halted else "RESUME", "timestamp": {}})


async def converse(stream: Stream, halt: Halt) -> None:
    """One QMP conversation: an event here and there, `query-status`, `cont`, and an error for all else."""
    halt.followers.append(stream)
    try:
        await _answer(stream, halt)
    finally:
        halt.followers.remove(stream)


async def _answer(stream: Stream, halt: Halt) -> None:
    await _send(stream, GREETING)
    rest = b""
    while data := await stream.read(1 << 16):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            command = json.loads(line)["execute"]
            if command == "cont":
                await halt.set(False)
            if command in ("qmp_capabilities", "query-status", "cont"):
                await _send(stream, {"event": "NOTHING", "timestamp": {}})
                status = {"status": "io-error" if halt.halted else "running"}
                await _send(stream, {"return": status if command == "query-status" else {}})
            else:
                await _send(stream, {"error": {"class": "CommandNotFound", "desc": f"The command {command} has not been found"}})


async def _send(stream: Stream, message: object) -> None:
    await stream.write(json.dumps(message).encode() + b"\r\n")


class FakeQemu:
    """The program: each process it becomes gets the guest that `guests` has for its machine, or a good one. With `fails` it ends at once, saying so."""

    def __init__(self) -> None:
        self.guests: dict[str, FakeGuest] = {}
        self.halts: dict[str, Halt] = {}
        self.fails = ""

    def guest(self, vm: str) -> FakeGuest:
        """The guest of a machine, present or future."""
        return self.guests.setdefault(vm, FakeGuest())

    def __call__(self, process: FakeProcess) -> None:
        """A process has started."""
        if self.fails:
            process.output = self.fails.encode() + b"\n"
            process.end()
            return
        guest = self.guest(process.cwd.name)
        guest.boot(process.end)
        halt = self.halts.setdefault(process.cwd.name, Halt())

        async def answer(stream: Stream) -> None:
            await converse(stream, halt)

        process.serve = {"qmp.sock": answer, "events.sock": answer, "agent.sock": guest.serve}
