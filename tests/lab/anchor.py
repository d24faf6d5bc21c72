"""Runs in the lab machine as long as it lives, and holds what makes Linux patch its own code when it comes and when it goes. It does nothing else.

While one processor patches code, QEMU 7.2's TCG may be translating it for another: it reads the code before it notes that it must hear of changes, so
now and then the breakpoint that stands there meanwhile is executed for good, and the lab machine hangs or panics. What is patched is for the first and
the last of something: of KVM's machines (`preempt_notifier_key`, `apic_sw_disabled`), of netfilter's chains at a hook (`nf_hooks_needed`). As long as
this runs there is no first and no last. Limits of processor time come with the first of them (`__cfs_bandwidth_used`) and stay: here, in good time.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from pathlib import Path

#: linux/kvm.h: _IO(0xAE, 0x01), _IO(0xAE, 0x60), _IO(0xAE, 0x41).
CREATE_VM, CREATE_IRQCHIP, CREATE_VCPU = 0xAE01, 0xAE60, 0xAE41
HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
CGROUPS = Path("/sys/fs/cgroup")


def hold_machine() -> None:
    """A machine with a processor that never runs; it lives as long as these descriptors."""
    kvm = os.open("/dev/kvm", os.O_RDWR)
    machine = fcntl.ioctl(kvm, CREATE_VM, 0)
    fcntl.ioctl(machine, CREATE_IRQCHIP, 0)
    fcntl.ioctl(machine, CREATE_VCPU, 0)


def hold_hooks() -> None:
    """A table with an empty chain at each hook."""
    chains = (f"add chain inet anchor {hook} {{ type filter hook {hook} priority 0; policy accept; }}" for hook in HOOKS)
    subprocess.run(["nft", "-f", "-"], input="\n".join(["add table inet anchor", *chains]).encode(), check=True, timeout=60)


def limit_once() -> None:
    """A group with a limit; the kernel does not take back what the first one patched."""
    (CGROUPS / "cgroup.subtree_control").write_text("+cpu")
    group = CGROUPS / "anchor"
    group.mkdir()
    (group / "cpu.max").write_text("50000 100000")
    group.rmdir()


def stay(told: int) -> None:
    """Hold all of it for good; what hears of it by the descriptor `told` may go."""
    hold_machine()
    hold_hooks()
    limit_once()
    os.setsid()
    nothing = os.open("/dev/null", os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    os.write(told, b".")
    os.close(told)
    signal.pause()


if __name__ == "__main__":
    heard, told = os.pipe()
    if os.fork() == 0:
        stay(told)
    os.close(told)
    raise SystemExit(not os.read(heard, 1))  # nothing: it has ended, and said why
