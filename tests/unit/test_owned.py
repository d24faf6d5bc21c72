"""Whose a map is, as the kernel shows it: by the files below it."""

from __future__ import annotations

from pathlib import Path

import pytest

from banger.host.links import Link
from banger.host.owned import files_below, whose
from banger.model.rules import Owner

ADA = Owner(uid=1000, gid=1000, roots=(Path("/home/ada/banger"),))
NAME = "banger-0123456789ab"


def mapped(sysfs: Path, number: int, name: str, *files: str) -> None:
    (sysfs / f"dm-{number}" / "dm").mkdir(parents=True)
    (sysfs / f"dm-{number}" / "dm" / "name").write_text(f"{name}\n")
    for at, file in enumerate(files):
        loop = sysfs / f"dm-{number}" / "slaves" / f"loop{number}{at}" / "loop"
        loop.mkdir(parents=True)
        (loop / "backing_file").write_text(f"{file}\n")


def test_a_mapped_disk_lies_over_the_files_of_both_its_maps(tmp_path: Path) -> None:
    mapped(tmp_path, 0, f"{NAME}-base", "/images/rootfs.ext4")
    mapped(tmp_path, 1, NAME, "/vms/disk.cow (deleted)")
    mapped(tmp_path, 2, "banger-0123456789ac", "/other")
    assert sorted(files_below(NAME, tmp_path)) == ["/images/rootfs.ext4", "/vms/disk.cow (deleted)"]


def test_a_map_that_was_only_begun_lies_over_nothing(tmp_path: Path) -> None:
    mapped(tmp_path, 0, NAME)
    assert list(files_below(NAME, tmp_path)) == []


@pytest.mark.parametrize(
    ("link", "good"),
    [
        (Link(name="br-banger", kind="bridge", alias="banger at /home/ada/banger"), True),
        (Link(name="br-banger", kind="bridge", alias="banger at /home/bob/banger"), False),
        (Link(name="br-banger", kind="bridge", alias=""), False),
        (Link(name="bgr-2", kind="tun", owner=1000), True),
        (Link(name="bgr-2", kind="tun", owner=0), False),
        (Link(name="bgr-2", kind="tun"), False),
        (Link(name="bgr-2", kind="veth", owner=1000), False),
        (Link(name="bgr-2"), False),
    ],
)
def test_an_interface_is_the_users_by_its_alias_or_its_owner(link: Link, good: bool) -> None:
    assert (whose(link, ADA) == "") is good
