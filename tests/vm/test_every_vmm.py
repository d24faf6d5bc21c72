"""What each VMM must give a guest, beside a life (test_lifecycle), commands (test_exec) and a terminal: files, console, clock, processors."""

from __future__ import annotations

import io
import os
import re
import tarfile
import time

import pytest

from tests.world import World, until

pytestmark = pytest.mark.conformance
#: How far a guest's clock may be off; the question itself takes a while where processors are emulated.
CLOCK_SECONDS = 2.0


def test_a_tree_goes_in_and_comes_back_as_a_tar(shared: World) -> None:
    files = {f"tree/{number}": os.urandom(70_000) for number in range(5)}
    there = io.BytesIO()
    with tarfile.open(fileobj=there, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o640
            archive.addfile(entry, io.BytesIO(data))
    shared.ok("vm", "exec", "-i", "otter", "--", "tar", "-C", "/root", "-xf", "-", data=there.getvalue())
    done = shared.banger("vm", "exec", "otter", "--", "tar", "-C", "/root", "-cf", "-", "tree")
    assert done.returncode == 0, done.stderr
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        back = {entry.name: archive.extractfile(entry) for entry in archive if entry.isfile()}
        assert {name: file.read() for name, file in back.items() if file is not None} == files


def test_the_console_is_in_the_log_and_bounded(world: World) -> None:
    world.env["BANGER_CONSOLE_BYTES"] = "4096"
    world.ok("vm", "create", "--name", "otter")
    world.ok("vm", "exec", "otter", "--", "sh", "-c", "seq 1500 > /dev/ttyS0; echo the-last-line > /dev/ttyS0")
    until(lambda: "the-last-line" in world.ok("vm", "logs", "otter"), "the last line")
    assert "\n1500\nthe-last-line\n" in world.ok("vm", "logs", "otter")
    assert len(world.ok("vm", "logs", "otter")) <= 4096


def test_the_guests_clock_is_the_hosts(shared: World) -> None:
    before = time.time()
    told = float(shared.ok("vm", "exec", "otter", "--", "date", "+%s.%N"))
    assert before - CLOCK_SECONDS < told < time.time() + CLOCK_SECONDS


def test_a_guest_has_the_processors_and_the_memory_that_were_asked_for(world: World) -> None:
    said = world.ok("vm", "run", "--rm", "--vcpu", "2", "--memory", "384M", "--", "sh", "-c", "nproc; cat /proc/meminfo")
    assert said.startswith("2\n")
    found = re.search(r"MemTotal: +(\d+) kB", said)
    assert found is not None
    assert 300 << 10 < int(found[1]) < 384 << 10
