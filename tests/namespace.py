"""A network namespace of a test's own, which the whole test process enters and leaves again. Needs root."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NEW_NETWORK = 0x40000000


@contextmanager
def private_network() -> Iterator[None]:
    """In between, there is nothing but a loopback; what is made goes with the namespace."""
    library = ctypes.CDLL(None, use_errno=True)
    former = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if library.unshare(NEW_NETWORK) != 0:
            raise OSError(ctypes.get_errno(), "no network namespace can be made")
        yield
    finally:
        library.setns(former, NEW_NETWORK)
        os.close(former)


def missing() -> str:
    """Why there can be none here, or nothing."""
    if os.geteuid() != 0:
        return "root is needed for network namespaces of one's own"
    return "" if Path("/dev/net/tun").exists() else "/dev/net/tun"
