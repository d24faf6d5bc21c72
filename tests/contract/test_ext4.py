"""File systems made by mkfs.ext4 are sound, sparse and hold what was given."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from banger.host.ext4 import RealExt4
from banger.host.files import RealFiles
from banger.host.proc import RealProc
from banger.model.errors import Corrupt, ToolFailed

MIB = 1 << 20


def ext4() -> RealExt4:
    return RealExt4(RealProc(os.environ["PATH"]))


def ask(path: Path, question: str) -> str:
    tool = RealProc(os.environ["PATH"]).which("debugfs")
    assert tool is not None, "debugfs comes with mkfs.ext4"
    return subprocess.run([tool, "-R", question, path], capture_output=True, text=True, check=True).stdout


def sound(path: Path) -> bool:
    tool = RealProc(os.environ["PATH"]).which("e2fsck")
    assert tool is not None, "e2fsck comes with mkfs.ext4"
    return subprocess.run([tool, "-fn", path], capture_output=True).returncode == 0


async def test_a_blank_one_of_8_gib_takes_next_to_nothing(tmp_path: Path) -> None:
    path = tmp_path / "blank.ext4"
    await ext4().make_blank(path, 8192 * MIB)
    assert path.stat().st_size == 8192 * MIB
    assert RealFiles().used_bytes(path) < 16 * MIB
    assert sound(path)
    assert "has_journal" in ask(path, "features")


async def test_a_root_holds_the_folder_and_is_roots(tmp_path: Path) -> None:
    (tmp_path / "tree/etc").mkdir(parents=True)
    (tmp_path / "tree/etc/hostname").write_text("hello\n")
    path = tmp_path / "root.ext4"
    await ext4().make_root(path, 32 * MIB, folder=tmp_path / "tree", label="a-test")
    assert sound(path)
    assert ask(path, "cat /etc/hostname") == "hello\n"
    assert "User:     0   Group:     0" in ask(path, "stat /")
    assert ext4().has_journal(path)


def test_what_is_no_file_system_or_has_no_journal_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "none").write_bytes(bytes(4096))
    with pytest.raises(Corrupt, match="is no ext4"):
        ext4().has_journal(tmp_path / "none")
    (tmp_path / "plain").write_bytes(bytes(8 * MIB))
    tool = RealProc(os.environ["PATH"]).which("mkfs.ext4")
    assert tool is not None
    subprocess.run([tool, "-q", "-O", "^has_journal", tmp_path / "plain"], check=True)
    assert not ext4().has_journal(tmp_path / "plain")


async def test_content_that_does_not_fit_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/large").write_bytes(os.urandom(12 * MIB))
    with pytest.raises(Exception, match="no space left"):
        await ext4().make_root(tmp_path / "root.ext4", 8 * MIB, folder=tmp_path / "tree", label="a-test")
    assert not (tmp_path / "root.ext4").exists()


async def test_a_size_that_is_none_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ToolFailed):
        await ext4().make_blank(tmp_path / "tiny.ext4", 512)
    assert not (tmp_path / "tiny.ext4").exists()
