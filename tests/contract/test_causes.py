"""What is told of servers and proxies that cannot be reached or end a connection before its time: real ones, on loopback."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from pathlib import Path

import pytest

from banger.host.web import RealWeb
from banger.model.errors import DownloadFailed


async def said_of(url: str, place: Path) -> str:
    """What somebody is told who fetches from there."""
    with pytest.raises(DownloadFailed) as failed:
        await RealWeb(pause=0.01).fetch(url, place / "a", limit=1 << 20)
    return str(failed.value)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
async def test_who_refuses_connections_is_told_so(name: str, tmp_path: Path) -> None:
    assert (await said_of(f"http://{name}:1/a", tmp_path)).partition(",")[0] == f"{name}:1 cannot be reached: connection refused"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "broke the connection off: it has not answered"),
        (b"220 mail.example ESMTP\r\n", "broke the connection off: what it answers is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhere", "cut .* short|broke the connection off: the answer is not whole"),
        (None, "broke the connection off: (connection reset by peer|it has not answered)"),
    ],
)
async def test_how_a_connection_ended_is_told_in_words(answer: bytes | None, words: str, tmp_path: Path) -> None:
    async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if answer is None:  # a reset, as SO_LINGER has it for 0 s
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            writer.write(answer)
        writer.close()

    async with await asyncio.start_server(answered, "127.0.0.1", 0) as server:
        said = await said_of(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/a", tmp_path)
    assert re.search(words, said)
    assert not re.search(r"[\[<]|Errno|Error|message=", said)


@pytest.mark.parametrize(
    ("answer", "words"),
    [(b"HTTP/1.1 403 Forbidden\r\n\r\n", "does not let it pass: 403 Forbidden"), (None, "cannot be reached: connection refused")],
)
async def test_a_proxy_that_is_in_the_way_is_told(answer: bytes | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer or b"")
        writer.close()

    async with await asyncio.start_server(answered, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1] if answer else 1
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
        said = await said_of("https://registry.example/a", tmp_path)
    assert said.startswith(f"the proxy on the way to registry.example {words}")
