"""Processes: the same tests on the pretended ones and on real ones, and what only real ones can show."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Protocol

import pytest

from banger.host.detached import Detached
from banger.host.files import RealFiles
from banger.host.proc import Life, Proc, ProcessId, RealProc
from banger.model.errors import HostLacks, TimedOut, ToolFailed
from banger.testing.proc import FakeProc
from banger.testing.stream import FakeDialer

PYTHON = sys.executable


async def until(condition: Callable[[], bool]) -> None:
    """What the kernel does to other processes has no event of its own; the caller bounds the wait."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def ended(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True


class Stage(Protocol):
    proc: Proc

    async def sleeper(self, folder: Path, *words: str) -> ProcessId: ...


class Fake:
    def __init__(self) -> None:
        self.proc = FakeProc(FakeDialer())
        self.proc.programs["sleeper"] = lambda process: None

    async def sleeper(self, folder: Path, *words: str) -> ProcessId:
        return await self.proc.spawn(["sleeper", *words], cwd=folder, output=folder / "log")


class Real:
    def __init__(self) -> None:
        self.proc = RealProc(os.environ["PATH"])

    async def sleeper(self, folder: Path, *words: str) -> ProcessId:
        return await self.proc.spawn([PYTHON, "-c", "import signal; signal.pause()", *words], cwd=folder, output=folder / "log")


@pytest.fixture(params=[Fake, Real], ids=["fake", "real"])
async def stage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stage]:
    made: Stage = request.param()
    yield made
    while (left := made.proc.find([str(tmp_path)])) is not None:
        made.proc.signal(left, signal.SIGKILL)
        await made.proc.gone(left)


@pytest.fixture
def real() -> RealProc:
    return RealProc(os.environ["PATH"])


async def test_a_spawned_process_lives_until_it_is_killed(stage: Stage, tmp_path: Path) -> None:
    process = await stage.sleeper(tmp_path, str(tmp_path))
    assert stage.proc.look(process) is Life.RUNNING
    async with asyncio.timeout(5):
        assert stage.proc.signal(process, signal.SIGKILL)
        await stage.proc.gone(process)
    assert stage.proc.look(process) is Life.GONE
    assert not stage.proc.signal(process, signal.SIGKILL)
    await stage.proc.gone(process)


async def test_a_frozen_process_is_seen_and_can_be_killed(stage: Stage, tmp_path: Path) -> None:
    process = await stage.sleeper(tmp_path, str(tmp_path))
    stage.proc.signal(process, signal.SIGSTOP)
    async with asyncio.timeout(5):
        await until(lambda: stage.proc.look(process) is Life.FROZEN)
        stage.proc.signal(process, signal.SIGKILL)
        await stage.proc.gone(process)


async def test_a_pid_that_was_given_to_another_is_not_touched(stage: Stage, tmp_path: Path) -> None:
    process = await stage.sleeper(tmp_path, str(tmp_path))
    former = ProcessId(process.pid, process.start - 1)
    assert stage.proc.look(former) is Life.GONE
    assert not stage.proc.signal(former, signal.SIGKILL)
    assert stage.proc.look(process) is Life.RUNNING


async def test_a_process_is_found_by_its_words(stage: Stage, tmp_path: Path) -> None:
    process = await stage.sleeper(tmp_path, str(tmp_path), "alpha")
    assert stage.proc.find([str(tmp_path), "alpha"]) == process
    assert stage.proc.find([str(tmp_path), "beta"]) is None
    assert stage.proc.identify(process.pid) == process


async def test_a_recorded_process_is_found_again_and_ended(stage: Stage, tmp_path: Path) -> None:
    def detached() -> Detached:
        return Detached(stage.proc, RealFiles(), tmp_path / "record.json", (str(tmp_path),))

    async def spawn() -> ProcessId:
        return await stage.sleeper(tmp_path, str(tmp_path))

    process = await detached().start(spawn)
    assert await detached().start(spawn) == process
    assert detached().find() == process
    (tmp_path / "record.json").write_text('{"version":1,"pid":0,"start":0}')
    assert detached().find() == process
    stage.proc.signal(process, signal.SIGSTOP)
    async with asyncio.timeout(5):
        await detached().end()
    assert detached().find() is None
    assert not (tmp_path / "record.json").exists()
    await detached().end()


async def test_a_start_that_fails_leaves_no_record(stage: Stage, tmp_path: Path) -> None:
    detached = Detached(stage.proc, RealFiles(), tmp_path / "record.json", (str(tmp_path),))

    async def spawn() -> ProcessId:
        raise ToolFailed("no")

    with pytest.raises(ToolFailed):
        await detached.start(spawn)
    assert not (tmp_path / "record.json").exists()


async def test_a_missing_command_is_named(stage: Stage, tmp_path: Path) -> None:
    with pytest.raises(HostLacks, match="no-such-command"):
        await stage.proc.run(["no-such-command"], timeout=5)
    with pytest.raises(HostLacks, match="no-such-command"):
        await stage.proc.spawn(["no-such-command"], cwd=tmp_path, output=tmp_path / "log")


