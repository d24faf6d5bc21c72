"""Modules in load order, from what the modules say themselves."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from banger.host.kmod import RealKmod, modinfo
from banger.model.errors import Corrupt, NotFound


def module(*fields: str) -> bytes:
    """A minimal ELF64: header, the sections' content, and a table of three sections (none, .modinfo, .shstrtab)."""
    info = b"".join(field.encode() + b"\0" for field in fields)
    names = b"\0.modinfo\0.shstrtab\0"
    table = 64 + len(info) + len(names)
    head = b"\x7fELF\x02\x01\x01".ljust(40, b"\0") + struct.pack("<QIHHHHHH", table, 0, 64, 0, 0, 64, 3, 2)
    rows = [(0, 0, 0, 0, 0, 0), (1, 1, 0, 0, 64, len(info)), (10, 3, 0, 0, 64 + len(info), len(names))]
    return head + info + names + b"".join(struct.pack("<IIQQQQ", *row).ljust(64, b"\0") for row in rows)


def modules(folder: Path, **depends: str) -> Path:
    (folder / "kernel/drivers").mkdir(parents=True)
    for name, needed in depends.items():
        (folder / f"kernel/drivers/{name.replace('_', '-')}.ko").write_bytes(module("license=GPL", f"depends={needed}", f"name={name}"))
    (folder / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")
    return folder


def test_each_comes_after_what_it_needs(tmp_path: Path) -> None:
    folder = modules(tmp_path, virtio="", virtio_ring="virtio", virtio_net="virtio-ring,net_failover", net_failover="failover", failover="", unused="")
    order = [path.stem for path in RealKmod().closure(folder, ["virtio_net", "virtio-ring"])]
    assert order == ["virtio", "virtio-ring", "failover", "net-failover", "virtio-net"]


def test_what_is_built_in_is_left_out(tmp_path: Path) -> None:
    assert RealKmod().closure(modules(tmp_path, jbd2="ext4"), ["ext4", "jbd2"]) == [tmp_path / "kernel/drivers/jbd2.ko"]


def test_a_missing_module_is_named_with_who_needs_it(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="module gone, which a needs, is not"):
        RealKmod().closure(modules(tmp_path, a="gone"), ["a"])


def test_modules_that_need_each_other_come_to_an_end(tmp_path: Path) -> None:
    assert len(RealKmod().closure(modules(tmp_path, a="b", b="a"), ["a"])) == 2


@pytest.mark.parametrize("content", [b"", b"\x7fELF\x02\x01" + b"\xff" * 80, module()[:-100], b"text"])
def test_what_is_no_module_is_corrupt(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.ko").write_bytes(content)
    with pytest.raises(Corrupt, match=r"x\.ko is not a kernel module"):
        modinfo(tmp_path / "x.ko")
