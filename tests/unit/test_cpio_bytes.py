"""The bytes of a newc archive, and that it appears whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from banger.host.cpio import RealCpio, character_device, file, folder, header
from banger.model.errors import BadRequest


def test_a_header_has_thirteen_hex_fields() -> None:
    text = header(character_device("dev/console", 5, 1), 7, 0)
    assert text[:6] == b"070701"
    assert [int(text[at : at + 8], 16) for at in range(6, 110, 8)] == [7, 0o20600, 0, 0, 1, 0, 0, 0, 0, 5, 1, 12, 0]
    assert text[110:] == b"dev/console\0\0\0"


def test_everything_is_aligned_and_ends_with_the_trailer(tmp_path: Path) -> None:
    target = tmp_path / "a.cpio"
    RealCpio().write(target, [folder("dev"), file("init", b"12345", 0o755)])
    data = target.read_bytes()
    assert len(data) % 4 == 0
    assert data.rstrip(b"\0").endswith(b"TRAILER!!!")
    assert b"init\0\0" in data
    assert b"12345\x00\x00\x00070701" in data


def test_content_from_a_file_is_the_same_as_from_bytes(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"content" * 1000)
    RealCpio().write(tmp_path / "a", [file("x", b"content" * 1000)])
    RealCpio().write(tmp_path / "b", [file("x", tmp_path / "source")])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("path", ["/init", "a/../b", "a\0b"])
def test_odd_paths_are_refused_and_nothing_is_left(tmp_path: Path, path: str) -> None:
    with pytest.raises(BadRequest):
        RealCpio().write(tmp_path / "a", [file(path, b"")])
    assert list(tmp_path.iterdir()) == []


def test_a_missing_source_leaves_the_old_archive(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(FileNotFoundError):
        RealCpio().write(tmp_path / "a", [file("x", tmp_path / "missing")])
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"old")]
