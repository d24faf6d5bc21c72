"""Stands beside the lab machine's QEMU as long as that lives, and gives a processor back its interrupts when QEMU has lost them. It does nothing else.

QEMU 7.2's emulation of AMD-V now and then leaves a processor of the lab with GIF, the global interrupt flag, clear, though KVM sets it (STGI) whenever
it is back from a guest. Such a processor takes no interrupt any more: it halts when it has nothing else to do, and the lab stands still for good. Seen
by `info registers` (halted, IF set), `info lapic` (requests that nobody takes) and in QEMU's memory (`hflags2`, which has GIF); the cause in
QEMU was not found. Once GIF is set again the lab goes on as if nothing had been.

A processor that halts with GIF clear, and does so still at the next look, is one of those; its state is found in QEMU's memory by its registers.
"""

from __future__ import annotations

import json
import os
import re
import select
import socket
import struct
import sys
from pathlib import Path
from typing import BinaryIO

#: Seconds between two looks.
POLL = 1.0
#: As QEMU 7.2 keeps them (target/i386/cpu.h, CPUArchState): sixteen registers and rip, then flags.
ORDER = (*("RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI"), *(f"R{number}" for number in range(8, 16)), "RIP")
HFLAGS2 = len(ORDER) * 8 + 4 * 8 + 3 * 4
REGISTER = re.compile(r"\b(R(?:[A-D]X|[SD]I|[SB]P|IP|FL|\d+)) *=([0-9a-f]+)")
INTERRUPTS, GIF = 0x200, 1


class Monitor:
    """QEMU's monitor, for as long as the block lasts; it talks to one at a time."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(path)
        self.file = self.socket.makefile("rwb")
        self.file.readline()
        self.ask("qmp_capabilities")

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.socket.close()

    def ask(self, command: str, **arguments: object) -> object:
        """What it answers to a command; events are passed over."""
        self.file.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        self.file.flush()
        while line := self.file.readline():
            answer: dict[str, object] = json.loads(line)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise OSError(f"{command}: {answer['error']}")
        raise OSError("QEMU has gone")

    def halted(self) -> list[bytes]:
        """The registers of each processor that waits for an interrupt, as they lie in QEMU's memory."""
        return halted(str(self.ask("human-monitor-command", **{"command-line": "info registers -a"})))


def halted(text: str) -> list[bytes]:
    """See Monitor.halted."""
    found = []
    for part in text.split("CPU#")[1:]:
        values = {name: int(value, 16) for name, value in REGISTER.findall(part)}
        if " HLT=1" in part and values.get("RFL", 0) & INTERRUPTS:  # before it is in long mode it has another name
            found.append(struct.pack(f"<{len(ORDER)}Q", *(values[name] for name in ORDER)))
    return found


def turned(pid: int, registers: bytes, *, on: bool, change: bool = True) -> bool:
    """Whether GIF of the processor with these registers is not as it should be; it is then, unless nothing is to be changed."""
    regions = (line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines())
    start, end = next([int(bound, 16) for bound in words[0].split("-")] for words in regions if words[-1] == "[heap]")
    with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
        at = find(memory, start, end, registers)
        if at is None:
            return False
        memory.seek(at + HFLAGS2)
        flags = int.from_bytes(memory.read(4), "little")
        if bool(flags & GIF) == on:
            return False
        if change:
            memory.seek(at + HFLAGS2)
            memory.write((flags ^ GIF).to_bytes(4, "little"))
    return True


def find(memory: BinaryIO, start: int, end: int, what: bytes) -> int | None:
    """Where in that part of a memory these bytes are."""
    memory.seek(start)
    data = memory.read(end - start)
    at = data.find(what)
    return start + at if at >= 0 else None


def deaf(pid: int, monitor: str) -> set[bytes]:
    """The registers of each processor that waits for an interrupt with GIF clear. One look may err: a processor may wake while it is looked at."""
    with Monitor(monitor) as qemu:
        return {registers for registers in qemu.halted() if turned(pid, registers, on=True, change=False)}


def watch(pid: int, monitor: str) -> None:
    """Until that QEMU has ended; what is mended, and what cannot be looked at, is said on stderr, which is a file."""
    handle, before = os.pidfd_open(pid), set[bytes]()
    while not select.select([handle], [], [], POLL)[0]:
        try:
            now = deaf(pid, monitor)
        except (OSError, ValueError, StopIteration) as error:  # it is just beginning, or just ending and cut short; or we may not
            print(f"QEMU {pid} was not looked at: {error!r}", file=sys.stderr, flush=True)
            continue
        for registers in now & before:
            if turned(pid, registers, on=True):
                print(f"QEMU {pid} had lost GIF of a processor", file=sys.stderr, flush=True)
        before = now


if __name__ == "__main__":
    watch(int(sys.argv[1]), sys.argv[2])
