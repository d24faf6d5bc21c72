"""What a jail is furnished with, and how it is emptied: the files and devices that a process sees that has no other root than one folder.

A file is a hard link where the jail is on the same file system, else a mount of that one file; a device is a node of its own. What is only read stays
root's and is readable by others, who get to it through jails alone: the folders that lead to it are private. What is written belongs to the jail's
user as long as the jail is there. Emptying undoes mounts first, follows no link, and touches nothing outside the folder it is given. Needs root.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import msgspec

from banger.host.files import explain
from banger.model.errors import HostLacks

#: linux/mount.h, umount(2).
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8


class Thing(msgspec.Struct, frozen=True, kw_only=True):
    """A file, block device or (to be written) named pipe on the host, `source`, and the plain `name` it has in the jail's root.

    `lent`: the file is not banger's, so nothing about it is changed: it gets no other mode, and is shown by a mount that is read-only.
    """

    name: str
    source: str
    read_only: bool
    lent: bool = False


class Jails(Protocol):
    """What banger does for jails. Users and groups have the same numbers."""

    def lack(self, folder: Path, first: int, last: int) -> str:
        """Why there can be no jail below `folder` for these users; empty when there can. Changes nothing."""

    def furnish(self, root: Path, things: Iterable[Thing], uid: int) -> None:
        """Make the folder `root`, the user's own, with these things in it. HostLacks when one cannot be put there."""

    def owner(self, root: Path) -> int:
        """Whose jail it is; -1 when there is none."""

    def give_back(self, path: Path) -> None:
        """Make a file ours again that a jail's user was given; missing is success."""

    def empty(self, folder: Path) -> None:
        """Undo all mounts below `folder` and remove it; missing is success. HostLacks, with everything still there, when a mount stays."""


class RealJails:
    """The host's."""

    def __init__(self) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)

    def lack(self, folder: Path, first: int, last: int) -> str:
        """See Jails."""
        if os.geteuid() != 0:
            return "only root can make jails"
        if not mapped(Path("/proc/self/uid_map").read_text(), first, last) or not mapped(Path("/proc/self/gid_map").read_text(), first, last):
            return f"the users {first} to {last} do not exist in this user namespace"
        for place in ("passwd", "group", "subuid", "subgid"):
            with suppress(FileNotFoundError):
                somebody = belongs(Path("/etc", place).read_text(errors="replace"), first, last)
                if somebody:
                    return f"the users {first} to {last} are not free: /etc/{place} gives some of them to {somebody}"
        while not folder.exists():
            folder = folder.parent
        flags = os.statvfs(folder).f_flag
        for flag, name in ((os.ST_NODEV, "nodev"), (os.ST_NOEXEC, "noexec")):
            if flags & flag:
                return f"the file system of {folder} is mounted {name}"
        return ""

    def furnish(self, root: Path, things: Iterable[Thing], uid: int) -> None:
        """See Jails."""
        root.mkdir(mode=0o700, parents=True)
        for thing in things:
            try:
                self._put(Path(thing.source).resolve(strict=True), root / thing.name, thing, uid)
            except OSError as error:
                told = explain(error, root)
                reason = error.strerror or str(error)
                raise HostLacks(f"cannot put {thing.source} into a jail: {reason}", hint="or set jailer to no") if told is error else told from error
        os.chown(root, uid, uid)

    def _put(self, source: Path, target: Path, thing: Thing, uid: int) -> None:
        status, read_only = source.stat(), thing.read_only
        if stat.S_ISBLK(status.st_mode):
            os.mknod(target, stat.S_IFBLK | (0o400 if read_only else 0o600), status.st_rdev)
            os.chown(target, uid, uid)
            return
        if not stat.S_ISREG(status.st_mode) and (read_only or not stat.S_ISFIFO(status.st_mode)):
            raise HostLacks(f"{source} is neither a file nor a block device")
        if thing.lent:
            self._lend(source, target, status.st_mode)
            return
        if not read_only:
            os.chown(source, uid, uid)
        elif not status.st_mode & stat.S_IROTH:
            source.chmod(stat.S_IMODE(status.st_mode) | stat.S_IRGRP | stat.S_IROTH)
        try:
            os.link(source, target)
        except OSError:  # another file system, or one without hard links
            self._mount(source, target, read_only)

    def _lend(self, source: Path, target: Path, mode: int) -> None:
        if not mode & stat.S_IROTH:
            hint = f"chmod o+r {source}, or take a copy among banger's images: banger image promote NAME"
            raise HostLacks(f"{source} is not readable by the jail's user, which is not its owner", hint=hint)
        self._mount(source, target, True)

    def _mount(self, source: Path, target: Path, read_only: bool) -> None:
        target.touch(mode=0o600)
        self._checked(self.libc.mount(os.fsencode(source), os.fsencode(target), None, MS_BIND, None))
        flags = MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NODEV | MS_NOEXEC | (MS_RDONLY if read_only else 0)
        self._checked(self.libc.mount(None, os.fsencode(target), None, flags, None))

    def _checked(self, status: int) -> None:
        if status:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def owner(self, root: Path) -> int:
        """See Jails."""
        try:
            return root.lstat().st_uid
        except FileNotFoundError:
            return -1

    def give_back(self, path: Path) -> None:
        """See Jails."""
        with suppress(FileNotFoundError):
            if stat.S_ISREG(path.lstat().st_mode):  # a device's own node was never given away
                os.chown(path, os.geteuid(), os.getegid(), follow_symlinks=False)

    def empty(self, folder: Path) -> None:
        """See Jails."""
        for mount in mounts_below(Path("/proc/self/mountinfo").read_text(), folder):
            self.libc.umount2(os.fsencode(mount), MNT_DETACH | UMOUNT_NOFOLLOW)
        left = mounts_below(Path("/proc/self/mountinfo").read_text(), folder)
        if left:
            raise HostLacks(f"{left[0]} is still mounted", hint=f"as root: umount {left[0]}")
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)


def mapped(text: str, first: int, last: int) -> bool:
    """Whether one line of a uid_map or gid_map (user_namespaces(7): inside, outside, length) has all of these."""
    lines = [tuple(map(int, line.split())) for line in text.splitlines()]
    return any(inside <= first and last < inside + length for inside, _, length in lines)


def belongs(text: str, first: int, last: int) -> str:
    """Who has one of these numbers, by a file like passwd(5), group(5) (name:x:number:…) or subuid(5) (name:start:count); empty when nobody has."""
    for line in text.splitlines():
        words = line.split(":")
        ranged = len(words) == 3 and words[1].isdecimal()
        start, count = (words[1], words[2]) if ranged else (words[2] if len(words) > 3 else "", "1")
        if start.isdecimal() and count.isdecimal() and int(start) <= last and first < int(start) + int(count):
            return words[0]
    return ""


def mounts_below(text: str, folder: Path) -> list[str]:
    """The mount points below `folder`, from mountinfo (proc(5): field 5, blanks as octal escapes), the innermost and latest first."""
    found = [re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), line.split(" ")[4]) for line in text.splitlines()]
    inside = [mount for mount in found if mount == str(folder) or mount.startswith(f"{folder}/")]
    return sorted(reversed(inside), key=lambda mount: mount.count("/"), reverse=True)
