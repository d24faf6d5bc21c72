"""A VMM's end of a TAP, for a test that has no VMM: `cable.py NAME` moves frames between it and its standard streams, each after its length.

It opens the TAP as a VMM does, by its name in the network namespace it runs in, without a privilege, and ends when its input does.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import sys

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
LENGTH = struct.Struct(">I")


def main(name: str) -> None:
    """Until the input ends."""
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
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
