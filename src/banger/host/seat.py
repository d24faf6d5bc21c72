"""The one daemon's seat: the lock that makes it the only one for its state, and the socket it is reached at.

The lock lies with the state, which must have one master; the socket in the runtime folder, of which a user may have several (a session without
XDG_RUNTIME_DIR) and which a logout may remove. So the lock file says who holds it and where it listens: who finds the seat taken makes its own socket
path a link to that one, and ends a holder that nobody can reach any more. Owns the lock's descriptor until the process ends, and the socket's file.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from banger.host.proc import Proc, ProcessId
from banger.model.codec import decode, encode
from banger.model.errors import Corrupt, DaemonUnreachable
from banger.model.paths import Paths

log = logging.getLogger(__name__)
#: How long a holder may take to start or to step down before it counts as out of reach, and how long until we give up.
GRACE_SECONDS, GIVE_UP_SECONDS = 3.0, 9.0
#: What asks a daemon to step down once it is idle, and how often it is asked.
STEP_DOWN, ASK_SECONDS = signal.SIGUSR1, 0.5
#: How many times longer one waits who is waited for by nobody.
UNWATCHED = 10


class Holder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the lock file says of who holds it."""

    version: int = 1
    process: ProcessId
    socket: str


def take_seat(paths: Paths, proc: Proc, *, replace: bool = False) -> int | None:
    """The descriptor that makes us the one daemon; None when another one serves, at a socket that our path leads to. DaemonUnreachable if neither.

    `replace`: one that serves is asked to step down as soon as nothing is under way, and we come after it. So the host's service manager gets
    the daemon that it watches, and nobody's work is cut off.
    """
    lock = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    begun, asked, told = time.monotonic(), 0.0, None
    patience = UNWATCHED if replace else 1  # nobody waits for the host's service manager; one that is just starting is left time for it
    while not _locked(lock):
        holder, now = _holder(paths.lock), time.monotonic()
        if holder is not None and answers(Path(holder.socket)):
            if not replace:
                os.close(lock)
                _lead(paths.socket, Path(holder.socket))
                return None
            begun = now
            if now - asked > ASK_SECONDS:
                proc.signal(holder.process, STEP_DOWN)
                asked = now
        waited = now - begun
        if waited > GRACE_SECONDS * patience and holder is not None and holder.process != told:
            log.warning("the daemon with pid %d cannot be reached at %s and is ended", holder.process.pid, holder.socket)
            told = holder.process if proc.signal(holder.process, signal.SIGTERM) else None
        if waited > GIVE_UP_SECONDS * patience:
            raise DaemonUnreachable(f"another daemon holds {paths.lock} but does not serve", hint=f"its log: {paths.log}")
        time.sleep(0.02)
    me = proc.identify(os.getpid())
    assert me is not None, "a process finds itself"
    os.truncate(lock, 0)
    os.pwrite(lock, encode(Holder(process=me, socket=str(paths.socket))), 0)
    return lock


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(path: Path) -> Holder | None:
    """Who holds the lock; None while it is just being written."""
    try:
        return decode(path.read_bytes(), Holder, what=str(path))
    except Corrupt:
        return None


def _lead(here: Path, there: Path) -> None:
    """Make our path lead to the holder's socket, unless it is that."""
    if here != there:
        here.unlink(missing_ok=True)
        here.symlink_to(there)


def answers(path: Path) -> bool:
    """Whether somebody listens at a socket; one that steps down removes it first."""
    with suppress(FileNotFoundError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, _opened(path.parent) as folder:
        return probe.connect_ex(f"/proc/self/fd/{folder}/{path.name}") == 0
    return False


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A descriptor of a folder: through it, sockets with paths of any length can be reached (an address holds 108 bytes, unix(7))."""
    descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def listening_at(path: Path) -> Iterator[socket.socket]:
    """Our socket, 0600 from its first moment and gone at the end; what is there is replaced (we hold the lock)."""
    path.unlink(missing_ok=True)
    before = os.umask(0o177)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, _opened(path.parent) as folder:
            listener.bind(f"/proc/self/fd/{folder}/{path.name}")
            os.umask(before)
            listener.listen(128)
            listener.setblocking(False)
            yield listener
    finally:
        os.umask(before)
        path.unlink(missing_ok=True)
