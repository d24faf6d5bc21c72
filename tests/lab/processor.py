#!/usr/bin/env python3
"""Stands before QEMU on the lab machine's PATH: gives it a processor with (emulated) AMD-V, and the payload as one more disk. Then it is QEMU.

Beside it stands what mends that processor (mender.py); it belongs to nobody, and ends with QEMU.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

BINARY = "qemu-system-x86_64"


def real(path: str) -> str:
    """The QEMU that this stands before."""
    here = Path(__file__).resolve()
    found = (Path(folder) / BINARY for folder in path.split(os.pathsep))
    return str(next(place for place in found if place.exists() and place.resolve() != here))


def changed(words: list[str], payload: str) -> list[str]:
    """The lab machine's command line."""
    words = ["EPYC" if word == "Nehalem" else word for word in words]
    at = words.index("-append") + 1
    words[at] += " mitigations=off watchdog_thresh=30 softlockup_panic=1"  # a lab that hangs ends, and says why on its console
    drive = f"if=none,id=payload,file={payload},format=raw,readonly=on"
    return [*words, "-drive", drive, "-device", "virtio-blk-device,drive=payload,serial=payload"]


def attend(mender: str, book: str) -> None:
    """Start the mender, for the QEMU that this process becomes; banger starts that where its sockets are."""
    pid, monitor = os.getpid(), str(Path.cwd() / "qmp.sock")
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    os.setsid()
    if os.fork() == 0:
        nothing = os.open(os.devnull, os.O_RDWR)
        written = os.open(book, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        for stream, place in enumerate((nothing, written, written)):
            os.dup2(place, stream)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        os.execv(sys.executable, [sys.executable, "-I", "-S", mender, str(pid), monitor])
    os._exit(0)


if __name__ == "__main__":
    attend(os.environ["LAB_MENDER"], os.environ["LAB_MENDED"])
    os.execv(real(os.environ["PATH"]), [BINARY, *changed(sys.argv[1:], os.environ["LAB_PAYLOAD"])])
