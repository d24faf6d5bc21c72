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
from banger.model import codec, inits
from banger.model.catalog import ImageConfig, ImageManifest, KernelManifest
from banger.model.commands import overlaid
from banger.model.config import Settings
from banger.model.errors import BadRequest, HostLacks
from banger.model.ids import VmId, valid_vm_name
from banger.model.kernels import unfit
from banger.model.parts import MachinePart
from banger.model.sizes import parse_size, show_size
from banger.model.vm import VmPlan, VmSpec

VMM_ORDER = ("firecracker", "qemu")
#: Bytes of an image's configuration: with what is asked for beside it, it has to fit into one frame (docs/wire.md).
LONGEST_CONFIG = 48 << 10
WAITS = ("agent", "boot")
#: Whose plan is not kept.
NOBODY = VmId("0" * 12)


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """A request with every default filled in."""

    name: str
    image: str
    vcpu: int
    memory_mib: int
    disk: str
    disk_bytes: int
    network: str
    host_access: bool
    nat: bool | None
    vmm: str
    rm: bool
    entrypoint: bool = True
    attended: bool = False
    env: dict[str, str] = {}
    cwd: str | None = None
    user: str | None = None


class HostSize(msgspec.Struct, frozen=True, kw_only=True):
    """What defaults are derived from."""

    cpus: int
    memory_mib: int


