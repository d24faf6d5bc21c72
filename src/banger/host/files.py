"""Files: private folders, atomic writes, sparse copies, and what a file system has left. Paths come from `model/paths.py`; nothing else is touched."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from banger.model.errors import HostLacks, NoSpace, NotFound

CHUNK = 1 << 20
#: linux/fs.h
FICLONE = 0x40049409
#: linux/fcntl.h, linux/fs.h
AT_FDCWD, RENAME_EXCHANGE = -100, 2


class Files(Protocol):
    """What banger does with files, besides what tools do."""

    def private_folder(self, path: Path) -> Path:
        """Make `path` (and its parents) a folder of ours, 0700; HostLacks when it is a symlink, no folder, or another user's."""

    def refusal(self, path: Path) -> str:
        """Why `private_folder` would not take what is at `path`; empty when it would, or when nothing is there."""

    def read(self, path: Path) -> bytes | None:
        """The content, or None when the file does not exist; any other failure is raised as itself."""

    def head(self, path: Path, count: int) -> bytes:
        """The first `count` bytes of a regular file, or all it has; NotFound when it is missing or something else (nothing is waited for)."""

    def link(self, source: Path, target: Path) -> None:
        """A second name for the same file, which nobody writes: a hard link, else a clone; HostLacks where the file system has neither."""

    def write_atomic(self, path: Path, data: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
        """Replace or make a file in one step, on disk before it is seen (unless not `durable`: then only as far as this boot goes)."""

    def copy_sparse(self, source: Path, target: Path) -> None:
        """Copy only what is allocated; `target` must not exist. Removed again when it fails."""

    def make_sparse(self, path: Path, size: int) -> None:
        """A file of `size` zeros that takes no room yet, whole or not at all; NoSpace when the file system cannot have one so long."""

    def clone(self, source: Path, target: Path, size: int) -> None:
        """Share the blocks of `source` until either is written (FICLONE), and lengthen the clone to `size`; whole or not at all.

        HostLacks names the file system that cannot; NoSpace when it is full.
        """

    def kind(self, path: Path) -> str:
        """The type of the file system that `path` (or its nearest existing parent) is on, as mount(8) has it."""

    def remove_tree(self, path: Path) -> None:
        """Remove a folder or file with all that is in it; missing is success; symlinks are not followed."""

    def remove_if_empty(self, path: Path) -> None:
        """Remove a folder unless something is in it; missing is success."""

    def replace(self, source: Path, target: Path) -> None:
        """Give a finished file its name, over whatever had it; once this returns, the name lasts."""

    def exchange(self, fresh: Path, name: Path) -> None:
        """Give a finished folder (or file) its name in one step; what had the name until then is at `fresh` afterwards, for the caller to remove.

        Once this returns, the name lasts. On a file system that cannot exchange names (NFS for one) it takes two steps: a kill between them leaves the
        name with nobody, and the old one beside `fresh`, with `.old` at the end of its name.
        """

    def free_bytes(self, path: Path) -> int:
        """What an ordinary user may still write in the file system of `path` (or of its nearest existing parent)."""

    def size(self, path: Path) -> int | None:
        """The length of a file, holes and all; None when it is missing."""

    def used_bytes(self, path: Path) -> int:
        """What a file really takes on disk; 0 when it is missing."""

    def tree_bytes(self, path: Path, seen: set[tuple[int, int]], *, alone: bool = False) -> int:
        """What a file or a folder with all that is in it takes on disk; files in `seen` (device, inode) do not count again, and are added to it.

        With `alone` files do not count that have another name. Links are not followed, what vanishes meanwhile or is not for us counts as nothing.
        """

    def stamp(self, path: Path) -> tuple[int, int]:
        """When a file was last changed (ns) and its length: another one where these differ. Zeros when it is missing."""


class RealFiles:
    """The host's files."""

    def private_folder(self, path: Path) -> Path:
        """See Files."""
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        trouble = self.refusal(path)
        if trouble:
            raise HostLacks(trouble, hint="remove it, or set XDG_RUNTIME_DIR to a folder of your own")
        if path.lstat().st_mode & 0o077:
            path.chmod(0o700)
        return path

    def refusal(self, path: Path) -> str:
        """See Files."""
        try:
            status = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return ""
        mine = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
        return "" if mine else f"{path} is not a folder of this user"

    def read(self, path: Path) -> bytes | None:
        """See Files."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            return file.read()

    def head(self, path: Path, count: int) -> bytes:
        """See Files."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except FileNotFoundError as error:
            raise NotFound(f"{path} does not exist") from error
        except PermissionError as error:
            raise HostLacks(f"{path} is not for this user to read: {error.strerror}") from error
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise NotFound(f"{path} is not a file")
            return os.pread(descriptor, count, 0)
        finally:
            os.close(descriptor)

    def link(self, source: Path, target: Path) -> None:
        """See Files."""
        try:
            target.hardlink_to(source)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV):
                raise explain(error, target) from error
            self.clone(source, target, source.stat().st_size)

    def write_atomic(self, path: Path, data: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
        """See Files."""
        fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
        try:
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                if durable:
                    os.fsync(descriptor)
            fresh.replace(path)
            if durable:
                _sync_folder(path.parent)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            raise explain(error, path) from error

    def copy_sparse(self, source: Path, target: Path) -> None:
        """See Files."""
        with source.open("rb") as reader:
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                with os.fdopen(descriptor, "wb") as writer:
                    _copy_data(reader.fileno(), writer.fileno())
            except OSError as error:
                target.unlink(missing_ok=True)
                raise explain(error, target) from error

    def make_sparse(self, path: Path, size: int) -> None:
        """See Files."""
        self._whole(path, lambda target: os.ftruncate(target, size))

    def clone(self, source: Path, target: Path, size: int) -> None:
        """See Files."""

        def fill(descriptor: int) -> None:
            with source.open("rb") as reader:
                try:
                    fcntl.ioctl(descriptor, FICLONE, reader.fileno())
                except OSError as error:
                    raise self._not_cloned(error, source, target) from error
            os.ftruncate(descriptor, size)

        self._whole(target, fill)

    def _not_cloned(self, error: OSError, source: Path, target: Path) -> OSError | HostLacks:
        if error.errno == errno.EXDEV:
            hint = "put both on one file system: the settings images_dir and the variable XDG_STATE_HOME say where they are"
            return HostLacks(f"{source} cannot be cloned to {target.parent}: they are on two file systems", hint=hint)
        if error.errno in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENOSYS):
            hint = "choose --disk overlay, or keep banger's state on btrfs or XFS"
            return HostLacks(f"{self.kind(target)} at {target.parent} cannot clone files", hint=hint)
        return error

    def _whole(self, path: Path, fill: Callable[[int], None]) -> None:
        """A new file of ours that has its name only once it is full."""
        fresh = path.with_name(f"{path.name}.new")
        self.remove_tree(fresh)
        descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            try:
                fill(descriptor)
            finally:
                os.close(descriptor)
            self.replace(fresh, path)
        except OSError as error:
            raise explain(error, path) from error
        finally:
            fresh.unlink(missing_ok=True)

    def kind(self, path: Path) -> str:
        """See Files."""
        path = path.absolute()
        while not path.exists():
            path = path.parent
        mounts = (line.split(" - ") for line in Path("/proc/self/mountinfo").read_text().splitlines())
        here = [(_unescaped(first.split()[4]), second.split()[0]) for first, second in mounts]
        fitting = [(len(place), at, kind) for at, (place, kind) in enumerate(here) if path.resolve().is_relative_to(place)]
        return max(fitting)[2] if fitting else "this file system"  # the longest, and of these the last, is on top

    def remove_tree(self, path: Path) -> None:
        """See Files."""
        with suppress(FileNotFoundError):
            try:
                path.unlink()
            except IsADirectoryError:
                shutil.rmtree(path)

    def remove_if_empty(self, path: Path) -> None:
        """See Files."""
        try:
            path.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
                raise

    def replace(self, source: Path, target: Path) -> None:
        """See Files."""
        source.replace(target)
        _sync_folder(target.parent)

    def exchange(self, fresh: Path, name: Path) -> None:
        """See Files."""
        try:
            _exchange(fresh, name)
        except FileNotFoundError:
            fresh.rename(name)  # nobody had the name; if it is `fresh` that is missing, this says so
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            self._two_steps(fresh, name)
        for folder in {fresh.parent, name.parent}:
            _sync_folder(folder)

    def _two_steps(self, fresh: Path, name: Path) -> None:
        aside = fresh.with_name(f"{fresh.name}.old")
        name.rename(aside)
        try:
            fresh.rename(name)
        except OSError:
            aside.rename(name)
            raise
        aside.rename(fresh)

    def free_bytes(self, path: Path) -> int:
        """See Files."""
        while not path.exists():
            path = path.parent
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize

    def size(self, path: Path) -> int | None:
        """See Files."""
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return None

    def used_bytes(self, path: Path) -> int:
        """See Files."""
        try:
            return path.stat().st_blocks * 512
        except FileNotFoundError:
            return 0

    def tree_bytes(self, path: Path, seen: set[tuple[int, int]], *, alone: bool = False) -> int:
        """See Files."""
        total = 0
        for folder, _, names in [("", [], [str(path)]), *os.walk(path)]:
            for name in (folder, *names) if folder else names:
                with suppress(OSError):
                    status = os.lstat(os.path.join(folder, name))
                    file = (status.st_dev, status.st_ino)
                    if file not in seen and not (alone and status.st_nlink > 1 and stat.S_ISREG(status.st_mode)):
                        total += status.st_blocks * 512
                    seen.add(file)
        return total

    def stamp(self, path: Path) -> tuple[int, int]:
        """See Files."""
        try:
            status = path.stat()
        except FileNotFoundError:
            return 0, 0
        return status.st_mtime_ns, status.st_size


