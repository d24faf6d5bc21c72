"""The daemon's side of the privileged helper: objects that have an interface's methods and send each call to the helper.

Every call waits without holding up the daemon, and not for ever; so all that is served is asynchronous. A caller that is cancelled hears so once the
helper has answered, so that what it undoes then is not done after it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar, cast

import msgspec

from banger.host.calls import LIMIT, Answer, Method, Request, error_of, methods
from banger.model import codec
from banger.model.errors import HostLacks, TimedOut
from banger.model.event import operation
from banger.model.rules import SERVED

T = TypeVar("T")
#: How long a call that only looks may take, and one that changes something.
QUICK_SECONDS, SLOW_SECONDS = 5.0, 30.0
INSTALL = "as root: banger system install --owner USER"
#: Methods that say in words what is missing, and those that only look.
EXCUSES = frozenset({"usable", "trouble"})
LOOKS = EXCUSES | {"standing", "guests", "refusals", "names"}
AGAIN = "see: banger system status"


class Line:
    """Calls to the helper that listens at `path`, each over a connection of its own."""

    def __init__(self, path: Path, *, quick: float = QUICK_SECONDS, slow: float = SLOW_SECONDS) -> None:
        self.path, self.quick, self.slow = path, quick, slow

    async def wait(self, interface: str, name: str, method: Method, arguments: bytes) -> object:
        """Call and wait for the answer, also when cancelled meanwhile."""
        asking = asyncio.ensure_future(self._ask(method, request(interface, name, arguments)))
        try:
            return judged(method, await asyncio.shield(asking))
        except asyncio.CancelledError:
            await asyncio.wait([asking])
            if not asking.cancelled():
                asking.exception()
            raise

    async def _ask(self, method: Method, message: bytes) -> bytes:
        seconds = self.quick if method.name.partition(".")[2] in LOOKS else self.slow
        with self._failures(method, seconds):
            async with asyncio.timeout(seconds):
                try:
                    return await self._exchange(message)
                except ConnectionError:
                    return await self._exchange(message)  # it was restarted; calls are idempotent

    async def _exchange(self, message: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        with self._connected() as sock:
            with suppress(ConnectionError):  # it may have said why already
                await loop.sock_sendall(sock, message)
            try:
                return said(await loop.sock_recv(sock, LIMIT + 1))
            except ConnectionResetError:  # it closed before it took our message; what it said first stands behind this error
                return said(await loop.sock_recv(sock, LIMIT + 1))

    @contextmanager
    def _connected(self) -> Iterator[socket.socket]:
        """A connection to root's process, which never waits (Unix sockets connect at once, or not at all)."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)
            sock.connect(str(self.path))
            _trust(sock)
            yield sock

    @contextmanager
    def _failures(self, method: Method, seconds: float) -> Iterator[None]:
        """What a helper that is not there, or not well, means to the caller."""
        try:
            yield
        except TimeoutError:
            raise TimedOut(f"the privileged helper did not answer {method.name} within {seconds:g} s", hint=AGAIN) from None
        except (FileNotFoundError, NotADirectoryError) as error:
            raise HostLacks("this needs root or banger's privileged helper, which is not installed", hint=INSTALL) from error
        except PermissionError as error:
            raise HostLacks("banger's privileged helper serves another user", hint=AGAIN) from error
        except (ConnectionError, BlockingIOError) as error:
            raise HostLacks(f"the privileged helper does not answer at {self.path}: {error.strerror or error}", hint=AGAIN) from error


def _trust(sock: socket.socket) -> None:
    """Take orders' results from root only: whoever else listens there is no helper."""
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    if uid != 0:
        raise HostLacks(f"what listens at {sock.getpeername()} is not root's", hint=AGAIN)


def request(interface: str, name: str, arguments: bytes) -> bytes:
    """The message that asks for a call."""
    return codec.encode(Request(op=operation.get(), interface=interface, method=name, arguments=msgspec.Raw(arguments)))


def said(data: bytes) -> bytes:
    """What was received; ConnectionAbortedError if that is the end."""
    if not data:
        raise ConnectionAbortedError("it closed the connection")
    return data


def judged(method: Method, data: bytes) -> object:
    """The result in an answer, or the error that it is."""
    answer = codec.decode(data, Answer, what=f"the helper's answer to {method.name}")
    if answer.failure is not None:
        raise error_of(answer)
    return method.read_result(bytes(answer.result))


def remote(protocol: type[T], interface: str, line: Line, *, here: T | None = None) -> T:
    """The interface, served by the helper; what the helper does not serve, because it needs no privilege, is done by `here`."""
    body: dict[str, Callable[..., object]] = {}
    for name, method in methods(protocol).items():
        if name in SERVED[interface]:
            body[name] = _excused(_sender(line, interface, name, method)) if name in EXCUSES else _sender(line, interface, name, method)
        elif here is not None:
            body[name] = staticmethod(getattr(here, name))
    return cast(T, type(f"Remote{protocol.__name__}", (), dict(body))())


def _excused(send: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
    """Asked what is missing, it is an answer that the helper is."""

    async def ask(*positional: object, **named: object) -> object:
        try:
            return await send(*positional, **named)
        except (HostLacks, TimedOut) as error:
            return f"{error.message} ({error.hint})"

    return ask


def _sender(line: Line, interface: str, name: str, method: Method) -> Callable[..., Awaitable[object]]:
    assert method.waits, f"{method.name} would hold up the daemon"

    async def send(_: object, *positional: object, **named: object) -> object:
        return await line.wait(interface, name, method, method.pack(positional, named))

    return send
