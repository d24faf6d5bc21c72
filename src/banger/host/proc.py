"""Processes: the one door through which external commands go. Short ones are run and awaited; long-lived ones (a VMM, passt) are spawned detached.

A spawned process outlives the daemon. It is known again by its pid and start time together (a pid alone may have been given to another since), and
it is watched through a pidfd, so nothing polls. Sockets that it is to serve are made before it starts and handed to it, so whoever connects need not
wait for it to be ready, and sees the end of the stream if it dies first. `run` kills the whole process group when it is cancelled or late, and the
kernel kills the command if the daemon dies (`setpriv --pdeathsig`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import msgspec

from banger.host.pipes import LINE, begun, end_group, finish
from banger.model.errors import HostLacks, TimedOut

log = logging.getLogger(__name__)

#: An ordinary user's PATH lacks these, and half of the tools live there.
SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
ANSWER_SECONDS = 2.0
#: The user that some tools become when root starts them.
NOBODY = 65534


class ProcessId(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A process for good: `start` is its start time in clock ticks since boot (proc(5), stat field 22)."""

    pid: int
    start: int


class Life(StrEnum):
    """How a process stands: `frozen` is stopped by a signal or a tracer; a zombie counts as gone."""

    RUNNING = "running"
    FROZEN = "frozen"
    GONE = "gone"


class Proc(Protocol):
    """What banger does with processes."""

    def which(self, name: str) -> Path | None:
        """Where a command is, on PATH or in the system's own folders."""

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
        """Run to its end within `timeout` seconds and return stdout (at most 8 MiB); `on_line` hears each line of stderr as it comes.

        Raises HostLacks when the command does not exist, ToolFailed with the end of stderr when it fails, TimedOut when it is late.
        """

    def ask(self, argv: Sequence[str]) -> str:
        """What a command prints that answers at once (`--version`); empty when it fails, or says nothing within 2 s. Blocks: ask once, keep it."""

    async def spawn(self, argv: Sequence[str], *, cwd: Path, output: Path, listen: Sequence[str] = ()) -> ProcessId:
        """Start a process that outlives us: own session, stdin from /dev/null, umask 077.

        stdout and stderr go to `output`, a named pipe that is made here: it keeps the first 64 KiB and what comes then is lost, so that no guest can
        fill the host's disk through its VMM's warnings, nor stall it. `said` reads it.
        Each name in `listen` becomes a listening Unix socket in `cwd` (0600; one left from before is replaced), and `%NAME%` in an argument becomes
        the number of its descriptor in the process. Raises HostLacks when the command does not exist.
        """

    def said(self, output: Path) -> bytes:
        """What has been printed to a spawned process's `output` since the last call; empty when nobody holds it open any more."""

    def find(self, words: Sequence[str], owner: int = -1) -> ProcessId | None:
        """The process that has all these words among its arguments; looks through all of /proc.

        Only this user's count, if we are root also nobody's, and those of `owner`: anybody can start a process with words like that.
        """

    def identify(self, pid: int) -> ProcessId | None:
        """The process that has this pid now, or None."""

    def look(self, process: ProcessId) -> Life:
        """How it stands, from /proc; never waits."""

    def signal(self, process: ProcessId, number: signal.Signals) -> bool:
        """Send a signal; False when it is gone already. Never reaches a process that merely got the same pid."""

    async def gone(self, process: ProcessId) -> None:
        """Return once it has ended."""


def read_stat(pid: int) -> tuple[str, int] | None:
    """State letter and start time of a process, or None; proc(5): fields 3 and 22, after a name that may hold anything but ends with ')'."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(b")") + 2 :].split()
    return fields[0].decode(), int(fields[19])


def _arguments(entry: str) -> set[bytes]:
    try:
        return set(Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0"))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return set()


def _owner(entry: str) -> int:
    """The effective uid; not from the folder's owner, which is root for a process that forbids to be dumped (passt)."""
    try:
        text = Path(f"/proc/{entry}/status").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return -1
    return next((int(line.split()[2]) for line in text.splitlines() if line.startswith("Uid:")), -1)


def _listen(folder: Path, name: str) -> socket.socket:
    """A listening socket whose path may be longer than an address holds (108 bytes, unix(7)): bound through a descriptor of its folder."""
    (folder / name).unlink(missing_ok=True)
    place = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    made = socket.socket(socket.AF_UNIX)
    try:
        made.bind(f"/proc/self/fd/{place}/{name}")
        (folder / name).chmod(0o600)
        made.listen(4)
    except OSError:
        made.close()
        raise
    finally:
        os.close(place)
    return made


