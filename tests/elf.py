"""Executables of a hundred bytes that print one text and end: what a test installs in place of a real program. x86-64 Linux, no libraries."""

from __future__ import annotations

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
