"""The three pipes of a command that is awaited: fed and drained at once, each bounded; and its end, with all that it started."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from banger.model.errors import ToolFailed

log = logging.getLogger(__name__)
LIMIT = 8 << 20
LINE = 1 << 16


async def begun(beginning: asyncio.Task[asyncio.subprocess.Process]) -> asyncio.subprocess.Process:
    """A command once it has begun. Who is cancelled meanwhile still waits for that, which is short, and ends it with all that it has started by then:
    asyncio itself would kill the command only."""
    try:
        await asyncio.wait([beginning])
    except asyncio.CancelledError:
        await asyncio.wait([beginning])
        if beginning.exception() is None:
            await end_group(beginning.result())
        raise
    return beginning.result()


async def finish(process: asyncio.subprocess.Process, name: str, data: bytes, on_line: Callable[[str], None] | None) -> bytes:
    """Feed and drain all three pipes at once; the last lines of stderr become the error's text."""
    last: list[str] = []

    async def errors(stream: asyncio.StreamReader) -> None:
        async for line in _lines(stream):
            last.append(line)
            del last[:-12]
            if on_line is not None:
                on_line(line)

    async def feed(stream: asyncio.StreamWriter) -> None:
        try:
            stream.write(data)
            await stream.drain()
            stream.close()
        except (BrokenPipeError, ConnectionResetError):
            log.debug("%s closed its stdin early", name)

    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.TaskGroup() as group:
            output = group.create_task(_bounded(process.stdout, name))
            group.create_task(errors(process.stderr))
            if process.stdin is not None:
                group.create_task(feed(process.stdin))
    except ExceptionGroup as group_of_one:
        raise group_of_one.exceptions[0] from None
    status = await process.wait()
    if status:
        raise ToolFailed(f"{name} failed with status {status}: {' | '.join(last[-4:]) or 'it said nothing'}", tail=tuple(last))
    return output.result()


async def _bounded(stream: asyncio.StreamReader, name: str) -> bytes:
    parts = bytearray()
    while chunk := await stream.read(LINE):
        parts += chunk
        if len(parts) > LIMIT:
            raise ToolFailed(f"{name} printed more than {LIMIT} bytes")
    return bytes(parts)


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    """Lines of a stream, split at newline or carriage return (progress bars), cut at 64 KiB, undecodable bytes shown as escapes."""
    rest = b""
    while chunk := await stream.read(LINE):
        *lines, rest = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            if line.strip():
                yield line.decode("utf-8", "backslashreplace")
        rest = rest[-LINE:]
    if rest.strip():
        yield rest.decode("utf-8", "backslashreplace")


async def end_group(process: asyncio.subprocess.Process) -> None:
    """Leave no member of the command's group behind: TERM (so that tools clean up), two seconds, KILL."""
    if process.returncode is not None and process.stdout is not None and process.stdout.at_eof():
        return
    try:
        os.killpg(process.pid, signal.SIGTERM)
        async with asyncio.timeout(2):
            await process.wait()
    except ProcessLookupError:
        log.debug("process group %d is gone", process.pid)
    except TimeoutError:
        log.warning("process %d ignores SIGTERM", process.pid)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    with suppress(TimeoutError):
        async with asyncio.timeout(2):
            await process.communicate()  # what is still in the pipes, so that they close
