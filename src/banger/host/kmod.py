"""Kernel modules: which files a set of modules needs, in the order in which they must be loaded. Reads the modules themselves; no depmod, nothing kept.

A module's `.modinfo` section (ELF64, little-endian) is a list of NUL-terminated `key=value`; `depends` names the modules it needs.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Protocol

from banger.model.errors import Corrupt, NotFound

LARGEST = 64 << 20


class Kmod(Protocol):
    """What banger asks about a kernel's modules."""

    def closure(self, folder: Path, names: list[str]) -> list[Path]:
        """The files of `names` and of all they depend on, each after what it needs; what is built into the kernel is left out.

        NotFound names a module that is neither in `folder` nor built in.
        """


class RealKmod:
    """Modules as files."""

    def closure(self, folder: Path, names: list[str]) -> list[Path]:
        """See Kmod."""
        files = {canonical(path.stem): path for path in sorted(folder.rglob("*.ko"))}
        builtin = _builtin(folder)
        order: dict[str, Path] = {}
        under_way: set[str] = set()

        def visit(name: str, needed_by: str) -> None:
            if name in order or name in under_way:
                return
            if name not in files:
                if name in builtin:
                    return
                raise NotFound(f"module {name}{needed_by} is not among the kernel's modules in {folder}")
            under_way.add(name)
            for needed in dependencies(files[name]):
                visit(needed, f", which {name} needs,")
            order[name] = files[name]

        for name in names:
            visit(canonical(name), "")
        return list(order.values())


def canonical(name: str) -> str:
    """Hyphen and underscore are the same in module names; the kernel's own form has underscores."""
    return name.replace("-", "_")


def _builtin(folder: Path) -> frozenset[str]:
    found = next(iter(sorted(folder.rglob("modules.builtin"))), None)
    lines = found.read_text().splitlines() if found else []
    return frozenset(canonical(Path(line).stem) for line in lines)


def dependencies(path: Path) -> list[str]:
    """The modules that this one needs, as its own `depends` lists them."""
    for field in modinfo(path):
        key, _, value = field.partition("=")
        if key == "depends":
            return [canonical(name) for name in value.split(",") if name]
    return []


def modinfo(path: Path) -> list[str]:
    """The fields of the module's `.modinfo`; Corrupt when it is no 64-bit little-endian ELF file, or has no such section."""
    if path.stat().st_size > LARGEST:
        raise Corrupt(f"{path} is too large for a kernel module")
    try:
        return [field.decode("utf-8", "replace") for field in _section(path.read_bytes(), b".modinfo").split(b"\0") if field]
    except (struct.error, ValueError, IndexError, OverflowError) as error:
        raise Corrupt(f"{path} is not a kernel module: {error}") from error


def _section(elf: bytes, wanted: bytes) -> bytes:
    """ELF64: e_shoff at 40, then e_shentsize, e_shnum and e_shstrndx at 58; a section header is name, type, flags, address, offset, size, …"""
    if elf[:6] != b"\x7fELF\x02\x01":
        raise ValueError("it is no 64-bit little-endian ELF file")
    (table,) = struct.unpack_from("<Q", elf, 40)
    size, count, names = struct.unpack_from("<HHH", elf, 58)
    headers = [struct.unpack_from("<IIQQQQ", elf, table + index * size) for index in range(count)]
    start = headers[names][4]
    for header in headers:
        at = start + header[0]
        if elf[at : at + len(wanted) + 1] == wanted + b"\0":
            return elf[header[4] : header[4] + header[5]]
    raise ValueError(f"it has no section {wanted.decode()}")
