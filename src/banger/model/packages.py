"""What has to be installed is called differently everywhere: the one table, by Debian's name, and the command that installs it.

A distribution is known by the words of its os-release(5): ID, then ID_LIKE, nearest first; so derivatives are what they say they are like.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from banger.model.errors import HostLacks
from banger.model.finding import Finding, Level


class Family(NamedTuple):
    """Distributions that install packages by the same command, under the same names."""

    name: str
    words: frozenset[str]
    command: str


FAMILIES = (
    Family("Debian", frozenset({"debian", "ubuntu"}), "apt-get install"),
    Family("Fedora", frozenset({"fedora", "rhel", "centos"}), "dnf install"),
    Family("Arch", frozenset({"arch", "archlinux"}), "pacman -S"),
    Family("openSUSE", frozenset({"opensuse", "suse", "sles", "opensuse-tumbleweed", "opensuse-leap"}), "zypper install"),
    Family("Alpine", frozenset({"alpine"}), "apk add"),
)
DEBIAN = FAMILIES[0]
#: By Debian's name: the others' in the order of `FAMILIES`; empty where a distribution has no such package.
NAMES: Mapping[str, tuple[str, str, str, str]] = {
    "btrfs-progs": ("btrfs-progs", "btrfs-progs", "btrfsprogs", "btrfs-progs"),
    "debian-archive-keyring": ("debian-keyring", "debian-archive-keyring", "", "debian-archive-keyring"),
    "dmsetup": ("device-mapper", "device-mapper", "device-mapper", "device-mapper"),
    "e2fsprogs": ("e2fsprogs", "e2fsprogs", "e2fsprogs", "e2fsprogs"),
    "libnftables1": ("nftables", "nftables", "libnftables1", "nftables"),
    "mmdebstrap": ("mmdebstrap", "", "", ""),
    "nftables": ("nftables", "nftables", "nftables", "nftables"),
    "openssh-client": ("openssh-clients", "openssh", "openssh-clients", "openssh-client-default"),
    "passt": ("passt", "passt", "passt", "passt"),
    "qemu-system-x86": ("qemu-system-x86", "qemu-system-x86", "qemu-x86", "qemu-system-x86_64"),
    "systemd-resolved": ("systemd-resolved", "systemd", "systemd-resolved", ""),
    "tar": ("tar", "tar", "tar", "tar"),
    "uidmap": ("shadow-utils", "shadow", "shadow", "shadow-uidmap"),
    "util-linux": ("util-linux", "util-linux", "util-linux", "util-linux-misc"),
}


def family(distribution: Sequence[str]) -> Family | None:
    """The family of a distribution, or None for one that we do not know."""
    return next((family for word in distribution for family in FAMILIES if word in family.words), None)


def names(packages: Iterable[str], known: Family) -> dict[str, str]:
    """Debian's names to the family's; empty where it has no such package."""
    at = FAMILIES.index(known) - 1
    return {package: package if known is DEBIAN else NAMES[package][at] for package in packages}


def install(packages: Sequence[str], distribution: Sequence[str]) -> str:
    """How to install packages (Debian's names) on a distribution: a command where there is one, and what it does not bring."""
    known = family(distribution)
    if known is None:
        return f"install {', '.join(packages)} (as Debian calls it)"
    found = names(packages, known)
    command = " ".join([known.command, *dict.fromkeys(name for name in found.values() if name)])
    absent = [package for package, name in found.items() if not name]
    if not absent:
        return command
    lack = f"{known.name} has no package of {', '.join(absent)}: build elsewhere, or install it by hand"
    return lack if len(absent) == len(found) else f"{command}; {lack}"


def with_fix(finding: Finding, distribution: Sequence[str]) -> Finding:
    """A finding that lacks packages, told in the words of a distribution; any other as it is."""
    if not finding.packages:
        return finding
    known = family(distribution)
    theirs = finding.packages if known is None else tuple(name for name in names(finding.packages, known).values() if name)
    return msgspec.structs.replace(finding, fix=install(finding.packages, distribution), packages=theirs)


def refusal(findings: Iterable[Finding], distribution: Sequence[str]) -> HostLacks | None:
    """One error for all that fail: every message, one command that brings every package, and the other fixes; None when none does."""
    failed = [finding for finding in findings if finding.level is Level.FAIL]
    if not failed:
        return None
    packages = tuple(dict.fromkeys(package for finding in failed for package in finding.packages))
    fixes = [f"as root: {install(packages, distribution)}"] if packages else []
    fixes += [finding.fix for finding in failed if finding.fix and not finding.packages]
    return HostLacks("; ".join(dict.fromkeys(finding.message for finding in failed)), hint="; ".join(dict.fromkeys(fixes)))
