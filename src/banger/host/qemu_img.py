"""qemu-img: unfolds a qcow2 file into a raw one. The file is hostile: its header was judged before (model/volume.py), the tool runs within limits.

It is told the format, so it guesses nothing, and it may write no longer a file and take no more memory than the header justifies. The files are the
caller's, who removes them whatever happens.
"""

from __future__ import annotations

from pathlib import Path

from banger.host.files import Files
from banger.host.mmdebstrap import no_space
from banger.host.proc import Proc
from banger.model.errors import Corrupt, HostLacks, ToolFailed
from banger.model.finding import Finding, Level
from banger.model.volume import HEAD

#: An image of many gigabytes from a slow disk to a slow disk.
TIMEOUT = 3600.0
#: qemu-img keeps tables of the file in memory: some 10 MiB of them for each 64 GiB.
MEMORY = 2 << 30
#: The unit that the beginning is taken in, a power of two.
BLOCK = 64 << 10
FULL = 1 << 20


async def begin(proc: Proc, files: Files, source: Path, target: Path) -> None:
    """Write just the beginning, so that what cannot be used is found before all of it is unfolded."""
    command = ["qemu-img", "dd", "-f", "qcow2", "-O", "raw", f"bs={BLOCK}", f"count={-(-HEAD // BLOCK)}", f"if={source}", f"of={target}"]
    await _run(proc, files, command, source, target, 2 * HEAD + BLOCK)


async def unfold(proc: Proc, files: Files, source: Path, target: Path, size: int) -> None:
    """Write all of it, `size` bytes with holes where there are only zeros. Corrupt when the file is broken, NoSpace when the disk is full."""
    command = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", "-S", "4k", str(source), str(target)]
    await _run(proc, files, command, source, target, size + BLOCK)


async def _run(proc: Proc, files: Files, command: list[str], source: Path, target: Path, longest: int) -> None:
    limits = ["prlimit", f"--fsize={longest}", f"--as={MEMORY}", "--core=0", "--"]
    try:
        await proc.run([*limits, *command], timeout=TIMEOUT)
    except ToolFailed as error:
        if files.free_bytes(target.parent) < FULL:
            raise no_space(f"an image from {source}") from error
        raise Corrupt(f"{source} is not a sound qcow2 file: {error.message}") from error


def require(proc: Proc) -> None:
    """HostLacks when it is not installed."""
    if proc.which("qemu-img") is None:
        raise HostLacks("qcow2 files are unfolded by qemu-img, which is not installed", hint="install it: apt-get install qemu-utils")


def finding(proc: Proc) -> Finding:
    """The row of doctor; nothing but qcow2 files needs it."""
    found = proc.which("qemu-img")
    message = f"qemu-img is {found}" if found else "qemu-img is not installed, so no image can be made from a qcow2 file"
    return Finding(level=Level.PASS if found else Level.WARN, subject="qcow2", message=message, packages=() if found else ("qemu-utils",))
