#!/usr/bin/env python3
"""Stands before QEMU on the lab machine's PATH: gives it processors with (emulated) AMD-V, and the payload as one more disk. Then it is QEMU."""

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
    words[at] += " mitigations=off isolcpus=0"  # see laboratory.PROCESSORS
    words[at] += " watchdog_thresh=30 softlockup_panic=1"  # a lab that hangs ends, and says why on its console
    drive = f"if=none,id=payload,file={payload},format=raw,readonly=on"
    return [*words, "-drive", drive, "-device", "virtio-blk-device,drive=payload,serial=payload"]


if __name__ == "__main__":
    os.execv(real(os.environ["PATH"]), [BINARY, *changed(sys.argv[1:], os.environ["LAB_PAYLOAD"])])
