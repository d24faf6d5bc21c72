"""What a kernel's file says of itself: which machine it is for, its release, how it can be started, and its configuration if that is in it.

The file is hostile: every offset is held against its length, and what is unpacked of it is bounded. It is mapped, not read, since it may be large.
"""

from __future__ import annotations

import mmap
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from banger.model.errors import Corrupt

ELF, ARM64 = b"\x7fELF", b"ARMd"
#: ELF64: e_machine, and uname's words for them.
MACHINES = {62: "x86_64", 183: "aarch64"}
LOAD, NOTE = 1, 4
#: The note by which a kernel says where it may be entered by whoever has no boot loader (xen/include/public/elfnote.h: PHYS32_ENTRY).
PHYS32_ENTRY, XEN = 18, b"Xen\0"
#: A configuration is some 150 KiB of text, gzipped between two words (the kernel's kernel/configs.c).
LARGEST_CONFIG, CONFIG_BEGIN, CONFIG_END = 4 << 20, b"IKCFG_ST", b"IKCFG_ED"
BANNER = re.compile(rb"Linux version ([0-9][!-~]{0,127}) ")
LARGEST_NOTES = 1 << 20


class KernelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """`architecture` as uname has it; `release` is empty when it is not found; `pvh`: None where that means nothing; `config`: empty if not in it."""

    architecture: str
    release: str
    pvh: bool | None
    config: str


def kernel_facts(path: Path) -> KernelFacts:
    """Look at an unpacked kernel; Corrupt when it is none, or not whole."""
    with path.open("rb") as file:
        if not file.read(1):
            raise Corrupt(f"{path.name} is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _facts(data, path.name)
            except (struct.error, OverflowError, ValueError) as error:
                raise Corrupt(f"{path.name} is not a sound kernel: {error}") from error


def _facts(data: mmap.mmap, name: str) -> KernelFacts:
    banner = BANNER.search(data)
    release = banner[1].decode() if banner else ""
    if data[:4] == ELF:
        architecture, pvh = _elf(data, name)
        return KernelFacts(architecture=architecture, release=release, pvh=pvh if architecture == "x86_64" else None, config=_config(data))
    if data[56:60] == ARM64:
        return KernelFacts(architecture="aarch64", release=release, pvh=None, config=_config(data))
    raise Corrupt(f"{name} is no kernel: neither an ELF file nor an Image of arm64")


def _elf(data: mmap.mmap, name: str) -> tuple[str, bool]:
    """ELF64, little-endian (elf(5)): which machine, and whether it has the note; Corrupt when a segment is not in the file."""
    if data[4:6] != b"\x02\x01":
        raise Corrupt(f"{name} is not a 64-bit little-endian ELF file")
    kind, machine = struct.unpack_from("<HH", data, 16)
    if kind not in (2, 3):
        raise Corrupt(f"{name} is an ELF file, but nothing that can be started (a module or an object file?)")
    if machine not in MACHINES:
        raise Corrupt(f"{name} is for a processor that banger does not know (ELF machine {machine})")
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    segments = [struct.unpack_from("<IIQQQQ", data, table + index * size) for index in range(count)]
    if not any(segment[0] == LOAD for segment in segments):
        raise Corrupt(f"{name} has nothing in it to be loaded")
    for segment in segments:
        if segment[0] in (LOAD, NOTE) and segment[2] + segment[5] > len(data):
            raise Corrupt(f"{name} is cut short: it has {len(data)} bytes, and a segment of it ends at {segment[2] + segment[5]}")
    notes = (note for segment in segments if segment[0] == NOTE for note in _notes(data[segment[2] : segment[2] + min(segment[5], LARGEST_NOTES)]))
    return MACHINES[machine], (PHYS32_ENTRY, XEN) in notes


def _notes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and owner of each (elf(5)): lengths of name and description, type, both padded to 4."""
    at = 0
    while at + 12 <= len(data):
        name, description, kind = struct.unpack_from("<III", data, at)
        yield kind, data[at + 12 : at + 12 + min(name, 16)]
        at += 12 + (name + 3 & ~3) + (description + 3 & ~3)


def _config(data: mmap.mmap) -> str:
    begin = data.find(CONFIG_BEGIN)
    end = data.find(CONFIG_END, begin + 1) if begin >= 0 else -1
    if end < 0 or end - begin > LARGEST_CONFIG:
        return ""
    try:
        return zlib.decompressobj(31).decompress(data[begin + len(CONFIG_BEGIN) : end], LARGEST_CONFIG).decode("ascii", "replace")
    except zlib.error:
        return ""
