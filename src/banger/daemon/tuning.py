"""What of the host makes machines slower than they could be: rows of doctor. Pure: from facts to findings.

Sources: Firecracker's docs/prod-host-setup.md on the start-up regression of Linux 6.1, and its issue 2129 on version 1 of control groups.
"""

from __future__ import annotations

from banger.host.kernel import Kernel
from banger.model.finding import Finding, Level

#: From this on, KVM starts a thread for each machine and moves it between groups, which waits for all processors.
REGRESSED = (6, 1)
REMOUNT = "as root: mount -o remount,favordynmods /sys/fs/cgroup (until the next boot)"
NEVER = "boot with kvm.nx_huge_pages=never"


def findings(kernel: Kernel, *, kvm: bool) -> list[Finding]:
    """All rows; those about KVM only where it is usable."""
    return [_groups(kernel), *([_nested(kernel), _creation(kernel)] if kvm else [])]


def _groups(kernel: Kernel) -> Finding:
    if kernel.cgroup == 2:
        return Finding(level=Level.PASS, subject="cgroups", message="version 2")
    message = "control groups are of version 1: machines cannot be limited, and restore slowly" if kernel.cgroup else "there are no control groups"
    return Finding(level=Level.WARN, subject="cgroups", message=message, fix="boot with systemd.unified_cgroup_hierarchy=1")


def _nested(kernel: Kernel) -> Finding:
    inside = "machines may use KVM themselves" if kernel.nested else "machines cannot use KVM themselves (parameter nested of kvm_intel or kvm_amd)"
    if not kernel.virtual:
        return Finding(level=Level.PASS, subject="nested", message=f"KVM runs on the hardware itself; {inside}")
    message = f"this host is itself a virtual machine, in which others start 2 to 5 times slower; {inside}"
    return Finding(level=Level.WARN, subject="nested", message=message, fix="for speed, use a host that is none; nothing needs to be done")


def _creation(kernel: Kernel) -> Finding:
    release = ".".join(map(str, kernel.version))
    if kernel.version < REGRESSED:
        return Finding(level=Level.PASS, subject="kernel", message=f"Linux {release} creates machines quickly")
    if kernel.nx_huge_pages == "never" or (kernel.cgroup == 2 and kernel.favordynmods):
        reason = "nx_huge_pages=never" if kernel.nx_huge_pages == "never" else "favordynmods"
        return Finding(level=Level.PASS, subject="kernel", message=f"Linux {release} creates machines quickly, with {reason}")
    choices = [REMOUNT] if kernel.cgroup == 2 else []
    choices += [NEVER] if kernel.itlb_multihit == "Not affected" or not choices else []
    message = f"Linux {release} takes 10 to 50 ms longer than it need to create a machine"
    return Finding(level=Level.WARN, subject="kernel", message=message, fix=", or ".join(choices))