def explain(error: OSError, path: Path) -> OSError | NoSpace:
    """A full file system or quota, or a file too large for it, as NoSpace; anything else as itself."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"no space left for {path}", hint="free some space, or run: banger vm prune")
    if error.errno == errno.EFBIG:
        return NoSpace(f"{path} would be larger than its file system allows", hint="choose a smaller size")
    return error


def _unescaped(text: str) -> str:
    """The kernel writes blanks and the like as three octal digits (proc_pid_mountinfo(5))."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _exchange(one: Path, other: Path) -> None:
    """renameat2(2); ENOSYS where the C library does not know it."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if call(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(one), None, str(other))


def _sync_folder(path: Path) -> None:
    """A rename lasts only once its folder is on disk too."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _copy_data(source: int, target: int) -> None:
    """Walk the allocated ranges (lseek(2), SEEK_DATA); the kernel moves the bytes and shares blocks where the file system can."""
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    at = 0
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        end = os.lseek(source, at, os.SEEK_HOLE)
        while at < end:
            moved = _copy_piece(source, target, min(end - at, CHUNK), at)
            if not moved:
                return
            at += moved


def _copy_piece(source: int, target: int, count: int, at: int) -> int:
    """By the kernel; by hand between file systems that have nothing in common."""
    try:
        return os.copy_file_range(source, target, count, at, at)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        return os.pwrite(target, os.pread(source, count, at), at)
