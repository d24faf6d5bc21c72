"""Decide: from what was asked, what is there, and what the host is, to a complete plan. Pure; every rule about defaults and limits stands here."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from banger.backends.disk import Disk
from banger.backends.network import Network
from banger.backends.vmm import Vmm
from banger.model.catalog import ImageManifest
from banger.model.config import Settings
from banger.model.errors import BadRequest, HostLacks
from banger.model.ids import VmId, valid_vm_name
from banger.model.sizes import parse_size, show_size
from banger.model.vm import VmPlan, VmSpec

MAX_VCPU = 64
MIN_MEMORY_MIB = 128
MAX_MEMORY_MIB = 1 << 20
VMM_ORDER = ("firecracker", "qemu")
WAITS = ("agent", "boot")


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """A request with every default filled in."""

    name: str
    image: str
    vcpu: int
    memory_mib: int
    disk_bytes: int
    network: str
    host_access: bool
    vmm: str
    rm: bool


class HostSize(msgspec.Struct, frozen=True, kw_only=True):
    """What defaults are derived from."""

    cpus: int
    memory_mib: int


def resolve(spec: VmSpec, settings: Settings, size: HostSize, *, name: str) -> Resolved:
    """Fill in defaults: asked for, else set, else derived from the host (cpus/4 at most 4; memory/8 at most 8 GiB). `name` is for a nameless one."""
    resolved = Resolved(
        name=valid_vm_name(spec.name if spec.name is not None else name),
        image=spec.image or settings.default_image,
        vcpu=first(spec.vcpu, settings.vcpu or None, max(1, min(4, size.cpus // 4))),
        memory_mib=first(spec.memory_mib, settings.memory_mib or None, max(256, min(8192, size.memory_mib // 8))),
        disk_bytes=first(spec.disk_bytes, parse_size(settings.disk_size)),
        network=spec.network or settings.network,
        host_access=spec.host_access,
        vmm=spec.vmm or settings.vmm,
        rm=spec.rm,
    )
    check_limits(resolved)
    return resolved


def first(*choices: int | None) -> int:
    """The first that is there; zero counts (and is refused later), since it was asked for."""
    return next(choice for choice in choices if choice is not None)


def check_limits(asked: Resolved) -> None:
    """BadRequest for counts and sizes that no host has; what this host cannot give shows when it is tried."""
    if not 1 <= asked.vcpu <= MAX_VCPU:
        raise BadRequest(f"{asked.vcpu} virtual CPUs cannot be had", hint=f"choose 1 to {MAX_VCPU}")
    if not MIN_MEMORY_MIB <= asked.memory_mib <= MAX_MEMORY_MIB:
        raise BadRequest(f"{asked.memory_mib} MiB of memory cannot be had", hint=f"choose {MIN_MEMORY_MIB} MiB to {MAX_MEMORY_MIB >> 10} GiB")


def known(kind: str, name: str, names: Sequence[str]) -> str:
    """The name itself, or BadRequest with the closest and all names there are."""
    if name in names:
        return name
    close = difflib.get_close_matches(name, names, n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    raise BadRequest(f"there is no {kind} {name!r}", hint=f"{meant}choose one of: {', '.join(names)}")


def choose_vmm(asked: str, vmms: Mapping[str, Vmm]) -> str:
    """The named one; for `auto` the first that is usable here. HostLacks joins what each of them misses."""
    if asked != "auto":
        return known("VMM", asked, [*vmms, "auto"])
    lacks = {}
    for name in VMM_ORDER:
        if name in vmms:
            lacks[name] = vmms[name].usable()
            if not lacks[name]:
                return name
    raise HostLacks("; ".join(f"{name}: {lack}" for name, lack in lacks.items()), hint="run: banger doctor")


def decide(
    asked: Resolved,
    *,
    vm: VmId,
    now: datetime,
    image: ImageManifest,
    base: Path,
    kernel: Path,
    initramfs: Path,
    vmm: Vmm,
    disk: Disk,
    network: Network,
    machine_id: str,
) -> VmPlan:
    """The whole plan; each backend decides its part."""
    disk_part = disk.plan(vm, base=base, size=asked.disk_bytes)
    nic = network.plan(vm, host_access=asked.host_access)
    machine = vmm.plan(
        vm,
        vcpu=asked.vcpu,
        memory_mib=asked.memory_mib,
        kernel=str(kernel),
        initramfs=str(initramfs),
        disk=disk_part,
        nic=nic,
    )
    return VmPlan(
        id=vm,
        name=asked.name,
        image=image.name,
        image_digest=image.digest,
        kernel=image.kernel,
        created=now,
        rm=asked.rm,
        machine_id=machine_id,
        disk=disk_part,
        nic=nic,
        machine=machine,
    )


def spec_line(plan: VmPlan) -> str:
    """What was decided, for people: one line."""
    access = " with host access" if plan.nic.host_access else ""
    return (
        f"spec: {plan.machine.vcpu} vcpu · {plan.machine.memory_mib} MiB · {show_size(plan.disk.size)} disk · {plan.image} on {plan.kernel}"
        f" · network {plan.nic.backend}{access} · {plan.machine.backend} with {plan.machine.accelerator} ({plan.machine.reason})"
    )


def identity(plan: VmPlan, *, time_ns: int, entropy: str) -> dict[str, object]:
    """The agent's `identity` request for a machine (docs/wire.md)."""
    nic = plan.nic
    network = {"mac": nic.mac, "address": nic.address, "gateway": nic.gateway, "dns": list(nic.dns), "mtu": nic.mtu} if nic.address else None
    return {
        "op": "identity",
        "hostname": plan.name,
        "machine_id": plan.machine_id,
        "time_ns": time_ns,
        "entropy": entropy,
        "network": network,
        "authorized_keys": [],
    }
