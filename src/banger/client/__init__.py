"""Calls any operation over the daemon's Unix socket; what the CLI and the Python SDK stand on.

Blocking, standard library only, and light: `_socket` is the part of `socket` that is needed here, without the enums that double a CLI command's time.
A daemon that is absent is started, one whose code is older replaced. Each call has a connection of its own; whoever gets a `Lines` or a `Conversation`
closes it.
"""

from __future__ import annotations

import json
import os
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM
from _socket import socket as Socket

from banger.client.answer import Conversation, Lines, Response, error_of
from banger.model.build import build_id
from banger.model.errors import BadRequest, DaemonStale, DaemonUnreachable
from banger.ops import Op, ops_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

CALL_SECONDS = 120.0
STEP_DOWN_SECONDS = 10.0
SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")


def socket_path(environ: Mapping[str, str]) -> str:
    """Where the daemon of this user listens."""
    base = environ.get("XDG_RUNTIME_DIR", "")
    folder = os.path.join(base, "banger") if base.startswith("/") else f"/tmp/banger-runtime-{os.geteuid()}"
    return os.path.join(folder, "bangerd.sock")


def log_path(environ: Mapping[str, str]) -> str:
    """Where the daemon writes its log."""
    base = environ.get("XDG_STATE_HOME", "")
    base = base if base.startswith("/") else os.path.join(environ.get("HOME") or "/", ".local/state")
    return os.path.join(base, "banger", "bangerd.log")


def check_folder(folder: str) -> bool:
    """Whether the socket's folder is there; DaemonUnreachable if somebody else could have put things into it."""
    try:
        found = os.lstat(folder)
    except FileNotFoundError:
        return False
    if found.st_mode & 0o170000 != 0o040000:
        raise DaemonUnreachable(f"{folder} is not a folder (nor may it be a link)", hint=f"remove it: rm {folder}")
    if found.st_uid != os.geteuid():
        raise DaemonUnreachable(f"{folder} belongs to user {found.st_uid}, not to you", hint="set XDG_RUNTIME_DIR to a folder of your own")
    if found.st_mode & 0o022:
        raise DaemonUnreachable(f"{folder} can be written by others", hint=f"chmod 700 {folder}")
    return True


def request_of(op: Op, parameters: Mapping[str, object]) -> tuple[str, bytes]:
    """The target and the body of an op's request; parameters that are None are left out."""
    given = {name: value for name, value in parameters.items() if value is not None}
    path = op.path
    for name in [name for name in given if f"{{{name}}}" in op.path]:
        path = path.replace(f"{{{name}}}", _quoted(str(given.pop(name))))
    if op.method in ("GET", "DELETE"):
        pairs = [f"{name}={_quoted(value if isinstance(value, str) else json.dumps(value))}" for name, value in given.items()]
        return (f"{path}?{'&'.join(pairs)}" if pairs else path), b""
    text = json.dumps(given, ensure_ascii=False)
    try:
        return path, text.encode()
    except UnicodeEncodeError as error:
        where = text[max(0, error.start - 20) : error.end + 20]
        raise BadRequest(f"an argument is not UTF-8: …{where!r}…", hint="other bytes can go through a command's stdin") from None


def _quoted(text: str) -> str:
    if not text or text in (".", ".."):
        raise BadRequest(f"{text!r} is not a name")
    return "".join(sign if sign in SAFE else "".join(f"%{byte:02X}" for byte in sign.encode("utf-8", "surrogateescape")) for sign in text)


class Client:
    """The operations, by name. `start`: whether a daemon that is absent is started; `seconds` bounds each wait for an answer."""

    def __init__(self, path: str = "", *, start: bool = True, seconds: float = CALL_SECONDS) -> None:
        self.path = path or socket_path(os.environ)
        self.start, self.seconds = start, seconds
        self._build = build_id()

    def call_raw(self, name: str, /, **parameters: object) -> bytes:
        """The JSON of an op's result, as it came; `null` if it has none."""
        response = self._request(name, parameters)
        try:
            return response.body() or b"null"
        finally:
            response.sock.close()

    def call(self, name: str, /, **parameters: object) -> object:
        """An op's result."""
        found: object = json.loads(self.call_raw(name, **parameters))
        return found

    def stream(self, name: str, /, **parameters: object) -> Lines:
        """An op's lines, as they come, however long that takes."""
        response = self._request(name, parameters)
        response.sock.settimeout(None)
        return Lines(response)

    def duplex(self, name: str, /, **parameters: object) -> Conversation:
        """An op's conversation."""
        return Conversation(self._request(name, parameters, upgrade=True))

    def _request(self, name: str, parameters: Mapping[str, object], *, upgrade: bool = False) -> Response:
        op = ops_of(name.partition(".")[0])[name]
        target, body = request_of(op, parameters)
        head = f"{op.method} {target} HTTP/1.1\r\nHost: banger\r\nBanger-Build: {self._build}\r\nContent-Length: {len(body)}\r\n"
        message = (head + ("Connection: Upgrade\r\nUpgrade: banger-wire\r\n\r\n" if upgrade else "\r\n")).encode("ascii") + body
        try:
            return self._attempt(message)
        except DaemonStale:
            if not self.start:
                raise
        return self._attempt(message)

    def _attempt(self, message: bytes) -> Response:
        sock = self._connect()
        try:
            sock.settimeout(self.seconds)
            _send(sock, message)
            response = Response(sock)
            if response.status < 300:
                return response
            found = json.loads(response.body())
            error = error_of(found.get("error") if isinstance(found, dict) else None)
            if isinstance(error, DaemonStale):
                _until_closed(sock)
            raise error
        except ConnectionError as cause:
            sock.close()
            raise DaemonUnreachable(f"the connection to the daemon broke off: {cause}") from cause
        except BaseException:
            sock.close()
            raise

    def _connect(self) -> Socket:
        for attempt in range(4):
            there = check_folder(os.path.dirname(self.path))
            sock = Socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)
            try:
                if there:
                    _join(sock, self.path)
                    return sock
            except (FileNotFoundError, ConnectionRefusedError):
                pass  # absent: started below
            except OSError as error:
                sock.close()
                raise DaemonUnreachable(f"the daemon's socket {self.path} does not answer: {error.strerror}") from error
            sock.close()
            if not self.start or attempt == 3:
                break
            from banger.client.launch import start_daemon  # not needed as long as the daemon lives

            start_daemon(log_path(os.environ))
        raise DaemonUnreachable("the daemon is not running" if not self.start else "the daemon started, but does not answer", hint="run: banger doctor")


def _join(sock: Socket, path: str) -> None:
    """Connect; a path beyond what an address holds (108 bytes, unix(7)) is reached through its folder's descriptor."""
    if len(os.fsencode(path)) < 108:
        sock.connect(path)
        return
    folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
    finally:
        os.close(folder)


def _send(sock: Socket, message: bytes) -> None:
    """Send all of it, or as much as the daemon takes: one that closes early has said why, and reading shows it."""
    try:
        sock.sendall(message)
    except ConnectionError:
        return


def _until_closed(sock: Socket) -> None:
    """Wait until the daemon that is stepping down has closed this connection."""
    sock.settimeout(STEP_DOWN_SECONDS)
    try:
        while sock.recv(4096):
            pass
    except OSError:
        return  # gone, or too slow: the next attempt shows which