def resolve(spec: VmSpec, settings: Settings, size: HostSize, *, name: str) -> Resolved:
    """Fill in defaults: asked for, else set, else derived from the host (cpus/4 at most 4; memory/8 at most 8 GiB). `name` is for a nameless one."""
    return Resolved(
        name=valid_vm_name(spec.name if spec.name is not None else name),
        image=spec.image or settings.default_image,
        vcpu=first(spec.vcpu, settings.vcpu or None, max(1, min(4, size.cpus // 4))),
        memory_mib=first(spec.memory_mib, settings.memory_mib or None, max(256, min(8192, size.memory_mib // 8))),
        disk=spec.disk or settings.disk,
        disk_bytes=first(spec.disk_bytes, parse_size(settings.disk_size)),
        network=spec.network or settings.network,
        host_access=spec.host_access,
        nat=spec.nat,
        vmm=spec.vmm or settings.vmm,
        rm=spec.rm,
        entrypoint=spec.entrypoint,
        attended=spec.attended,
        env=variables(spec.env),
        cwd=spec.cwd,
        user=spec.user,
    )


def variables(env: dict[str, str]) -> dict[str, str]:
    """The variables themselves; BadRequest for what no process could have."""
    for name, value in env.items():
        if not name or "=" in name or "\0" in name + value:
            raise BadRequest(f"there can be no variable {name!r} of this value")
    return env


def first(*choices: int | None) -> int:
    """The first that is there; zero counts (and is refused later), since it was asked for."""
    return next(choice for choice in choices if choice is not None)


def known(kind: str, name: str, names: Sequence[str]) -> str:
    """The name itself, or BadRequest with the closest and all names there are."""
    if name in names:
        return name
    close = difflib.get_close_matches(name, names, n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    raise BadRequest(f"there is no {kind} {name!r}", hint=f"{meant}choose one of: {', '.join(names)}")


def choose_vmm(asked: str, network: str, vmms: Mapping[str, Vmm]) -> str:
    """The named one; for `auto` the first that is usable here and can use the network. HostLacks joins what each of them misses."""
    if asked != "auto":
        return known("VMM", asked, [*vmms, "auto"])
    lacks = {}
    for name in VMM_ORDER:
        if name in vmms:
            lacks[name] = vmms[name].usable() or vmms[name].unfit(network)
            if not lacks[name]:
                return name
    raise HostLacks("; ".join(f"{name}: {lack}" for name, lack in lacks.items()), hint="run: banger doctor")


class Backends(msgspec.Struct, frozen=True, kw_only=True):
    """The backends that a request names."""

    vmm: Vmm
    disk: Disk
    network: Network


class Boot(msgspec.Struct, frozen=True, kw_only=True):
    """Files that a machine boots from, as absolute paths."""

    base: Path
    kernel: Path
    initramfs: Path
    stamp: tuple[int, int] = (0, 0)


NO_BOOT = Boot(base=Path("/"), kernel=Path("/"), initramfs=Path("/"))


def parts(asked: Resolved, vm: VmId, boot: Boot, backends: Backends, taken: frozenset[str] = frozenset()) -> MachinePart:
    """Every part, each decided by its backend (disk and network within the machine's); BadRequest for what cannot be. `taken`: others' addresses."""
    return backends.vmm.plan(
        vm,
        vcpu=asked.vcpu,
        memory_mib=asked.memory_mib,
        kernel=str(boot.kernel),
        initramfs=str(boot.initramfs),
        disk=backends.disk.plan(vm, base=boot.base, size=asked.disk_bytes, stamp=boot.stamp),
        nic=backends.network.plan(vm, host_access=asked.host_access, sockets=backends.vmm.sockets(), nat=asked.nat, taken=taken),
    )


def check(asked: Resolved, backends: Backends, taken: frozenset[str] = frozenset()) -> None:
    """Refuse a request that cannot be, whatever the host has (see preflight.py for that), before anything is fetched for it."""
    parts(asked, NOBODY, NO_BOOT, backends, taken)


def decide(
    asked: Resolved,
    boot: Boot,
    backends: Backends,
    *,
    vm: VmId,
    now: datetime,
    image: ImageManifest,
    machine_id: str,
    taken: frozenset[str] = frozenset(),
) -> VmPlan:
    """The whole plan; whoever saves it must have looked up `taken` without having waited since."""
    machine = parts(asked, vm, boot, backends, taken)
    return VmPlan(
        id=vm,
        name=asked.name,
        image=image.name,
        image_digest=image.digest,
        kernel=image.kernel,
        created=now,
        rm=asked.rm,
        machine_id=machine_id,
        disk=machine.disk,
        nic=machine.nic,
        machine=machine,
        config=configuration(asked, image.config),
        init=inits.first(image.init, image.config),
        entrypoint=asked.entrypoint and inits.runs(image.config),
    )


def require_fit(plan: VmPlan, kernel: KernelManifest) -> None:
    """BadRequest when the kernel is known to lack what this machine needs."""
    reason = unfit(kernel.lacks, vmm=plan.machine.backend, disk=plan.disk.backend, network=plan.nic.backend)
    if reason:
        raise BadRequest(f"the kernel {kernel.name} does not fit this machine: {reason}", hint="choose other parts, or an image with another kernel")


def configuration(asked: Resolved, config: ImageConfig) -> ImageConfig:
    """How commands are run in the machine: as its image says, but for what was asked for.

    Whoever attends to what the image runs, and finds that it runs nothing, has asked for the one command instead.
    """
    if asked.attended and not inits.runs(config):
        return config
    return overlaid(config, env=asked.env, cwd=asked.cwd, user=asked.user)


def fitting(image: ImageManifest, architecture: str, asked: Resolved) -> ImageManifest:
    """The image; HostLacks when it is for another kind of processor than `architecture` (uname's word).

    BadRequest when it has too much to say, with what was asked for beside it.
    """
    if image.architecture not in ("", architecture):
        raise HostLacks(f"image {image.name} is for {image.architecture}, and this host is {architecture}", hint="take one that is made for this host")
    size = len(codec.encode(configuration(asked, image.config)))
    if size > LONGEST_CONFIG:
        raise BadRequest(f"the configuration of image {image.name} (variables, entrypoint, cmd) has {size} bytes; {LONGEST_CONFIG} can be passed on")
    return image


def with_nat(plan: VmPlan, nat: bool) -> VmPlan:
    """The plan with another decision about NAT."""
    nic = msgspec.structs.replace(plan.nic, nat=nat)
    return msgspec.structs.replace(plan, nic=nic, machine=msgspec.structs.replace(plan.machine, nic=nic))


def with_initramfs(plan: VmPlan, initramfs: Path) -> VmPlan:
    """The plan with another initramfs."""
    return msgspec.structs.replace(plan, machine=msgspec.structs.replace(plan.machine, initramfs=str(initramfs)))


def spec_line(plan: VmPlan) -> str:
    """What was decided, for people: one line."""
    access = " with host access" if plan.nic.host_access else ""
    kind = "" if plan.disk.backend == "overlay" else f" {plan.disk.backend}"
    return (
        f"spec: {plan.machine.vcpu} vcpu · {plan.machine.memory_mib} MiB · {show_size(plan.disk.size)} disk{kind} · {plan.image} on {plan.kernel}"
        f" · network {plan.nic.backend}{access} · {plan.machine.reason}"
    )


def identity(plan: VmPlan, *, time_ns: int, entropy: str, entrypoint: bool = True) -> dict[str, object]:
    """The agent's `identity` request for a machine (docs/wire.md); `entrypoint`: unless the plan says no, with what the image runs.

    An agent of an older banger than that knows no command: it is told of one only where there is one.
    """
    nic = plan.nic
    network = {"mac": nic.mac, "address": nic.address, "gateway": nic.gateway, "dns": list(nic.dns), "mtu": nic.mtu} if nic.address else None
    started = plan.entrypoint and entrypoint
    command: dict[str, object] = {"command": inits.command_of(plan.config), "user": plan.config.user} if started else {}
    return {
        "op": "identity",
        "hostname": plan.name,
        "machine_id": plan.machine_id,
        "time_ns": time_ns,
        "entropy": entropy,
        "network": network,
        "init": {"argv": plan.init, "env": plan.config.env, "cwd": plan.config.workdir, **command},
    }
