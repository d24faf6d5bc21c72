"""Starts `bangerd`: as the daemon, detached and waited for until it listens; or as a child that looks at the host and says what it finds."""

from __future__ import annotations

import json
import os
import sys
from select import POLLHUP, POLLIN, poll
from time import monotonic

from banger.client.answer import error_of
from banger.model.errors import DaemonUnreachable, TimedOut

#: It listens once it has undone what its killed predecessor left half made: a disk that someone keeps open takes 5 s of that, and a host may be busy.
#: One that ends is noticed at once.
START_SECONDS = 60.0
DOCTOR_SECONDS = 120.0


def _fill_standard_descriptors() -> None:
    """Make sure that 0, 1 and 2 are taken, so that no descriptor opened here is one of them."""
    while (found := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(found, True)
    os.close(found)


def spawn_bangerd(arguments: list[str], *, output: int, errors: int, keep: int | None = None) -> int:
    """Start `bangerd` as a process of its own session and return its pid. `keep` is passed on as descriptor 3, named by BANGER_READY_FD."""
    environ = dict(os.environ)
    null = os.open(os.devnull, os.O_RDWR)
    try:
        actions = [(os.POSIX_SPAWN_DUP2, have, want) for have, want in ((null, 0), (output, 1), (errors, 2))]
        if keep is not None:
            actions.append((os.POSIX_SPAWN_DUP2, keep, 3))
            environ["BANGER_READY_FD"] = "3"
        command = [sys.executable, "-P", "-m", "banger.bangerd", *arguments]
        return os.posix_spawn(command[0], command, environ, file_actions=actions, setsid=True, setsigmask=(), setsigdef=(1, 2, 3, 15))
    finally:
        os.close(null)


def start_daemon(log: str) -> None:
    """Start a daemon and wait until it listens; DaemonUnreachable, or what it says itself, if it does not."""
    os.makedirs(os.path.dirname(log), mode=0o700, exist_ok=True)
    _fill_standard_descriptors()
    ready, keep = os.pipe()
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        try:
            spawn_bangerd([], output=output, errors=output, keep=keep)
        finally:
            os.close(output)
            os.close(keep)
        said = _read(ready, START_SECONDS, until=b"\n")
    except OSError as error:
        raise DaemonUnreachable(f"the daemon cannot be started: {error}") from error
    finally:
        os.close(ready)
    if said.strip() == b"ready":
        return
    if said.startswith(b"{"):
        raise error_of(json.loads(said))
    raise DaemonUnreachable("the daemon ended while it started", hint=f"its log says why: {log}; also try: banger doctor")


def _read(descriptor: int, seconds: float, *, until: bytes = b"") -> bytes:
    """What is written to a pipe until its end or the sign `until`; TimedOut if that takes too long."""
    waiting, deadline, found = poll(), monotonic() + seconds, b""
    waiting.register(descriptor, POLLIN | POLLHUP)
    while waiting.poll(max(0, int((deadline - monotonic()) * 1000))):
        data = os.read(descriptor, 1 << 16)
        found += data
        if not data or (until and until in found):
            return found
    raise TimedOut(f"bangerd did not answer within {seconds:.0f} s", hint="run: banger doctor")


def doctor_findings() -> object:
    """What `bangerd doctor` finds; works when no daemon can be started."""
    _fill_standard_descriptors()
    here, there = os.pipe()
    try:
        try:
            pid = spawn_bangerd(["doctor"], output=there, errors=2)
        finally:
            os.close(there)
        said = _read(here, DOCTOR_SECONDS)
    finally:
        os.close(here)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        return json.loads(said)
    except ValueError:
        raise DaemonUnreachable(f"bangerd doctor ended with status {status} and no findings") from None
