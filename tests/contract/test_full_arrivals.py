"""A disk that fills up at any point of any way in which images, kernels and catalogs come and go: it is told as that, nothing half made is there, and
once there is room the same command does what it is for.

The file system is real and small, and full to the last page; what banger asks of its room beforehand is answered as it was before somebody took it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger.host.files import RealFiles
from banger.model.errors import BangerError, NoSpace, foreseen
from tests.arrivals import WAYS, Way, copy, ground, state, unsound
from tests.dying import look, prepare, strangers

PAGE, ROOMY = 4096, 1 << 40
#: In pages.
ROOMS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 17, 22, 30, 40, 60, 80, 110, 150, 200, 280, 400, 600, 900)
#: What makes room needs none.
FREEING = ("delete", "prune", "prune the cache")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="root is needed to mount a small file system")


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(RealFiles, "free_bytes", lambda *_: ROOMY)
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "banger-test", place], check=True)
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def fill(folder: Path, room: int) -> Path:
    """A file that takes all there is, but for so many pages."""
    with (folder / "filler").open("wb", buffering=0) as file:
        free = os.statvfs(folder)
        file.write(bytes((free.f_bavail * free.f_frsize) - room * PAGE))
    return folder / "filler"


async def attempt(way: Way, root: Path, room: int, before: dict[str, str], after: dict[str, str]) -> bool:
    """Whether there was room enough."""
    async with ground(root) as place:
        daemon = await place.daemon()
        filler, failed = fill(root.parent, room), None
        try:
            await way.act(place, daemon)
        except (BangerError, OSError) as error:
            failed = error
        finally:
            filler.unlink()
        assert failed is None or isinstance(foreseen(failed), NoSpace), repr(failed)
        assert not (failed and way.name in FREEING), "what makes room needs some"
        assert unsound(place) == []
        assert strangers(state(place), before, after) == []
        await way.act(place, daemon)
        assert (unsound(place), state(place)) == ([], after)
        return failed is None


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_wherever_the_room_ends_it_is_told_and_nothing_is_left(way: Way, small: Path) -> None:
    before: dict[str, str] = {}
    after: dict[str, str] = {}
    ready, root = small / "ready", small / "tried"
    asyncio.run(prepare(way, ready))
    asyncio.run(look(ready, before))
    copy(ready, root)
    asyncio.run(finish(way, root))
    asyncio.run(look(root, after))
    shutil.rmtree(root)
    refused = 0
    for room in ROOMS:
        copy(ready, root)
        enough = asyncio.run(attempt(way, root, room, before, after))
        refused += not enough
        shutil.rmtree(root)
        if enough:
            break
    assert enough
    assert refused > 0 or way.name in FREEING


async def finish(way: Way, root: Path) -> None:
    async with ground(root) as place:
        await way.act(place, await place.daemon())
