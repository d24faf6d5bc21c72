"""Calls over a real message bus, and over one that is not well."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger.host import bus
from banger.model.errors import HostLacks, TimedOut, ToolFailed

BUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")


@pytest.fixture
def real(short_path: Path) -> Iterator[Path]:
    if shutil.which("dbus-daemon") is None:
        pytest.skip("dbus-daemon is missing")
    path = short_path / "bus"
    command = ["dbus-daemon", "--session", "--nofork", "--nopidfile", "--print-address", f"--address=unix:path={path}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        yield path
        process.terminate()


async def test_methods_are_called_with_what_they_take_and_their_errors_told(real: Path) -> None:
    async with bus.connected(real) as found:
        for _ in range(2):
            await found.call(*BUS, "RequestName", "su", ["vm.banger.Test", 0])
            await found.call(*BUS, "ReleaseName", "s", ["vm.banger.Test"])
        with pytest.raises(ToolFailed, match=r"RequestName: .*expected su"):
            await found.call(*BUS, "RequestName", "s", ["vm.banger.Test"])
        with pytest.raises(ToolFailed, match=r"RevertLink: .*org.freedesktop.resolve1"):
            await found.call("org.freedesktop.resolve1", "/org/freedesktop/resolve1", "org.freedesktop.resolve1.Manager", "RevertLink", "i", [7])
        await found.call(*BUS, "GetId")


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (b"", TimedOut),
        (b"REJECTED EXTERNAL\r\n", HostLacks),
        (b"x" * 100_000, HostLacks),
        (b"OK 1234\r\n" + b"B" * 64, HostLacks),
        (b"OK 1234\r\nl\2\1\1\0\0\0\0\1\0\0\0\xff\xff\xff\xff", HostLacks),
        (b"OK 1234\r\nl\2\1\1\0\0\0\0\1\0\0\0\x08\0\0\0\5\1u\0\1\0\0", HostLacks),
        (None, HostLacks),
    ],
    ids=["silent", "refuses", "talks", "another byte order", "a long header", "the end within a header", "the end"],
)
async def test_a_bus_that_is_not_well_is_told_in_time(
    short_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes | None, kind: type[Exception]
) -> None:
    monkeypatch.setattr(bus, "TIMEOUT", 0.5)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n")
        writer.write(said or b"")
        if said:
            writer.write_eof()
        if said is None:
            writer.close()

    async with await asyncio.start_unix_server(talk, short_path / "bus"):
        with pytest.raises(kind):
            async with bus.connected(short_path / "bus"):
                pass


async def test_where_there_is_no_bus_that_is_told(short_path: Path) -> None:
    with pytest.raises(HostLacks, match="cannot be used"):
        async with bus.connected(short_path / "bus"):
            pass
