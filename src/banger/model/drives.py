"""Drives: which files or devices a machine's VMM opens for its disk, and what the agent is told about each. Pure; every VMM reads it from here.

Two shapes. Over an image that is only read (`lower`) lies the machine's own file (`upper`), and the agent lays one over the other; or the machine has
one disk that it may write all of (`root`), which the agent mounts as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from banger.model.parts import DiskPart
from banger.model.paths import Paths


class Drive(msgspec.Struct, frozen=True, kw_only=True):
    """A raw file or block device; `role` (lower, upper, root) is unique in a machine, and its name where it can have one."""

    role: str
    path: str
    read_only: bool = False


def drives(disk: DiskPart, paths: Paths) -> tuple[Drive, ...]:
    """The drives of a disk, in the order in which the guest sees them."""
    match disk.backend:
        case "reflink":
            return (Drive(role="root", path=str(paths.own_disk(disk.vm))),)
        case "devmapper":
            return (Drive(role="root", path=str(paths.snapshot(disk.vm))),)
        case _:
            return Drive(role="lower", path=disk.base, read_only=True), Drive(role="upper", path=str(paths.overlay(disk.vm)))


def leans(disk: DiskPart) -> bool:
    """Whether the disk is nothing without the image's file; a clone stands by itself once it is made."""
    return disk.backend != "reflink"


def words(found: Iterable[Drive], called: Callable[[int, Drive], str]) -> tuple[str, ...]:
    """What the guest's kernel is told, for the agent to read: which disk has which role. `called`: how the guest finds a drive, by its place."""
    return tuple(f"banger.{drive.role}={called(place, drive)}" for place, drive in enumerate(found))


def by_letter(place: int, drive: Drive) -> str:
    """For a guest that sees its disks in the order in which they were given."""
    return f"vd{'abc'[place]}"


def by_serial(place: int, drive: Drive) -> str:
    """For a guest that is shown each drive's role as its serial number."""
    return drive.role
