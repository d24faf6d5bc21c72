"""cpio archives of the `newc` kind, which is what a Linux kernel takes as its initramfs (the kernel's buffer-format.rst). Written here, not by a tool.

Order is kept, times are zero and inode numbers count up, so that the same entries always give the same bytes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Protocol

import msgspec

from banger.host.files import CHUNK, explain
from banger.model.errors import BadRequest


class CpioEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One member: `path` without a leading slash, `mode` with the type's bits; content: `data` or the file `source`; `device` is (major, minor)."""

    path: str
    mode: int
    data: bytes = b""
    source: Path | None = None
    device: tuple[int, int] = (0, 0)


def folder(path: str, mode: int = 0o755) -> CpioEntry:
    """A folder; it must come before what is in it."""
    return CpioEntry(path=path, mode=stat.S_IFDIR | mode)


def file(path: str, content: bytes | Path, mode: int = 0o644) -> CpioEntry:
    """A file with these bytes, or with those of a file on the host."""
    if isinstance(content, Path):
        return CpioEntry(path=path, mode=stat.S_IFREG | mode, source=content)
    return CpioEntry(path=path, mode=stat.S_IFREG | mode, data=content)


def link(path: str, target: str) -> CpioEntry:
    """A symbolic link."""
    return CpioEntry(path=path, mode=stat.S_IFLNK | 0o777, data=target.encode())


def character_device(path: str, major: int, minor: int, mode: int = 0o600) -> CpioEntry:
    """A character device, such as /dev/console (5, 1), which the kernel opens for /init before anything is mounted."""
    return CpioEntry(path=path, mode=stat.S_IFCHR | mode, device=(major, minor))


class Cpio(Protocol):
    """What banger does with cpio archives."""

    def write(self, target: Path, entries: Iterable[CpioEntry]) -> None:
        """Write the archive in one step: `target` appears whole or not at all; its folder must exist. NoSpace when it does not fit."""


class RealCpio:
    """Archives as files."""

    def write(self, target: Path, entries: Iterable[CpioEntry]) -> None:
        """See Cpio."""
        fresh = target.with_name(f".{target.name}.{os.getpid()}.new")
        try:
            with fresh.open("wb") as writer:
                os.fchmod(writer.fileno(), 0o600)
                write_archive(writer, entries)
                writer.flush()
                os.fsync(writer.fileno())
            fresh.replace(target)
        except OSError as error:
            raise explain(error, target) from error
        finally:
            fresh.unlink(missing_ok=True)


def write_archive(writer: BinaryIO, entries: Iterable[CpioEntry]) -> None:
    """All entries, then the trailer that ends a newc archive."""
    at = 0
    for number, entry in enumerate(entries, start=1):
        at = _write_entry(writer, entry, number, at)
    _write_entry(writer, CpioEntry(path="TRAILER!!!", mode=0), 0, at)


def _write_entry(writer: BinaryIO, entry: CpioEntry, number: int, at: int) -> int:
    if entry.path.startswith("/") or ".." in entry.path.split("/") or "\0" in entry.path:
        raise BadRequest(f"{entry.path!r} cannot be the path of a cpio member")
    size = entry.source.stat().st_size if entry.source else len(entry.data)
    head = header(entry, number, size)
    writer.write(head)
    at += len(head)
    if entry.source:
        _copy(entry.source, size, writer)
    else:
        writer.write(entry.data)
    at += size
    writer.write(bytes(-at % 4))
    return at + -at % 4


def header(entry: CpioEntry, number: int, size: int) -> bytes:
    """Magic and thirteen fields of eight hex digits, then the name, its NUL, and zeros up to a multiple of four."""
    name = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (number, entry.mode, 0, 0, links, 0, size, 0, 0, *entry.device, len(name), 0)
    text = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return text + bytes(-len(text) % 4)


def _copy(source: Path, size: int, writer: BinaryIO) -> None:
    """Exactly `size` bytes: a file that changes under our hands must not shift what follows it."""
    with source.open("rb") as reader:
        while size:
            chunk = reader.read(min(CHUNK, size))
            if not chunk:
                raise OSError(f"{source} became shorter while it was read")
            writer.write(chunk)
            size -= len(chunk)
