"""A VMM's end of a TAP, for a test that has no VMM: `cable.py NAME` moves frames between it and its standard streams, each after its length.

It opens the TAP as a VMM does, by its name in the network namespace it runs in, without a privilege, and ends when its input does.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import sys

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
RTMGRP_LINK, RTM_NEWLINK, IFF_RUNNING, IFF_LOWER_UP = 1, 16, 0x40, 0x10000
UP = IFF_RUNNING | IFF_LOWER_UP
LENGTH = struct.Struct(">I")


def plug(name: str) -> int:
    """Open the TAP and wait until the kernel has noticed: what is sent to a TAP before that is lost, and a card in a guest takes longer to begin."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as events:
        events.bind((0, RTMGRP_LINK))
        tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
        while not runs(events.recv(1 << 16)):
            pass
    return tap


def runs(event: bytes) -> bool:
    """Whether it says that a link has come up (rtnetlink(7)); there is but one in this namespace that can.

    A link whose operational state is not known yet counts as running (RFC 2863, netif_oper_up), cable or not; so the carrier has to be there too.
    """
    (kind,), (flags,) = struct.unpack_from("=H", event, 4), struct.unpack_from("=I", event, 24)
    return kind == RTM_NEWLINK and flags & UP == UP


def main(name: str) -> None:
    """Until the input ends."""
    tap = plug(name)
    rest = b""
    while True:
        ready, _, _ = select.select([0, tap], [], [])
        if tap in ready:
            frame = os.read(tap, 1 << 16)
            os.write(1, LENGTH.pack(len(frame)) + frame)
        if 0 in ready:
            data = os.read(0, 1 << 16)
            if not data:
                return
            rest += data
            while len(rest) >= 4 and len(rest) >= 4 + LENGTH.unpack_from(rest)[0]:
                size = LENGTH.unpack_from(rest)[0]
                os.write(tap, rest[4 : 4 + size])
                rest = rest[4 + size :]


if __name__ == "__main__":
    main(sys.argv[1])
