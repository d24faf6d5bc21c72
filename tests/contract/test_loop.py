"""Loop devices of the kernel: over a file, found by name, and gone with their last opener."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from banger.host import loop
from tests.world import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="root is needed for loop devices")
NAME = f"banger-test-{os.getpid()}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 4096 + bytes(4096))
    return path


def test_a_loop_device_is_over_its_file_and_ends_with_the_context(file: Path) -> None:
    with loop.attached(file, name=NAME) as (major, minor):
        assert loop.names()[NAME] == file
        with open(f"/dev/loop{minor}", "r+b", buffering=0) as device:
            assert (os.major(os.fstat(device.fileno()).st_rdev), device.read(4096)) == (major, b"x" * 4096)
            device.write(b"y" * 4096)
            os.fsync(device.fileno())
    until(lambda: NAME not in loop.names(), "the end of the loop device")
    assert file.read_bytes() == b"x" * 4096 + b"y" * 4096


def test_a_file_that_is_only_read_cannot_be_written(file: Path) -> None:
    with loop.attached(file, name=NAME, read_only=True) as (_, minor):
        assert Path(f"/sys/block/loop{minor}/ro").read_text() == "1\n"


def test_it_lasts_as_long_as_another_has_it_open(file: Path) -> None:
    with loop.attached(file, name=NAME) as (_, minor):
        device = os.open(f"/dev/loop{minor}", os.O_RDONLY)
    assert NAME in loop.names()
    os.close(device)
    until(lambda: NAME not in loop.names(), "the end of the loop device")


def test_a_killed_maker_leaves_none(file: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from banger.host import loop
with loop.attached(Path({str(file)!r}), name={NAME!r}):
    assert {NAME!r} in loop.names()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    until(lambda: NAME not in loop.names(), "the end of the loop device")


def test_many_at_once_each_get_their_own(file: Path) -> None:
    with loop.attached(file, name=f"{NAME}-a", read_only=True) as first, loop.attached(file, name=f"{NAME}-b", read_only=True) as second:
        assert first != second
        assert {f"{NAME}-a", f"{NAME}-b"} <= set(loop.names())


def test_a_symlink_is_not_followed_and_a_missing_file_is_an_error(tmp_path: Path, file: Path) -> None:
    (tmp_path / "link").symlink_to(file)
    for name in ("link", "missing"):
        with pytest.raises(OSError), loop.attached(tmp_path / name, name=NAME):  # noqa: PT011 (which one is the kernel's choice)
            pass
    assert NAME not in loop.names()
