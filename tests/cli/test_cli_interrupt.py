"""Ctrl-C at the one moment when an operation has begun and the command line does not know its name yet."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from banger.model.build import build_id
from tests.world import World

SECONDS = 20
OPERATION = {"operation": {"id": "op-12345678", "name": "vm.create", "subject": "otter", "stage": "", "detail": "", "started": "2026-11-23T00:00:00Z"}}
CANCELLED = {"error": {"code": "cancelled", "message": "vm.create was cancelled"}}


def request(connection: socket.socket) -> str:
    """The first line of a request; its head is read whole."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(65536)
    return head.partition(b"\r\n")[0].decode()


def chunk(line: object) -> bytes:
    data = json.dumps(line).encode() + b"\n"
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


@pytest.mark.parametrize("words", [("vm", "create"), ("vm", "run", "--rm", "--", "true"), ("vm", "start", "otter"), ("image", "pull", "x")])
def test_it_is_kept_until_the_operation_can_be_taken_back(short_path: Path, words: tuple[str, ...]) -> None:
    world = World(short_path)
    world.run.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(world.socket))
        listener.listen(8)
        listener.settimeout(SECONDS)
        command = subprocess.Popen([sys.executable, "-m", "banger", *words], env=world.env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        creating, _ = listener.accept()
        assert request(creating).startswith("POST ")
        command.send_signal(signal.SIGINT)
        head = f"HTTP/1.1 200 OK\r\nBanger-Build: {build_id()}\r\nTransfer-Encoding: chunked\r\n\r\n"
        creating.sendall(head.encode() + chunk(OPERATION))
        cancelling, _ = listener.accept()
        assert request(cancelling).startswith("DELETE /operations/op-12345678 ")
        cancelling.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        creating.sendall(chunk(CANCELLED) + b"0\r\n\r\n")
        assert command.stderr is not None
        said = command.stderr.read()
        assert command.wait(SECONDS) == 130
        assert b"cancel" in said
        creating.close()
        cancelling.close()
        command.stderr.close()
