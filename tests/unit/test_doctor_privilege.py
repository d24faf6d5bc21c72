"""Doctor's row on privilege: by what right networks and disks that need root can be had."""

from __future__ import annotations

from pathlib import Path

import pytest

from banger.daemon.doctor import diagnose
from banger.host.privilege import Means, Standing
from banger.host.sqlite import RealDatabases
from banger.model.build import build_id
from banger.model.finding import Finding, Level
from banger.testing import FakeHost


async def row(fake: FakeHost, root: Path) -> Finding:
    (found,) = [one for one in await diagnose(fake.host, RealDatabases(), root) if one.subject == "privilege"]
    return found


@pytest.fixture
def fake(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


def helper(*roots: Path, build: str = "") -> Standing:
    return Standing(means=Means.HELPER, pid=7, build=build or build_id(), owner=1000, roots=tuple(map(str, roots)))


async def test_that_there_is_none_is_no_fault_and_says_how_to_get_it(fake: FakeHost, tmp_path: Path) -> None:
    found = await row(fake, tmp_path)
    assert (found.level, found.fix) == (Level.PASS, "as root: banger system install --owner USER")


async def test_one_that_does_not_answer_is_worth_a_look(fake: FakeHost, tmp_path: Path) -> None:
    fake.privilege.reason = "the privileged helper does not answer"
    assert (await row(fake, tmp_path)).level is Level.WARN


async def test_root_needs_none(fake: FakeHost, tmp_path: Path) -> None:
    fake.privilege.now = Standing(means=Means.ROOT, pid=1, build="", owner=0)
    assert (await row(fake, tmp_path)).message == "banger is root itself"


async def test_one_for_our_folders_and_of_our_build_is_right(fake: FakeHost, tmp_path: Path) -> None:
    fake.privilege.now = helper(tmp_path)
    assert await row(fake, tmp_path) == Finding(level=Level.PASS, subject="privilege", message="the privileged helper serves this user")


async def test_one_for_other_folders_says_which_to_add(fake: FakeHost, tmp_path: Path) -> None:
    fake.privilege.now = helper(tmp_path / "elsewhere")
    assert (await row(fake, tmp_path)).fix.endswith(f"--root {tmp_path / 'state'}")


async def test_an_old_one_is_to_be_installed_again(fake: FakeHost, tmp_path: Path) -> None:
    fake.privilege.now = helper(tmp_path, build="0.0.1+1")
    assert "another build" in (await row(fake, tmp_path)).message
