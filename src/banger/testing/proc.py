"""Processes that are only remembered: commands are functions, spawned ones are records that can be killed, frozen and waited for."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from banger.host.proc import Life, ProcessId
from banger.host.stream import Stream
from banger.model.errors import HostLacks, TimedOut
from banger.testing.stream import FakeDialer, Server

#: A command gets its arguments and its folder, and returns what it prints, or raises ToolFailed.
Command = Callable[[Sequence[str], Path | None], Awaitable[bytes]]


class FakeProcess:
    """A spawned process; `serve` says what answers on each socket it was given, and is filled in by its program."""

    def __init__(self, number: int, argv: Sequence[str], cwd: Path) -> None:
        self.id = ProcessId(number, number * 100)
        self.argv, self.cwd = list(argv), cwd
        self.life = Life.RUNNING
        self.ended = asyncio.Event()
        self.thawed = asyncio.Event()
        self.thawed.set()
        self.serve: dict[str, Server] = {}
        self.output = b""

    def end(self) -> None:
        """It has ended, for whatever reason."""
        self.life = Life.GONE
        self.thawed.set()
        self.ended.set()

    def obey(self, number: signal.Signals) -> None:
        """What a signal does to a process that handles none."""
        if number == signal.SIGSTOP:
            self.life = Life.FROZEN
            self.thawed.clear()
        elif number == signal.SIGCONT:
            self.life = Life.RUNNING
            self.thawed.set()
        else:
            self.end()


Program = Callable[[FakeProcess], None]


class FakeProc:
    """Knows the commands and programs that a test gave it; everything else is not installed."""

    def __init__(self, dialer: FakeDialer) -> None:
        self.dialer = dialer
        self.commands: dict[str, Command] = {}
        self.programs: dict[str, Program] = {}
        #: What `ask` gets, by the command's name, if it is installed.
        self.answers = {"firecracker": "Firecracker v1.12.1\n", "jailer": "Jailer v1.12.1\n"}
        self.processes: list[FakeProcess] = []
        #: The process that the test itself is, as the daemon sees itself.
        self.myself = FakeProcess(os.getpid(), ["bangerd"], Path("/"))
        self.outputs: dict[Path, bytes] = {}
        #: Every command that was run or spawned, in order.
        self.log: list[list[str]] = []

    def which(self, name: str) -> Path | None:
        """See Proc."""
        known = Path(name).name in (*self.commands, *self.programs)
        return (Path(name) if "/" in name else Path("/usr/bin") / name) if known else None

    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        data: bytes = b"",
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> bytes:
        """See Proc."""
        self._require(argv)
        try:
            async with asyncio.timeout(timeout):
                return await self.commands[Path(argv[0]).name](argv, cwd)
        except TimeoutError:
            raise TimedOut(f"{argv[0]} took longer than {timeout:g} s") from None

    def ask(self, argv: Sequence[str]) -> str:
        """See Proc; `answers` are by the command's name."""
        if self.which(argv[0]) is None:
            return ""
        self.log.append(list(argv))
        return self.answers.get(Path(argv[0]).name, "")

    def _require(self, argv: Sequence[str]) -> None:
        if self.which(argv[0]) is None:
            raise HostLacks(f"the command {argv[0]} is missing on this host", hint="run: banger doctor")
        self.log.append(list(argv))

    def begin(self, argv: Sequence[str], cwd: Path) -> FakeProcess:
        """A new process, as a program that goes to the background would leave it."""
        process = FakeProcess(1000 + len(self.processes), argv, cwd)
        self.processes.append(process)
        return process

    async def spawn(self, argv: Sequence[str], *, cwd: Path, output: Path, listen: Sequence[str] = ()) -> ProcessId:
        """See Proc."""
        self._require(argv)
        process = self.begin(argv, cwd)
        self.programs[argv[0]](process)
        self.outputs[output] = process.output
        for name in listen:
            (cwd / name).touch()
            self.dialer.listen(cwd / name, self._gate(process, name))
        return process.id

    def said(self, output: Path) -> bytes:
        """See Proc."""
        return self.outputs.pop(output, b"")

    def _gate(self, process: FakeProcess, name: str) -> Server:
        """A connection to a process ends with it, and stands still while it is frozen."""

        async def serve(stream: Stream) -> None:
            server = process.serve.get(name)
            answering = asyncio.ensure_future(server(Frozen(stream, process)) if server else process.ended.wait())
            ended = asyncio.ensure_future(process.ended.wait())
            try:
                await asyncio.wait([answering, ended], return_when=asyncio.FIRST_COMPLETED)
            finally:
                answering.cancel()
                ended.cancel()
                await asyncio.gather(answering, ended, return_exceptions=True)

        return serve

    def _find(self, process: ProcessId) -> FakeProcess | None:
        return next((known for known in (self.myself, *self.processes) if known.id == process), None)

    def find(self, words: Sequence[str], owner: int = -1) -> ProcessId | None:
        """See Proc."""
        return next((known.id for known in self.processes if known.life is not Life.GONE and set(words) <= set(known.argv)), None)

    def identify(self, pid: int) -> ProcessId | None:
        """See Proc."""
        return next((known.id for known in (self.myself, *self.processes) if known.life is not Life.GONE and known.id.pid == pid), None)

    def look(self, process: ProcessId) -> Life:
        """See Proc."""
        known = self._find(process)
        return known.life if known else Life.GONE

    def signal(self, process: ProcessId, number: signal.Signals) -> bool:
        """See Proc."""
        known = self._find(process)
        if known is None or known.life is Life.GONE:
            return False
        known.obey(number)
        return True

    async def gone(self, process: ProcessId) -> None:
        """See Proc."""
        known = self._find(process)
        if known is not None:
            await known.ended.wait()


class Frozen:
    """A stream of a process that can be stopped."""

    def __init__(self, stream: Stream, process: FakeProcess) -> None:
        self.stream, self.process = stream, process

    async def read(self, limit: int) -> bytes:
        """See Stream."""
        data = await self.stream.read(limit)
        await self.process.thawed.wait()
        return data

    async def write(self, data: bytes) -> None:
        """See Stream."""
        await self.process.thawed.wait()
        await self.stream.write(data)

    def close(self) -> None:
        """See Stream."""
        self.stream.close()
