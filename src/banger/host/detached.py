"""A process that outlives the daemon, and the record by which it is found again.

The record is written twice: before the start (pid 0: one may exist) and after it. So a process that was started by a daemon that died before it
could write down the pid is still found, by its arguments; a machine without a record never costs a look through /proc. Owns the record's file;
whoever made the folder removes it.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from banger.host.files import Files
from banger.host.proc import Life, Proc, ProcessId
from banger.model.codec import decode, encode
from banger.model.errors import Corrupt, NoSpace, TimedOut

log = logging.getLogger(__name__)
END_TIMEOUT = 10.0


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the file holds; pid 0: it was about to be started."""

    version: int = 1
    pid: int = 0
    start: int = 0


def recorded(proc: Proc, files: Files, record: Path) -> ProcessId | None:
    """The process that somebody else's record names, if it lives."""
    data = files.read(record)
    known = decode(data, Record, what=str(record)) if data is not None else Record()
    process = ProcessId(known.pid, known.start)
    return process if known.pid and proc.look(process) is not Life.GONE else None


class Detached:
    """One such process: `record` is its file, `mark` are words of its command line that no other process has, `owner` whose it is if not ours."""

    def __init__(self, proc: Proc, files: Files, record: Path, mark: tuple[str, ...], owner: Callable[[], int] = lambda: -1) -> None:
        self.proc, self.files, self.record, self.mark, self.owner = proc, files, record, mark, owner

    def find(self) -> ProcessId | None:
        """The process if it lives (running or frozen), else None. One that had to be looked for is written down, so that it is looked for once.

        On a full disk it is not written down and will be looked for again: whoever lists machines can do without.
        """
        data = self.files.read(self.record)
        if data is None:
            return None
        known = self._decoded(data)
        if known.pid:
            process = ProcessId(known.pid, known.start)
            return process if self.proc.look(process) is not Life.GONE else None
        lost = self.proc.find(self.mark, self.owner())
        if lost is not None:
            try:
                self._write(lost)
            except (NoSpace, OSError) as error:
                log.warning("process %d is known but not written down: %s", lost.pid, error)
        return lost

    def _decoded(self, data: bytes) -> Record:
        """A record that cannot be read says as much as one without a pid: there may be a process."""
        try:
            return decode(data, Record, what=str(self.record))
        except Corrupt as error:
            log.warning("%s", error)
            return Record()

    async def start(self, spawn: Callable[[], Awaitable[ProcessId]]) -> ProcessId:
        """Start it by `spawn`, unless it lives; a failed start leaves no record."""
        found = self.find()
        if found is None:
            self._write(ProcessId(0, 0))
            try:
                found = await spawn()
            except BaseException:
                await self.end()
                raise
            self._write(found)
        return found

    def _write(self, process: ProcessId) -> None:
        self.files.write_atomic(self.record, encode(Record(pid=process.pid, start=process.start)), durable=False)

    async def end(self) -> None:
        """Kill it (a frozen one too), wait until it is gone, and forget it; missing is success."""
        process = self.find()
        if process is not None:
            self.proc.signal(process, signal.SIGKILL)
            try:
                async with asyncio.timeout(END_TIMEOUT):
                    await self.proc.gone(process)
            except TimeoutError:
                raise TimedOut(f"process {process.pid} does not end: killed {END_TIMEOUT:g} s ago") from None
        self.files.remove_tree(self.record)
