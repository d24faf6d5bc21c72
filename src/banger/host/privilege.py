"""By what right the host's privileged interfaces are used: as root, through the helper, or not at all; and the giving up of what a process needs not.

Root drops here what the helper does not need (capabilities(7)): from its own sets, and from the bounding set, so that nothing it starts has it either.
"""

from __future__ import annotations

import ctypes
import os
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import msgspec

#: linux/capability.h: the number of each. What the helper keeps: networks and nftables; device-mapper and loop devices; opening the owner's private
#: files, and giving the owner what is made of them.
KEPT = {"CAP_CHOWN": 0, "CAP_DAC_OVERRIDE": 1, "CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_MKNOD": 27}
#: linux/prctl.h and linux/capability.h.
PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, CAPABILITY_VERSION_3 = 23, 24, 38, 0x20080522


class Means(StrEnum):
    """Where privilege comes from."""

    ROOT = "root"
    HELPER = "helper"


class Standing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose privilege it is: of this process, or of a helper that serves one user (`owner`, a uid) within `roots`."""

    means: Means
    pid: int
    build: str
    owner: int
    roots: tuple[str, ...] = ()


class Privilege(Protocol):
    """What doctor and status ask."""

    async def standing(self) -> Standing:
        """By what right; HostLacks when there is none."""


class Held:
    """The answer of the process that holds the privilege."""

    def __init__(self, standing: Standing) -> None:
        self.now = standing

    async def standing(self) -> Standing:
        """See Privilege."""
        return self.now


def give_up_the_rest() -> None:
    """Keep no capability but `KEPT`, for good; OSError when the kernel does not let us."""
    libc = ctypes.CDLL(None, use_errno=True)
    kept = frozenset(KEPT.values())
    for number in range(last_capability() + 1):
        if number not in kept and libc.prctl(PR_CAPBSET_READ, number, 0, 0, 0) == 1:  # systemd may have done it before us
            _checked(libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0))
    _checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    mask = sum(1 << number for number in kept)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)(mask, mask, 0, 0, 0, 0)  # effective, permitted, inheritable: the low halves, then the high ones
    _checked(libc.capset(header, sets))


def last_capability() -> int:
    """The highest number that this kernel knows."""
    return int(Path("/proc/sys/kernel/cap_last_cap").read_text())


def _checked(status: int) -> None:
    if status:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
