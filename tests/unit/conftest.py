"""How made-up examples are tried: as they come, however long one takes (what a test claims of time it measures; the first example pays for imports).
And the place that tests of daemons have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import settings

from banger.testing import FakeHost
from tests.place import SETTINGS, Place

settings.register_profile("banger", deadline=None)
settings.load_profile("banger")


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with FakeHost(tmp_path, SETTINGS) as fake, asyncio.timeout(20), AsyncExitStack() as stack:
        yield Place(fake, stack)
