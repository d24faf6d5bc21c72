"""What the host's kernel and processor say of themselves that bears on machines' speed; read from /proc and /sys below `root`, which tests make up."""

from __future__ import annotations

from pathlib import Path

import msgspec


class Kernel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Empty or 0 is: not there, or not said."""

    #: Version and patch level of its release.
    version: tuple[int, int] = (0, 0)
    #: 2: only the unified hierarchy; 1: the old one, or both.
    cgroup: int = 0
    #: cgroup2's mount option that makes a change of groups quick (kernel: admin-guide/cgroup-v2).
    favordynmods: bool = False
    #: KVM's parameter; `never` starts no recovery thread for each machine.
    nx_huge_pages: str = ""
    #: What the kernel says of that flaw of the processor, for which nx_huge_pages is; `Not affected` is the good word.
    itlb_multihit: str = ""
    #: Whether this host is itself a machine of somebody's.
    virtual: bool = False
    #: Whether machines on it may use KVM themselves.
    nested: bool = False


def read_kernel(root: Path = Path("/")) -> Kernel:
    """Look at all of it."""
    parameters = root / "sys/module"
    nested = said(parameters / "kvm_intel/parameters/nested") or said(parameters / "kvm_amd/parameters/nested")
    mounts = [line.split() for line in said(root / "proc/mounts").splitlines()]
    options = next((fields[3].split(",") for fields in mounts if len(fields) > 3 and fields[1:3] == ["/sys/fs/cgroup", "cgroup2"]), None)
    return Kernel(
        version=version_of(said(root / "proc/sys/kernel/osrelease")),
        cgroup=2 if options is not None else 1 if any(fields[2:3] == ["cgroup"] for fields in mounts) else 0,
        favordynmods="favordynmods" in (options or ()),
        nx_huge_pages=said(parameters / "kvm/parameters/nx_huge_pages"),
        itlb_multihit=said(root / "sys/devices/system/cpu/vulnerabilities/itlb_multihit"),
        virtual="hypervisor" in processor_flags(said(root / "proc/cpuinfo")),
        nested=nested in ("1", "Y"),
    )


def said(path: Path) -> str:
    """A file's text; empty when it is not there, or not for us."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def version_of(release: str) -> tuple[int, int]:
    """6.1.0-32-amd64 is (6, 1); what is no release is (0, 0)."""
    numbers = release.split(".")
    digits = [number.partition("-")[0] for number in numbers[:2]]
    return (int(digits[0]), int(digits[1])) if len(digits) == 2 and all(digit.isdecimal() for digit in digits) else (0, 0)


def processor_flags(cpuinfo: str) -> frozenset[str]:
    """The first processor's."""
    return frozenset(next((line.partition(":")[2].split() for line in cpuinfo.splitlines() if line.startswith("flags")), []))


def read_distribution(root: Path = Path("/")) -> tuple[str, ...]:
    """ID and the words of ID_LIKE, nearest first (os-release(5): the file in /etc, else the one in /usr/lib)."""
    text = said(root / "etc/os-release") or said(root / "usr/lib/os-release")
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    words = [values.get("ID", "linux").strip("\"'"), *values.get("ID_LIKE", "").strip("\"'").split()]
    return tuple(word.lower() for word in words if word)