class RealProc:
    """The host's processes."""

    def __init__(self, path: str) -> None:
        have = path.split(os.pathsep) if path else []
        self.path = os.pathsep.join([*have, *(folder for folder in SYSTEM_PATH if folder not in have)])
        #: Children are reaped by their Popen object once their pidfd says they ended; a dropped one would stay a zombie.
        self.children: dict[int, subprocess.Popen[bytes]] = {}
        #: The pipes that spawned processes print to.
        self.outputs: dict[Path, int] = {}

    def which(self, name: str) -> Path | None:
        """See Proc."""
        found = shutil.which(name, path=self.path)
        return Path(found) if found else None

    def _resolve(self, argv: Sequence[str]) -> list[str]:
        found = self.which(argv[0])
        if found is None:
            raise HostLacks(f"the command {argv[0]} is missing on this host", hint="run: banger doctor")
        return [str(found), *argv[1:]]

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
        command = self._resolve(argv)
        guard = self.which("setpriv")
        prefix = [str(guard), "--pdeathsig", "TERM", "--"] if guard else []
        log.info("run: %s", shlex.join(command))
        beginning = asyncio.create_subprocess_exec(
            *prefix,
            *command,
            stdin=subprocess.PIPE if data else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env={**os.environ, "PATH": self.path, "LC_ALL": "C.UTF-8", **(env or {})},
            start_new_session=True,
            limit=LINE,
        )
        process = await begun(asyncio.create_task(beginning))
        try:
            async with asyncio.timeout(timeout):
                return await finish(process, argv[0], data, on_line)
        except TimeoutError:
            raise TimedOut(f"{argv[0]} took longer than {timeout:g} s") from None
        finally:
            await end_group(process)

    def ask(self, argv: Sequence[str]) -> str:
        """See Proc."""
        try:
            done = subprocess.run(self._resolve(argv), stdin=subprocess.DEVNULL, capture_output=True, timeout=ANSWER_SECONDS, check=True, env={})
        except (HostLacks, OSError, subprocess.SubprocessError) as error:
            log.warning("%s does not answer: %s", shlex.join(argv), error)
            return ""
        return done.stdout[:LINE].decode("utf-8", "replace")

    async def spawn(self, argv: Sequence[str], *, cwd: Path, output: Path, listen: Sequence[str] = ()) -> ProcessId:
        """See Proc."""
        command = self._resolve(argv)
        with ExitStack() as stack:
            descriptor = self._make_output(output)
            sockets = {name: stack.enter_context(_listen(cwd, name)).fileno() for name in listen}
            for name, number in sockets.items():
                command = [word.replace(f"%{name}%", str(number)) for word in command]
            log.info("spawn in %s: %s", cwd, shlex.join(command))
            child = subprocess.Popen(  # noqa: ASYNC220 (fork and exec of a detached process: there is nothing to wait for)
                command,
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                cwd=cwd,
                env={**os.environ, "PATH": self.path},
                start_new_session=True,
                umask=0o077,
                pass_fds=tuple(sockets.values()),
            )
        self.children[child.pid] = child
        stat = read_stat(child.pid)
        assert stat is not None, "an unreaped child is always in /proc"
        return ProcessId(child.pid, stat[1])

    def _make_output(self, output: Path) -> int:
        """Read, write, and never wait; kept open, because what is in a pipe goes when the last one who holds it ends."""
        self._forget_output(output)
        output.unlink(missing_ok=True)
        os.mkfifo(output, 0o600)
        self.outputs[output] = os.open(output, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        return self.outputs[output]

    def _forget_output(self, output: Path) -> None:
        held = self.outputs.pop(output, None)
        if held is not None:
            os.close(held)

    def said(self, output: Path) -> bytes:
        """See Proc."""
        if output not in self.outputs:
            try:
                self.outputs[output] = os.open(output, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                return b""
        parts = []
        with suppress(BlockingIOError):
            while True:
                parts.append(os.read(self.outputs[output], LINE))
        if not output.exists():
            self._forget_output(output)
        return b"".join(parts)

    def find(self, words: Sequence[str], owner: int = -1) -> ProcessId | None:
        """See Proc."""
        wanted = {word.encode() for word in words}
        owners = {os.geteuid(), *((NOBODY,) if os.geteuid() == 0 else ()), *((owner,) if owner >= 0 else ())}
        for entry in os.listdir("/proc"):
            if entry.isdecimal() and wanted <= _arguments(entry) and _owner(entry) in owners:
                found = self.identify(int(entry))
                if found is not None and self.look(found) is not Life.GONE:
                    return found
        return None

    def identify(self, pid: int) -> ProcessId | None:
        """See Proc."""
        stat = read_stat(pid)
        return ProcessId(pid, stat[1]) if stat is not None else None

    def look(self, process: ProcessId) -> Life:
        """See Proc."""
        stat = read_stat(process.pid)
        if stat is None or stat[1] != process.start or stat[0] in "ZX":
            self._reap(process.pid)
            return Life.GONE
        return Life.FROZEN if stat[0] in "Tt" else Life.RUNNING

    def _reap(self, pid: int) -> None:
        child = self.children.get(pid)
        if child is not None and child.poll() is not None:
            del self.children[pid]

    def _open(self, process: ProcessId) -> int | None:
        try:
            handle = os.pidfd_open(process.pid)
        except ProcessLookupError:
            return None
        if self.look(process) is Life.GONE:
            os.close(handle)
            return None
        return handle

    def signal(self, process: ProcessId, number: signal.Signals) -> bool:
        """See Proc."""
        handle = self._open(process)
        if handle is None:
            return False
        try:
            signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)
        return True

    async def gone(self, process: ProcessId) -> None:
        """See Proc."""
        handle = self._open(process)
        if handle is None:
            return
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(handle, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(handle)
            os.close(handle)
        self._reap(process.pid)
