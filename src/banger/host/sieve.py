"""A sieve between a machine's network card and passt: what is addressed to the host's loopback does not get through.

passt connects on the guest's behalf to whatever address the guest names. Its `--no-map-gw` takes away only the gateway as a name for the host;
a guest that puts 127.0.0.1 (or 0.0.0.0) on the wire still gets there with the passt of Debian 12. So each frame passes here: ARP and IPv4 only, and
no IPv4 to 0/8 or 127/8.

Runs as a process of its own, by file name and without site packages, hence the standard library only: `sieve.py SOCKET -- passt …`. It starts passt on
one end of a socket pair, serves SOCKET to the one VMM that will connect, goes to the background once passt is ready, and prints its pid. It ends, and
passt with it, when the VMM or passt has ended.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence

LENGTH = struct.Struct(">I")
HEADER = 14
ARP, IPV4 = b"\x08\x06", b"\x08\x00"
#: An Ethernet header and the largest IP packet; QEMU sends no longer frame.
LARGEST = HEADER + 65_535
CHUNK = 1 << 18


class Broken(Exception):
    """The stream is not made of frames."""


def allowed(data: bytes, at: int, size: int) -> bool:
    """Whether the frame of `size` bytes at `at` may pass."""
    kind = data[at + 12 : at + HEADER]
    if kind == IPV4:
        return size >= HEADER + 20 and data[at + HEADER + 16] not in (0, 127)
    return kind == ARP and size >= HEADER


def sift(data: bytes) -> tuple[bytes, bytes]:
    """The frames in `data` (each after its length, four bytes) that may pass, and the unfinished rest."""
    kept: list[bytes] = []
    start = at = 0
    while at + 4 <= len(data):
        (size,) = LENGTH.unpack_from(data, at)
        if size > LARGEST:
            raise Broken(f"a frame of {size} bytes")
        if at + 4 + size > len(data):
            break
        if not allowed(data, at + 4, size):
            kept.append(data[start:at])
            start = at + 4 + size
        at += 4 + size
    kept.append(data[start:at])
    return b"".join(kept), data[at:]


def pump(guest: socket.socket, passt: socket.socket, *, open_: bool) -> None:
    """Move frames until either side ends. A side is read only when the other has taken all that came before, so nothing piles up."""
    waiting = {guest: b"", passt: b""}
    rest = b""
    poll = select.poll()
    while True:
        for side, other in ((guest, passt), (passt, guest)):
            poll.register(side, (0 if waiting[other] else select.POLLIN) | (select.POLLOUT if waiting[side] else 0))
        ready = dict(poll.poll())
        for side, other in ((guest, passt), (passt, guest)):
            happened = ready.get(side.fileno(), 0)
            if happened & select.POLLOUT:
                waiting[side] = waiting[side][side.send(waiting[side]) :]
            if happened & select.POLLIN and not waiting[other]:
                data = side.recv(CHUNK)
                if not data:
                    return
                if side is guest and not open_:
                    data, rest = sift(rest + data)
                waiting[other] = data
            elif happened & (select.POLLHUP | select.POLLERR) and not happened & select.POLLIN:
                return


def accept(listener: socket.socket, passt: socket.socket) -> socket.socket | None:
    """The VMM's connection; None when passt ends first."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(passt, 0)
    ready = dict(poll.poll())
    return None if passt.fileno() in ready else listener.accept()[0]


def serve(listener: socket.socket, passt: socket.socket, *, open_: bool) -> None:
    """The process's life after it has gone to the background."""
    guest = accept(listener, passt)
    listener.close()
    if guest is None:
        return
    guest.setblocking(False)
    passt.setblocking(False)
    try:
        pump(guest, passt, open_=open_)
    except (ConnectionError, Broken):
        return  # to the guest it is a cable pulled; nobody else listens


def background() -> bool:
    """True in the process that stays; the other one has printed its pid and is to leave. Standard streams lead nowhere from then on."""
    pid = os.fork()
    if pid:
        print(pid, flush=True)
        return False
    os.setsid()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    os.close(nowhere)
    return True


def main(arguments: Sequence[str]) -> int:
    """`[--open] SOCKET -- COMMAND …`; the command gets `--fd NUMBER` appended and must return once it serves that descriptor."""
    open_ = arguments[0] == "--open"
    path, mark, *command = arguments[open_:]
    assert mark == "--"
    os.umask(0o077)
    ours, its = socket.socketpair()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(1)
    status = subprocess.run([*command, "--fd", str(its.fileno())], pass_fds=[its.fileno()], check=False).returncode
    its.close()
    if status:
        return 1
    if background():
        serve(listener, ours, open_=open_)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
