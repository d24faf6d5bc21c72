"""Guests' consoles: whatever a guest prints, kept in a bounded log, and made harmless before anybody sees it.

The VMM serves each console on a socket in the machine's run folder (QEMU), or prints it to a pipe there (Firecracker). `start` opens it and lets the
event loop move the bytes to the log: no task, no polling. The log is two files of at most half of `console_bytes` each: when the newer is full it
becomes the older. Only the daemon writes them, so following a log is a matter of this process: `watch` is woken by the pump. Owns its descriptors and
the two files; `remove` takes the files away.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Protocol

from banger.model.ids import VmId
from banger.model.paths import Paths

log = logging.getLogger(__name__)

CHUNK = 1 << 16
#: Escape sequences: CSI, the string kinds (OSC, DCS, SOS, PM, APC) with their text, charset choices, and all others of two bytes; then a bare rest.
ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]{0,4096}(?:\x07|\x1b\\)|[ -/]+[0-~]|[0-Z\\^-~])")
#: What is left of C0 but tab and newline, DEL, C1, and Unicode's line, paragraph and direction controls (they can forge what a line says).
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def harmless(data: bytes) -> str:
    """Text that a terminal only shows: no escape sequences, control characters and undecodable bytes as `\\xNN`; newline and tab stay."""
    text = data.decode("utf-8", "backslashreplace").replace("\r\n", "\n")
    text = ESCAPES.sub("", re.sub("\r+\n?", "\n", text))
    return CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


class Consoles(Protocol):
    """The consoles of all machines."""

    def prepare(self, vm: VmId) -> None:
        """Make the folder of the log."""

    def start(self, vm: VmId) -> bool:
        """Connect to the console and keep its log, unless that is so; False when nobody serves it (yet, or any more)."""

    def stop(self, vm: VmId) -> None:
        """Let go of the console, with what has come by now in the log; its watchers end. Missing is success."""

    def read(self, vm: VmId) -> str:
        """The whole log, made harmless."""

    def tail(self, vm: VmId, lines: int) -> tuple[str, ...]:
        """The last lines that are not empty, made harmless."""

    def watch(self, vm: VmId) -> AsyncGenerator[str, None]:
        """The log so far and then what comes, made harmless, whole lines where possible; ends when the console does."""

    def remove(self, vm: VmId) -> None:
        """Stop, and remove the log."""


class Pump:
    """One console on its way to the log. `ended` is set when it has closed; `grown` is set and replaced at each arrival."""

    def __init__(self, source: int, path: Path, half: int) -> None:
        self.source, self.path, self.half = source, path, half
        self.grown, self.ended = asyncio.Event(), False
        self.written = 0
        self.descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self.size = os.fstat(self.descriptor).st_size
        asyncio.get_running_loop().add_reader(source, self.move)

    def move(self) -> None:
        """Take what is there; an error of the log (a full disk) costs that piece of the console, never the machine."""
        try:
            data = os.read(self.source, CHUNK)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self.close()
            return
        try:
            self._keep(data)
        except OSError as error:
            log.warning("console of %s: %d bytes are lost: %s", self.path.parent.name, len(data), error)
        self._wake()

    def _keep(self, data: bytes) -> None:
        while data:
            room = self.half - self.size
            if room <= 0:
                self._rotate()
                continue
            count = os.write(self.descriptor, data[:room])
            self.size += count
            self.written += count
            data = data[count:]

    def _rotate(self) -> None:
        self.path.replace(older(self.path))
        os.close(self.descriptor)
        self.descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self.size = 0

    def _wake(self) -> None:
        self.grown.set()
        self.grown = asyncio.Event()

    def close(self) -> None:
        """Let go; twice is once."""
        if self.ended:
            return
        self.ended = True
        asyncio.get_running_loop().remove_reader(self.source)
        os.close(self.source)
        os.close(self.descriptor)
        self._wake()


def older(path: Path) -> Path:
    """The log's older half."""
    return path.with_name(f"{path.name}.1")


class RealConsoles:
    """Consoles on Unix sockets and in named pipes."""

    def __init__(self, paths: Paths, keep: int) -> None:
        self.paths, self.half = paths, keep // 2
        self.pumps: dict[VmId, Pump] = {}

    def prepare(self, vm: VmId) -> None:
        """See Consoles."""
        self.paths.vm_state(vm).mkdir(mode=0o700, parents=True, exist_ok=True)

    def start(self, vm: VmId) -> bool:
        """See Consoles."""
        if vm in self.pumps and not self.pumps[vm].ended:
            return True
        folder = self.paths.vm_run(vm)
        connection = _connect(folder / "console.sock")
        source = connection.detach() if connection else _open(folder / "console.pipe")
        if source is None:
            return False
        self.prepare(vm)
        self.pumps[vm] = Pump(source, self.paths.console_log(vm), self.half)
        return True

    def stop(self, vm: VmId) -> None:
        """See Consoles."""
        pump = self.pumps.pop(vm, None)
        while pump is not None and not pump.ended:
            before = pump.written
            pump.move()
            if pump.written == before:
                pump.close()

    def _last(self, vm: VmId, count: int) -> bytes:
        """The last bytes of the log, over both halves."""
        path = self.paths.console_log(vm)
        newer = _end_of(path, count)
        return newer if len(newer) >= count else _end_of(older(path), count - len(newer)) + newer

    def read(self, vm: VmId) -> str:
        """See Consoles."""
        return harmless(self._last(vm, 2 * self.half))

    def tail(self, vm: VmId, lines: int) -> tuple[str, ...]:
        """See Consoles."""
        found = [line.rstrip() for line in harmless(self._last(vm, min(lines * 1024, 2 * self.half))).split("\n") if line.strip()]
        return tuple(found[-lines:]) if lines > 0 else ()

    async def watch(self, vm: VmId) -> AsyncGenerator[str, None]:
        """See Consoles."""
        pump = self.pumps.get(vm)
        data, seen = self._last(vm, 2 * self.half), pump.written if pump else 0
        while pump is not None and not (pump.ended and pump.written == seen):
            shown, data = cut(data)
            if shown:
                yield harmless(shown)
            if pump.written == seen and not pump.ended:
                await pump.grown.wait()
            fresh, seen = pump.written - seen, pump.written
            data += self._last(vm, fresh)
        if data:
            yield harmless(data)

    def remove(self, vm: VmId) -> None:
        """See Consoles."""
        self.stop(vm)
        path = self.paths.console_log(vm)
        for half in (older(path), path):
            half.unlink(missing_ok=True)


def _end_of(path: Path, count: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - count))
            return file.read(count)
    except FileNotFoundError:
        return b""


def cut(data: bytes) -> tuple[bytes, bytes]:
    """What can be shown, and what to hold back: an unfinished line, unless it is long (a prompt without a newline is shown with what comes next)."""
    end = data.rfind(b"\n") + 1
    return (data[:end], data[end:]) if end or len(data) < 4096 else (data, b"")


def _connect(path: Path) -> socket.socket | None:
    """A connected, non-blocking socket, or None; through a descriptor of its folder, because an address holds 108 bytes only (unix(7))."""
    made = socket.socket(socket.AF_UNIX)
    made.setblocking(False)
    try:
        place = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            made.connect(f"/proc/self/fd/{place}/{path.name}")
        finally:
            os.close(place)
    except OSError as error:
        made.close()
        log.debug("console %s: %s", path, error)
        return None
    return made


def _open(path: Path) -> int | None:
    """The reading end of a named pipe, or None."""
    try:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        log.debug("console %s: %s", path, error)
        return None
