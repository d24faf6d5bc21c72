"""Control groups for real: limits that hold before anybody is in the group, and groups that are gone with the last of them."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

from banger.host.cgroup import Limits, RealCgroups
from tests.world import until

TOP = Path("/sys/fs/cgroup")
LIMITS = Limits(memory_bytes=64 << 20, cpus=1.5, pids=5)


def test_a_group_is_made_with_its_limits_twice_is_once_and_removed_with_who_is_in_it() -> None:
    groups = RealCgroups()
    assert groups.lack() == ""
    before = {path.name for path in TOP.iterdir()}
    assert groups.ensure("banger-test", LIMITS) == groups.ensure("banger-test", LIMITS) == "banger/banger-test"
    place = TOP / "banger" / "banger-test"
    assert [(place / name).read_text().strip() for name in ("memory.max", "cpu.max", "pids.max")] == ["67108864", "150000 100000", "5"]
    with subprocess.Popen(["sleep", "1000"]) as inmate:
        (place / "cgroup.procs").write_text(str(inmate.pid))
        asyncio.run(groups.remove("banger-test"))
        assert inmate.wait(10) == -9
    asyncio.run(groups.remove("banger-test"))
    assert {path.name for path in TOP.iterdir()} == before


def test_the_last_group_takes_ours_away_and_not_before() -> None:
    groups = RealCgroups()
    for name in ("banger-one", "banger-two"):
        groups.ensure(name, LIMITS)
    asyncio.run(groups.remove("banger-one"))
    assert (TOP / "banger" / "banger-two").is_dir()
    asyncio.run(groups.remove("banger-two"))
    assert not (TOP / "banger").exists()


def test_the_limit_of_processes_holds() -> None:
    groups = RealCgroups()
    groups.ensure("banger-test", LIMITS)
    procs = TOP / "banger" / "banger-test" / "cgroup.procs"
    script = f"echo $$ > {procs}; for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; wait"
    with subprocess.Popen(["sh", "-c", script], stderr=subprocess.PIPE, start_new_session=True) as crowd:
        until(lambda: int((procs.parent / "pids.events").read_text().split()[1]) > 0, "a refusal")
        assert len(procs.read_text().split()) <= 5
        asyncio.run(groups.remove("banger-test"))
        crowd.wait(10)
