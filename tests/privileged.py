"""The privileged helper as systemd would run it: the socket is held here, so it outlives the helper, and the helper finds it as its descriptor 3."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

OWNER = 12345
#: As systemd hands over a socket (sd_listen_fds(3)), in a process that then becomes the helper.
HAND_OVER = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1'); os.execv(sys.argv[2], sys.argv[2:])"
)
PATIENCE = 10.0


class Privileged:
    """A helper that serves `owner`, with its socket and one root below `folder`, in the namespaces that `prefix` leads to."""

    program: Sequence[str] = ("-m", "banger.helper")

    def __init__(self, folder: Path, *, owner: int = OWNER, prefix: Sequence[str] = ()) -> None:
        self.owner, self.prefix = owner, prefix
        self.path, self.root = folder / "helper.sock", folder / "state"
        self.root.mkdir(mode=0o700, exist_ok=True)
        os.chown(self.root, owner, owner)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(self.path))
        self.path.chmod(0o600)
        os.chown(self.path, owner, owner)
        self.listener.listen(128)
        self.output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """Start (again)."""
        words = [sys.executable, "-P", *self.program, "--owner", f"{self.owner}:{self.owner}", "--root", str(self.root)]
        number = self.listener.fileno()
        command = [*self.prefix, sys.executable, "-c", HAND_OVER, str(number), *words]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.output, stderr=self.output, pass_fds=(number,))
        return self.process

    def log(self) -> str:
        """What it has said."""
        return os.pread(self.output.fileno(), 1 << 22, 0).decode()

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def close(self) -> int:
        """Stop it as systemd does; its exit status."""
        self.process.terminate()
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self.process.wait(PATIENCE)
            self.listener.close()
            self.output.close()


def exchange(path: Path, data: bytes) -> bytes:
    """Send one message and return the answer; empty when the connection is closed without one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(str(path))
        with suppress(BrokenPipeError):
            sock.send(data)
        for _ in range(2):  # a refusal that came before our message was read stands behind an error
            with suppress(ConnectionResetError):
                return sock.recv(1 << 18)
        return b""


def as_user(uid: int, act: Callable[[], bytes]) -> bytes:
    """What `act` returns in a child process that has become another user; the name of its exception, if it raises one."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            os.write(writing, act())
        except BaseException as error:
            os.write(writing, type(error).__name__.encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said
