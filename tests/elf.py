"""ELF files made by hand: programs of a hundred bytes that print one text (x86-64 Linux, no libraries), kernels and modules that only look like it."""

from __future__ import annotations

import gzip
import struct

BASE, HEADERS = 0x400000, 64 + 56


def saying(text: str) -> bytes:
    """An ELF file that writes `text` to its stdout and exits with 0."""
    words = text.encode()
    code = (
        bytes.fromhex("b801000000 bf01000000 488d3510000000 ba")  # mov eax,1; mov edi,1; lea rsi,[rip+16]; mov edx,
        + struct.pack("<I", len(words))
        + bytes.fromhex("0f05 b83c000000 31ff 0f05")  # syscall; mov eax,60; xor edi,edi; syscall
    )
    size = HEADERS + len(code) + len(words)
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, BASE + HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return header + struct.pack("<IIQQQQQQ", 1, 5, 0, BASE, BASE, size, size, 4096) + code + words


def kernel(release: str = "6.1.0-test", *, pvh: bool = True, config: str = "", machine: int = 62) -> bytes:
    """What looks like a guest kernel to whoever examines it: a segment to load, a note, a banner, and a configuration if it is to have one."""
    note = struct.pack("<III4sQ", 4, 8, 18, b"Xen\0", BASE) if pvh else struct.pack("<III4sQ", 4, 8, 3, b"GNU\0", 0)
    inside = b"IKCFG_ST" + gzip.compress(config.encode()) + b"IKCFG_ED" if config else b""
    content = note + b"Linux version " + release.encode() + b" (somebody@somewhere)\n" + inside + bytes(200)
    start = 64 + 2 * 56
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, BASE, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, start, BASE, BASE, len(content), len(content), 4096)
    return header + load + struct.pack("<IIQQQQQQ", 4, 4, start, BASE, BASE, len(note), len(note), 4) + content


def module(name: str, *, release: str = "6.1.0-test", depends: str = "") -> bytes:
    """A kernel module with nothing in it but what it says of itself."""
    info = f"name={name}\0depends={depends}\0vermagic={release} SMP mod_unload \0".encode()
    names = b"\0.modinfo\0.shstrtab\0"
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, 64 + len(info) + len(names), 0, 64, 0, 0, 64, 3, 2)
    sections = [(0, 0, 0, 0), (1, 1, 64, len(info)), (10, 3, 64 + len(info), len(names))]
    return header + info + names + b"".join(struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, at, size, 0, 0, 1, 0) for name, kind, at, size in sections)
