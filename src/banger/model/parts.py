"""Parts: what a plan consists of. Each is decided once, saved, and then handed to its backend's verbs: ensure, inspect, remove.

A part names the machine it belongs to and holds decisions only; the paths it lives at are computed from the id (`model/paths.py`).
"""

from __future__ import annotations

import msgspec

from banger.model.ids import VmId


class DiskPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="part", tag="disk"):
    """The root disk: `base` is the image's file, which nobody writes; `size` is how much the machine may write. What a VMM opens: `model/drives.py`.

    `stamp` is when a base that is the user's own file was last changed (ns), and its length; zeros where the base is banger's.
    """

    backend: str
    vm: VmId
    base: str
    size: int
    stamp: tuple[int, int] = (0, 0)


class NicPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="part", tag="nic"):
    """The network: addresses are decided here and told to the guest by the agent, so no DHCP is involved. `address` is CIDR.

    `tap` is the host's interface that the VMM opens by its name, if there is one; `reachable`: the host reaches `address` directly, so a name may
    resolve to it; `nat`: what the guest sends leaves the host under the host's address.
    `secluded`: the TAP is in the user and network namespaces of the network's own process (record: `Paths.network_process`), which the VMM enters.
    """

    backend: str
    vm: VmId
    mac: str
    address: str = ""
    gateway: str = ""
    dns: tuple[str, ...] = ()
    mtu: int = 1500
    host_access: bool = False
    tap: str = ""
    reachable: bool = False
    nat: bool = False
    secluded: bool = False


class MachinePart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="part", tag="machine"):
    """The virtual machine: `accelerator` is `kvm` or `tcg`, `reason` says why this VMM and accelerator were chosen.

    `kernel` is an uncompressed ELF, `initramfs` a cpio archive with the agent as /init; both are absolute paths. `memory_mib` is in MiB.
    """

    backend: str
    vm: VmId
    vcpu: int
    memory_mib: int
    accelerator: str
    reason: str
    kernel: str
    initramfs: str
    disk: DiskPart
    nic: NicPart


Part = DiskPart | NicPart | MachinePart


class PartStatus(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is really there. `present`: the thing exists; `running`: its process lives; `frozen`: the process is stopped (SIGSTOP).

    `pid` is 0 when there is none; `used_bytes` is what the part takes on the host's disk; `detail` is what is wrong with it, in words for its user.
    """

    present: bool
    running: bool = False
    frozen: bool = False
    pid: int = 0
    used_bytes: int = 0
    detail: str = ""
