"""Mapped disks: pretended anywhere, and by the kernel in the lab machine, where it has device-mapper."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from banger.host import loop
from banger.host.dm import Dm, Mapping, RealDm, node
from banger.model.errors import Busy, HostLacks
from banger.testing.dm import FakeDm
from tests.world import until

LAB = bool(os.environ.get("BANGER_LAB"))
NAME = f"banger-{os.getpid():012x}"
MIB = 1 << 20
SIZE = 16 * MIB


@pytest.fixture(params=["fake", "real"] if LAB else ["fake"])
async def dm(request: pytest.FixtureRequest) -> AsyncIterator[Dm]:
    """Either of them; no map and no loop device is left."""
    made: Dm = FakeDm() if request.param == "fake" else RealDm(os.geteuid())
    yield made
    if isinstance(made, FakeDm):
        made.held.clear()
    await made.remove(NAME)
    assert await made.names() == []
    until(lambda: not any(name.startswith(NAME) for name in loop.names()), "the end of the loop devices")
    assert not node(NAME).exists()


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A base of 4 MiB, and an empty file for what is written."""
    (tmp_path / "base").write_bytes(b"base" * MIB)
    (tmp_path / "cow").touch()
    os.truncate(tmp_path / "cow", SIZE + 2 * MIB)
    return {"base": tmp_path / "base", "cow": tmp_path / "cow"}


def mapping(files: dict[str, Path]) -> Mapping:
    return Mapping(name=NAME, base=str(files["base"]), cow=str(files["cow"]), size=SIZE)


async def test_made_twice_is_once_and_removed_twice_too(dm: Dm, files: dict[str, Path]) -> None:
    assert await dm.trouble() == ""
    for _ in range(2):
        await dm.make(mapping(files))
        assert await dm.names() == [NAME, f"{NAME}-base"]
    for _ in range(2):
        await dm.remove(NAME)
        assert await dm.names() == []


async def test_a_missing_file_is_an_error_and_leaves_nothing(dm: Dm, files: dict[str, Path]) -> None:
    files["cow"].unlink()
    with pytest.raises(HostLacks, match=f"{NAME} cannot be mapped"):
        await dm.make(mapping(files))
    assert await dm.names() == []


async def test_one_that_is_kept_open_is_busy(dm: Dm, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("banger.host.dm.PATIENCE", 0.1)
    await dm.make(mapping(files))
    descriptor = -1
    if isinstance(dm, FakeDm):
        dm.held.add(NAME)
    else:
        descriptor = os.open(node(NAME), os.O_RDONLY)
    with pytest.raises(Busy, match="kept open"):
        await dm.remove(NAME)
    if isinstance(dm, FakeDm):
        dm.held.clear()
    else:
        os.close(descriptor)
    await dm.remove(NAME)
