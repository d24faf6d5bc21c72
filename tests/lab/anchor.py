"""Runs in the lab machine as long as it lives: holds one virtual machine of KVM's, with a processor that never runs. It does nothing.

With the first machine, and again after the last, KVM patches the kernel's code under the other processors (`preempt_notifier_key`, `apic_sw_disabled`).
QEMU 7.2's TCG now and then goes on executing its translation of the breakpoint that stood there meanwhile, and then the lab machine hangs for good. As
long as this runs there is no first and no last machine.
"""

from __future__ import annotations

import fcntl
import os
import signal

#: linux/kvm.h: _IO(0xAE, 0x01), _IO(0xAE, 0x60), _IO(0xAE, 0x41).
CREATE_VM, CREATE_IRQCHIP, CREATE_VCPU = 0xAE01, 0xAE60, 0xAE41

if __name__ == "__main__":
    kvm = os.open("/dev/kvm", os.O_RDWR)
    machine = fcntl.ioctl(kvm, CREATE_VM, 0)
    fcntl.ioctl(machine, CREATE_IRQCHIP, 0)
    fcntl.ioctl(machine, CREATE_VCPU, 0)
    signal.pause()
