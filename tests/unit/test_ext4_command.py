"""How file systems are asked for, and what a failure means."""

from __future__ import annotations

from pathlib import Path

import pytest

from banger.host.ext4 import RealExt4, blank_command, root_command, told
from banger.host.proc import RealProc
from banger.model.errors import NoSpace, ToolFailed


def test_a_root_is_owned_by_root_and_has_a_journal() -> None:
    command = root_command(Path("/x/rootfs.ext4"), Path("/x/tree"), "debian-bookworm-slim")
    assert command[-3:] == ["-d", "/x/tree", "/x/rootfs.ext4"]
    assert "has_journal" not in command[command.index("-O") + 1]
    assert command[command.index("-E") + 1].startswith("root_owner=0:0")
    assert command[command.index("-L") + 1] == "debian-bookworm-"


def test_the_same_label_gives_the_same_uuid() -> None:
    first, second = (root_command(Path("/a"), Path("/t"), "x") for _ in range(2))
    assert first == second


def test_a_blank_one_is_lazy() -> None:
    assert "lazy_itable_init=1,lazy_journal_init=1,nodiscard" in blank_command(Path("/a"))


@pytest.mark.parametrize("line", ["mkfs.ext4: No space left on device while writing", "Could not allocate block in ext2 filesystem"])
def test_a_full_file_system_is_told_as_such(line: str) -> None:
    assert isinstance(told(ToolFailed("failed", tail=(line,)), Path("/a")), NoSpace)


def test_other_failures_stay_what_they_are() -> None:
    failure = ToolFailed("failed", tail=("bad option",))
    assert told(failure, Path("/a")) is failure


async def test_an_existing_file_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        await RealExt4(RealProc("")).make_blank(tmp_path / "a", 1 << 20)
    assert (tmp_path / "a").read_bytes() == b"precious"
