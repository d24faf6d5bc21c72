"""A network namespace of a test's own, which the whole test process enters and leaves again. Needs root."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

NEW_NETWORK = 0x40000000
HERE = "/proc/thread-self/ns/net"


@contextmanager
def private_network() -> Iterator[None]:
    """In between, there is nothing but a loopback; what is made goes with the namespace."""
    with _returning() as library:
        if library.unshare(NEW_NETWORK) != 0:
            raise OSError(ctypes.get_errno(), "no network namespace can be made")
        yield


@contextmanager
def network_of(file: BinaryIO) -> Iterator[None]:
    """In between, the namespace whose file (`HERE`, opened in it) this is."""
    with _returning() as library:
        if library.setns(file.fileno(), NEW_NETWORK) != 0:
            raise OSError(ctypes.get_errno(), "the network namespace cannot be entered")
        yield


@contextmanager
def _returning() -> Iterator[ctypes.CDLL]:
    library = ctypes.CDLL(None, use_errno=True)
    with open(HERE, "rb") as former:
        try:
            yield library
        finally:
            library.setns(former.fileno(), NEW_NETWORK)


def missing() -> str:
    """Why there can be none here, or nothing."""
    if os.geteuid() != 0:
        return "root is needed for network namespaces of one's own"
    return "" if Path("/dev/net/tun").exists() else "/dev/net/tun"
