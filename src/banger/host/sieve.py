"""A sieve between a machine's network card and passt: what is addressed to the host's loopback does not get through.

passt connects on the guest's behalf to whatever address the guest names. Its `--no-map-gw` takes away only the gateway as a name for the host;
a guest that puts 127.0.0.1 (or 0.0.0.0) on the wire still gets there with the passt of Debian 12. So each frame passes here: ARP and IPv4 only, and
no IPv4 to 0/8 or 127/8.

Runs as a process of its own, by file name and without site packages, hence the standard library only: `sieve.py [--open] END -- passt …`. It starts
passt on one end of a socket pair, makes the guest's end, goes to the background, and prints its pid. There are two kinds of end. `SOCKET`: a listening
socket of that name, for the one VMM that will connect. `--tap NAME ID`: a TAP of that name in a user and a network namespace of our own, which the
VMM enters; the frames are taken from the TAP's other side, and nothing else is in that namespace. ID is not looked at: it is there to be found by.
It ends, and passt with it, when the VMM or passt has ended. The TAP goes with the namespace, which goes with the last of us and the VMM.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
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
#: An Ethernet header and the largest IP packet; no VMM sends a longer frame.
LARGEST = HEADER + 65_535
CHUNK = 1 << 18
#: How the line begins that says why there is no TAP.
NO_TAP = "a TAP in a namespace cannot be made:"
#: How many frames are moved before the other side has its turn.
BATCH = 64

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
TUN, TUNSETIFF, TUNSETPERSIST, IFF_TAP, IFF_NO_PI = "/dev/net/tun", 0x400454CA, 0x400454CB, 0x0002, 0x1000
ETH_P_ALL, SOL_PACKET, PACKET_IGNORE_OUTGOING = 3, 263, 23
RTMGRP_LINK, RTM_NEWLINK, RTM_SETLINK, REQUEST, IFLA_MTU, IFLA_TXQLEN = 1, 16, 19, 5, 4, 13
IFF_UP, IFF_LOWER_UP = 0x1, 0x10000
#: netlink(7) and rtnetlink(7): length, type, flags, sequence, port; family, type, index, flags, change.
MESSAGE, LINK, VALUE = struct.Struct("=IHHII"), struct.Struct("=BxHiII"), struct.Struct("=HHI")
#: A TAP's largest, since passt may send a datagram as one frame; and as many frames as a TCP window of the guest's may hold.
TAP_MTU, TAP_QUEUE, RECEIVE_BUFFER = 65_535 - HEADER, 5_000, 4 << 20


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
    """The process's life after it has gone to the background, with a socket for the VMM."""
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


# --- a TAP in a namespace


