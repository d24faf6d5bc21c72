"""A QEMU that answers on its sockets and runs nothing: just enough of QMP, and a guest of the test's choice behind the agent's socket."""

from __future__ import annotations

import json

from banger.host.stream import Stream
from banger.testing.guest import FakeGuest
from banger.testing.proc import FakeProcess

GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}}, "capabilities": []}}


async def answer_qmp(stream: Stream) -> None:
    """One QMP conversation: an event here and there, `query-status`, and an error for all else."""
    await _send(stream, GREETING)
    rest = b""
    while data := await stream.read(1 << 16):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            command = json.loads(line)["execute"]
            if command in ("qmp_capabilities", "query-status"):
                await _send(stream, {"event": "NOTHING", "timestamp": {}})
                await _send(stream, {"return": {"status": "running"} if command == "query-status" else {}})
            else:
                await _send(stream, {"error": {"class": "CommandNotFound", "desc": f"The command {command} has not been found"}})


async def _send(stream: Stream, message: object) -> None:
    await stream.write(json.dumps(message).encode() + b"\r\n")


class FakeQemu:
    """The program: each process it becomes gets the guest that `guests` has for its machine, or a good one. With `fails` it ends at once, saying so."""

    def __init__(self) -> None:
        self.guests: dict[str, FakeGuest] = {}
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
        process.serve = {"qmp.sock": answer_qmp, "agent.sock": guest.serve}
