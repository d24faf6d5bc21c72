"""How fast the processor's time stamp counter (TSC) runs: measured, since the kernel tells only root, and /proc/cpuinfo has the present clock.

A guest under TCG sees the host's counter; told a wrong rate, its clock would run wrong by as much.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import time

#: rdtsc; shl rdx, 32; or rax, rdx; ret
CODE = bytes.fromhex("0f3148c1e2204809d0c3")
#: Seconds; right to about a millionth, since reading both clocks takes some 0.1 µs.
APART = 0.01
TRIES = 5


def measure_khz() -> int:
    """The rate in kHz; 0 where it cannot be had (another architecture, or a system that lets nobody make code)."""
    if platform.machine() != "x86_64":
        return 0
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:
        return 0
    page.write(CODE)
    code = ctypes.c_char.from_buffer(page)
    read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(code))

    def sample() -> tuple[int, int]:
        """Both clocks at one moment: the quickest of a few tries, so that no interruption came between."""
        tries = ((time.monotonic_ns(), int(read()), time.monotonic_ns()) for _ in range(TRIES))
        before, ticks, after = min(tries, key=lambda three: three[2] - three[0])
        return (before + after) // 2, ticks

    began, first = sample()
    time.sleep(APART)
    ended, last = sample()
    return (last - first) * 1_000_000 // (ended - began)
