"""Our archives are what another reader of the same format takes them for."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from banger.host.cpio import RealCpio, character_device, file, folder, link


def listed(archive: Path) -> list[list[str]]:
    """Each member's row, as cpio(1) or bsdtar(1) prints it."""
    for tool, arguments in (("cpio", ["--list", "--verbose", "--numeric-uid-gid", "--quiet"]), ("bsdtar", ["--list", "--verbose", "--file", "-"])):
        if shutil.which(tool):
            with archive.open("rb") as reader:
                said = subprocess.run([tool, *arguments], stdin=reader, capture_output=True, text=True, check=True).stdout
            return [line.split() for line in said.splitlines()]
    pytest.skip("cpio and libarchive-tools (bsdtar) are missing")


def test_another_reader_sees_every_member_in_order(tmp_path: Path) -> None:
    (tmp_path / "module").write_bytes(b"m" * 4097)
    entries = [
        folder("dev"),
        character_device("dev/console", 5, 1),
        file("init", b"#!", 0o755),
        file("a.ko", tmp_path / "module"),
        link("sh", "init"),
    ]
    RealCpio().write(tmp_path / "a.cpio", entries)
    rows = listed(tmp_path / "a.cpio")
    assert [row[0] for row in rows] == ["drwxr-xr-x", "crw-------", "-rwxr-xr-x", "-rw-r--r--", "lrwxrwxrwx"]
    assert [row[8] if len(row) > 8 else row[-1] for row in rows][2:] == ["init", "a.ko", "sh"]
    assert rows[3][4] == "4097"