# --- real ones only


async def test_a_command_gets_its_input_and_gives_its_output(real: RealProc) -> None:
    assert await real.run(["cat"], timeout=5, data=b"x" * 1_000_000) == b"x" * 1_000_000


async def test_a_failing_command_ends_with_its_last_words(real: RealProc) -> None:
    with pytest.raises(ToolFailed, match=r"status 3: one \| two") as caught:
        await real.run([PYTHON, "-c", "import sys; print('one\\ntwo', file=sys.stderr); sys.exit(3)"], timeout=20)
    assert caught.value.tail == ("one", "two")


async def test_lines_are_heard_as_they_come(real: RealProc) -> None:
    heard: list[str] = []
    await real.run([PYTHON, "-c", r"import sys; sys.stderr.buffer.write(b'a\rb\xff\n')"], timeout=20, on_line=heard.append)
    assert heard == ["a", "b\\xff"]


async def test_a_late_command_is_killed_with_its_children(real: RealProc, tmp_path: Path) -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import signal; signal.pause()', sys.argv[1]])"
    with pytest.raises(TimedOut, match="longer than"):
        await real.run([PYTHON, "-c", code, str(tmp_path)], timeout=0.5)
    assert real.find([str(tmp_path)]) is None


async def test_a_cancelled_command_is_killed(real: RealProc, tmp_path: Path) -> None:
    task = asyncio.create_task(real.run([PYTHON, "-c", "import signal; signal.pause()", str(tmp_path)], timeout=60))
    async with asyncio.timeout(5):
        await until(lambda: real.find([str(tmp_path)]) is not None)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert real.find([str(tmp_path)]) is None


async def test_a_command_that_is_cancelled_while_it_begins_is_killed_with_all_it_began(real: RealProc, tmp_path: Path) -> None:
    code = "import os, signal, sys; os.fork(); open(sys.argv[1], 'a').write('.'); signal.alarm(20); signal.pause()"
    task = asyncio.create_task(real.run([PYTHON, "-c", code, str(tmp_path / "two")], timeout=60))
    while real.find([str(tmp_path / "two")]) is None:  # noqa: ASYNC110 (one step of the loop at a time)
        await asyncio.sleep(0)
    deadline = time.monotonic() + 10
    while not (tmp_path / "two").exists() or (tmp_path / "two").stat().st_size < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)  # noqa: ASYNC251 (the loop is to stand still meanwhile, as on a busy host)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert real.find([str(tmp_path / "two")]) is None


async def test_output_without_end_is_cut_off(real: RealProc) -> None:
    with pytest.raises(ToolFailed, match="printed more than"):
        await real.run(["cat", "/dev/zero"], timeout=20)


async def test_a_socket_is_served_from_before_the_process_is_ready(real: RealProc, tmp_path: Path) -> None:
    code = "import socket, sys; c = socket.socket(fileno=int(sys.argv[1])).accept()[0]; c.sendall(b'here')"
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    (folder / "s").write_text("left from before")
    process = await real.spawn([PYTHON, "-c", code, "%s%"], cwd=folder, output=folder / "log", listen=["s"])
    reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{os.open(folder, os.O_PATH)}/s")
    async with asyncio.timeout(20):
        assert await reader.read() == b"here"
        await real.gone(process)
    writer.close()
    assert (folder / "s").stat().st_mode & 0o777 == 0o600


async def test_a_process_that_dies_before_it_serves_ends_the_connection(real: RealProc, tmp_path: Path) -> None:
    process = await real.spawn([PYTHON, "-c", "input()", "%s%"], cwd=tmp_path, output=tmp_path / "log", listen=["s"])
    reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
    async with asyncio.timeout(20):
        assert await ended(reader)
        await real.gone(process)
    writer.close()
    assert b"EOFError" in real.said(tmp_path / "log")
    assert real.said(tmp_path / "log") == b""


async def test_a_process_that_prints_without_end_is_neither_stalled_nor_kept(real: RealProc, tmp_path: Path) -> None:
    code = "import os, sys\nfor _ in range(1000):\n  try: os.write(1, b'x' * 4096)\n  except BlockingIOError: pass"
    process = await real.spawn([PYTHON, "-c", code], cwd=tmp_path, output=tmp_path / "log")
    async with asyncio.timeout(20):
        await real.gone(process)
    assert len(real.said(tmp_path / "log")) == 65536


async def test_what_another_daemons_process_prints_can_be_read(real: RealProc, tmp_path: Path) -> None:
    code = "import signal, sys; print('hello', flush=True); signal.pause()"
    process = await real.spawn([PYTHON, "-c", code, str(tmp_path)], cwd=tmp_path, output=tmp_path / "log")
    heard = b""
    async with asyncio.timeout(20):
        while not heard:
            heard = RealProc(os.environ["PATH"]).said(tmp_path / "log")
            await asyncio.sleep(0.01)
    assert heard == b"hello\n"
    real.signal(process, signal.SIGKILL)
    await real.gone(process)