def seclude() -> None:
    """Enter a user and a network namespace of our own. We are user 1 there, not root, so a VMM that enters has no capability once it is executed."""
    user, group = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "a user namespace")
    for name, text in (("setgroups", "deny"), ("uid_map", f"1 {user} 1"), ("gid_map", f"1 {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def make_tap(name: str) -> None:
    """A TAP that stays when nobody has it open, up, and with no address: the kernel itself has nothing to say in this namespace."""
    with contextlib.suppress(OSError), open("/proc/sys/net/ipv6/conf/default/disable_ipv6", "w") as file:
        file.write("1")
    with open(TUN, "r+b", buffering=0) as device:
        fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
        fcntl.ioctl(device, TUNSETPERSIST, 1)
    link = LINK.pack(0, 0, socket.if_nametoindex(name), IFF_UP, IFF_UP)
    link += VALUE.pack(VALUE.size, IFLA_MTU, TAP_MTU) + VALUE.pack(VALUE.size, IFLA_TXQLEN, TAP_QUEUE)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        netlink.send(MESSAGE.pack(MESSAGE.size + len(link), RTM_SETLINK, REQUEST, 1, 0) + link)
        answer = netlink.recv(CHUNK)
    number = -int(struct.unpack_from("=i", answer, MESSAGE.size)[0])
    if number:
        raise OSError(number, os.strerror(number), name)


def wiretap(name: str) -> socket.socket:
    """The other side of the TAP: what the guest sends is read here, what is written here the guest receives."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    made.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    made.bind((name, ETH_P_ALL))
    made.setblocking(False)
    return made


def link_events() -> socket.socket:
    """Hears when a VMM opens or closes the TAP, which is plugging and unplugging a cable."""
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    made.bind((0, RTMGRP_LINK))
    made.setblocking(False)
    return made


def plugged(events: bytes, before: bool) -> bool:
    """Whether the cable is in after these messages; the namespace has no link of interest but the TAP, and lo never goes up."""
    at = 0
    while at + MESSAGE.size <= len(events):
        size, kind, *_ = MESSAGE.unpack_from(events, at)
        if kind == RTM_NEWLINK and MESSAGE.size + LINK.size <= size <= len(events) - at:
            before = bool(LINK.unpack_from(events, at + MESSAGE.size)[3] & IFF_LOWER_UP)
        at += max(MESSAGE.size, (size + 3) & ~3)
    return before


def taken(card: socket.socket, *, open_: bool) -> bytes:
    """Frames that the guest has sent and that may pass, each after its length."""
    kept: list[bytes] = []
    for _ in range(BATCH):
        try:
            frame = card.recv(LARGEST)
        except OSError:  # there is no more, or the link is down for a moment
            break
        if open_ or allowed(frame, 0, len(frame)):
            kept += (LENGTH.pack(len(frame)), frame)
    return b"".join(kept)


def handed(card: socket.socket, data: bytes) -> bytes:
    """Send the guest each whole frame in `data`; the rest. What it cannot take is lost, as on any wire."""
    at = 0
    while at + 4 <= len(data):
        (size,) = LENGTH.unpack_from(data, at)
        if at + 4 + size > len(data):
            break
        with contextlib.suppress(OSError):
            card.send(data[at + 4 : at + 4 + size])
        at += 4 + size
    return data[at:]


def bridge(card: socket.socket, events: socket.socket, passt: socket.socket, *, open_: bool) -> None:
    """The process's life after it has gone to the background, with a TAP: move frames until the VMM closes it or passt ends."""
    waiting = rest = b""
    cable = False
    poll = select.poll()
    poll.register(events, select.POLLIN)
    while True:
        poll.register(card, 0 if waiting else select.POLLIN)
        poll.register(passt, select.POLLIN | (select.POLLOUT if waiting else 0))
        ready = dict(poll.poll())
        if events.fileno() in ready:
            before, cable = cable, plugged(events.recv(CHUNK), cable)
            if before and not cable:
                return
        if ready.get(passt.fileno(), 0) & select.POLLOUT:
            waiting = waiting[passt.send(waiting) :]
        if card.fileno() in ready and not waiting:
            waiting = taken(card, open_=open_)
        if ready.get(passt.fileno(), 0) & ~select.POLLOUT:
            data = passt.recv(CHUNK)
            if not data:
                return
            rest = handed(card, rest + data)


# --- the process


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


def start(command: Sequence[str]) -> socket.socket | None:
    """Our end of a socket whose other end passt serves; None when it failed. It must return from the command once it serves."""
    ours, its = socket.socketpair()
    status = subprocess.run([*command, "--fd", str(its.fileno())], pass_fds=[its.fileno()], check=False).returncode
    its.close()
    return None if status else ours


def with_socket(path: str, command: Sequence[str], *, open_: bool) -> int:
    """Listen, start passt, serve."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(1)
    passt = start(command)
    if passt is None:
        return 1
    if background():
        serve(listener, passt, open_=open_)
    return 0


def with_tap(name: str, command: Sequence[str], *, open_: bool) -> int:
    """Start passt out here, go into the namespaces, and serve."""
    passt = start(command)
    if passt is None:
        return 1
    try:
        seclude()
        make_tap(name)
        card, events = wiretap(name), link_events()
    except OSError as error:
        print(NO_TAP, error.strerror, *((f"({error.filename})",) if error.filename else ()), file=sys.stderr)
        return 1
    if background():
        passt.setblocking(False)
        with contextlib.suppress(ConnectionError):
            bridge(card, events, passt, open_=open_)
    return 0


def main(arguments: Sequence[str]) -> int:
    """`[--open] (SOCKET | --tap NAME ID) -- COMMAND …`; the command gets `--fd NUMBER` appended and must return once it serves that descriptor."""
    open_ = arguments[0] == "--open"
    mark = arguments.index("--")
    words, command = arguments[open_:mark], arguments[mark + 1 :]
    os.umask(0o077)
    if words[0] == "--tap":
        return with_tap(words[1], command, open_=open_)
    return with_socket(words[0], command, open_=open_)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
