"""Failures of connections are told in words, without the names, numbers and places of Python's."""

from __future__ import annotations

import errno
import os
import socket
import ssl

import pytest

from banger.host.web.causes import cause


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 1)"), "connection refused"),
        (OSError("Multiple exceptions: [Errno 101] x ('::1', 1, 0, 0), [Errno 111] y, [Errno 111] y"), "network is unreachable and connection refused"),
        (ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)), "connection reset by peer"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "there is no such name"),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), "no name server answers"),
        (socket.gaierror(socket.EAI_FAIL, "Non-recoverable failure in name resolution"), "its name cannot be looked up"),
        (ssl.SSLError(1, "[SSL] broken (_ssl.c:1006)"), "it ended in the middle"),
        (OSError("of a kind of its own"), ""),
        (ValueError("of another kind"), ""),
    ],
)
def test_a_cause_is_told_in_words(error: BaseException, words: str) -> None:
    assert cause(error) == words


def test_what_tls_says_is_told_without_its_source_files() -> None:
    ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(ssl.SSLError) as failed:
        ssl.create_default_context().wrap_bio(ours, theirs, server_hostname="registry.example").do_handshake()
    assert cause(failed.value) in ("wrong version number", "record layer failure")
