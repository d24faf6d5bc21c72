"""QEMU's `microvm` machine: with KVM where the host has it, by emulation (TCG) elsewhere.

The process runs inside the machine's run folder and names its sockets relative to it, so that a saved machine can be started elsewhere. The sockets
are made before it starts: connecting never races with its start, and a stream that ends is how its death is noticed. The console is a socket too:
what the guest prints while nobody is connected is dropped by QEMU (a pipe would fill and stall the guest instead).
Owns the process, `vmm.json`, `vmm.out` and the sockets; `remove` takes all of them away.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

from banger.backends.lives import Lives
from banger.host.console import harmless
from banger.host.proc import ProcessId
from banger.model.drives import Drive, by_serial, drives, words
from banger.model.errors import BadRequest, BangerError, GuestFailed, HostLacks, TimedOut, VmmFailed
from banger.model.finding import Finding, Level
from banger.model.packages import install
from banger.model.parts import DiskPart, MachinePart, NicPart, PartStatus
from banger.model.paths import Paths

if TYPE_CHECKING:
    from banger.backends.vmm import Vmm
    from banger.host import Host
    from banger.host.stream import Stream
    from banger.model.ids import VmId

log = logging.getLogger(__name__)
BINARY = "qemu-system-x86_64"
PACKAGE = "qemu-system-x86"
EVENTS = "events.sock"
SOCKETS = ("qmp.sock", EVENTS, "agent.sock", "console.sock")
OUTPUT = "vmm.out"
#: Until a QEMU that was just started answers, in seconds: it reads the kernel first, some 50 MB, on a host that may be busy. One that ends is noticed.
START_TIMEOUT = 30.0
READY_TIMEOUT = 5.0
LOG_TAIL = 4096
NETWORKS = frozenset({"none", "user", "bridge"})
MOST_VCPUS = 64
LEAST_MEMORY, MOST_MEMORY = 128, 1 << 20


def guest_name(vm: VmId) -> str:
    """What `-name` says, whole: by this word a process is found whose pid was not written down."""
    return f"guest=banger-{vm},process=banger-{vm}"


def kernel_arguments(accelerator: str, tsc_khz: int, disks: Sequence[Drive]) -> str:
    """The guest kernel's command line. Under TCG the microvm has no clock to calibrate the TSC by: without being told, half of all boots hang."""
    said = ["console=ttyS0", "reboot=t", "panic=-1", "quiet", *words(disks, by_serial), "banger.port=banger.0"]
    if accelerator == "tcg" and tsc_khz:
        said.append(f"tsc_early_khz={tsc_khz}")
    return " ".join(said)


def argv(part: MachinePart, paths: Paths, *, tsc_khz: int) -> list[str]:
    """The whole command; `%NAME%` stands for the descriptor of that socket (see Proc.spawn)."""
    disks = drives(part.disk, paths)
    return [
        BINARY,
        *("-name", guest_name(part.vm)),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        *("-display", "none"),
        *("-M", "microvm,acpi=on,rtc=on"),
        *(("-accel", "kvm", "-cpu", "host") if part.accelerator == "kvm" else ("-accel", "tcg,thread=multi", "-cpu", "Nehalem")),
        *("-smp", str(part.vcpu)),
        *("-m", f"{part.memory_mib}M"),
        *("-global", "virtio-mmio.force-legacy=false"),
        *("-kernel", part.kernel),
        *("-initrd", part.initramfs),
        *("-append", kernel_arguments(part.accelerator, tsc_khz, disks)),
        *(word for disk in disks for word in _disk(disk)),
        *_channels(),
        *_nic(part.nic),
        *("-object", "rng-random,id=rng,filename=/dev/urandom"),
        *("-device", "virtio-rng-device,rng=rng"),
    ]


def _escaped(path: str) -> str:
    """A comma in a value of QEMU's options is written twice."""
    return path.replace(",", ",,")


def _disk(disk: Drive) -> list[str]:
    """A drive. What the guest has flushed is with the host kernel, so it outlives a killed QEMU."""
    access = "readonly=on" if disk.read_only else "cache=writeback,discard=unmap"
    return [
        *("-drive", f"if=none,id={disk.role},file={_escaped(disk.path)},format=raw,{access}"),
        *("-device", f"virtio-blk-device,drive={disk.role},serial={disk.role}"),
    ]


def _channels() -> list[str]:
    """QMP, twice: for questions, and for who follows the machine; the guest's console, and the agent's virtio-serial port."""
    return [
        *("-chardev", "socket,id=qmp,fd=%qmp.sock%,server=on,wait=off"),
        *("-mon", "chardev=qmp,mode=control"),
        *("-chardev", f"socket,id=events,fd=%{EVENTS}%,server=on,wait=off"),
        *("-mon", "chardev=events,mode=control"),
        *("-chardev", "socket,id=console,fd=%console.sock%,server=on,wait=off"),
        *("-serial", "chardev:console"),
        *("-device", "virtio-serial-device"),
        *("-chardev", "socket,id=agent,fd=%agent.sock%,server=on,wait=off"),
        *("-device", "virtserialport,chardev=agent,name=banger.0"),
    ]


def _nic(nic: NicPart) -> list[str]:
    """How each kind of network looks from here; `none` is no device at all."""
    if nic.backend == "none":
        return ["-nic", "none"]
    if nic.backend == "user":
        return [
            *("-netdev", "stream,id=n,server=off,addr.type=unix,addr.path=passt.sock"),
            *("-device", f"virtio-net-device,netdev=n,mac={nic.mac}"),
        ]
    if nic.backend == "bridge":
        return [
            *("-netdev", f"tap,id=n,ifname={nic.tap},script=no,downscript=no"),
            *("-device", f"virtio-net-device,netdev=n,mac={nic.mac}"),
        ]
    raise BadRequest(f"QEMU cannot use the network {nic.backend!r}")


class Qemu:
    """The backend."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.lives = Lives(host, host.paths.vmm_process, lambda vm: (guest_name(vm),))

    def usable(self) -> str:
        """See Vmm."""
        if self.host.facts.architecture() != "x86_64":
            return f"QEMU machines need an x86_64 host for now; this is {self.host.facts.architecture()}"
        if self.host.proc.which(BINARY) is None:
            return f"{BINARY} is not installed (package {PACKAGE})"
        return ""

    def _accelerator(self) -> tuple[str, str]:
        if self.host.settings.kvm != "auto":
            return ("kvm" if self.host.settings.kvm == "yes" else "tcg"), f"the setting kvm is {self.host.settings.kvm}"
        kvm = self.host.facts.kvm()
        return ("kvm" if kvm.usable else "tcg"), kvm.reason

    def unfit(self, network: str) -> str:
        """See Vmm."""
        return "" if network in NETWORKS else f"it cannot use the network {network}"

    def sockets(self) -> bool:
        """See Vmm."""
        return True

    def plan(self, vm: VmId, *, vcpu: int, memory_mib: int, kernel: str, initramfs: str, disk: DiskPart, nic: NicPart) -> MachinePart:
        """See Vmm."""
        if not 1 <= vcpu <= MOST_VCPUS:
            raise BadRequest(f"{vcpu} virtual CPUs are not possible", hint=f"choose 1 to {MOST_VCPUS}")
        if not LEAST_MEMORY <= memory_mib <= MOST_MEMORY:
            raise BadRequest(f"{memory_mib} MiB of memory are not possible", hint=f"choose {LEAST_MEMORY}M to {MOST_MEMORY >> 10}G")
        accelerator, reason = self._accelerator()
        return MachinePart(
            backend="qemu",
            vm=vm,
            vcpu=vcpu,
            memory_mib=memory_mib,
            accelerator=accelerator,
            reason=f"QEMU with {accelerator.upper()}: {reason}",
            kernel=kernel,
            initramfs=initramfs,
            disk=disk,
            nic=nic,
        )

    async def ensure(self, part: MachinePart) -> None:
        """See Vmm."""
        if self.lives.find(part.vm) is not None:
            return
        missing = self.usable()
        if missing:
            raise HostLacks(missing, hint=f"as root: {install((PACKAGE,), self.host.facts.distribution())}")
        folder = self.host.files.private_folder(self.host.paths.vm_run(part.vm))
        tsc_khz = self.host.facts.tsc_khz() if part.accelerator == "tcg" else 0
        command = argv(part, self.host.paths, tsc_khz=tsc_khz)

        async def spawn() -> ProcessId:
            return await self.host.proc.spawn(command, cwd=folder, output=folder / OUTPUT, listen=SOCKETS)

        started = await self.lives.start(part.vm, spawn)
        self.host.consoles.start(part.vm)
        try:
            await self.host.qmp.execute(folder / "qmp.sock", "query-status", timeout=START_TIMEOUT)
        except (GuestFailed, VmmFailed, TimedOut) as error:
            raise await self._failure(part.vm, started, error) from error

    async def _failure(self, vm: VmId, started: ProcessId, error: BangerError) -> VmmFailed:
        """Why it does not answer: its own last words if it ended."""
        try:
            async with asyncio.timeout(1.0):
                await self.host.proc.gone(started)
        except TimeoutError:
            return VmmFailed(f"QEMU does not answer: {error}")
        said = self._said(vm)
        return VmmFailed(f"QEMU ended at once: {said[-1] if said else 'it said nothing'}", tail=tuple(said))

    def _said(self, vm: VmId) -> list[str]:
        """The end of what QEMU has printed, the guest's part in it made harmless."""
        return harmless(self.host.proc.said(self.host.paths.vm_run(vm) / OUTPUT)[-LOG_TAIL:]).splitlines()

    async def remove(self, part: MachinePart) -> None:
        """See Vmm."""
        await self.lives.end(part.vm)
        for line in self._said(part.vm):
            log.info("QEMU of %s said: %s", part.vm, line)
        folder = self.host.paths.vm_run(part.vm)
        for name in (*SOCKETS, OUTPUT):
            self.host.files.remove_tree(folder / name)
        self.host.proc.said(folder / OUTPUT)
        self.host.files.remove_if_empty(folder)

    def inspect(self, part: MachinePart) -> PartStatus:
        """See Vmm."""
        return self.lives.inspect(part.vm)

    async def gone(self, part: MachinePart) -> None:
        """See Vmm."""
        await self.lives.gone(part.vm)

    def signal(self, part: MachinePart, number: int) -> bool:
        """See Vmm."""
        return self.lives.signal(part.vm, number)

    async def dial(self, part: MachinePart, *, timeout: float) -> Stream:
        """See Vmm."""
        return await self.lives.call(part.vm, self.host.dialer.unix(self.host.paths.vm_run(part.vm) / "agent.sock"))

    async def stalls(self, part: MachinePart) -> AsyncGenerator[bool, None]:
        """See Stalling: QEMU's own choice for a full disk (`werror=enospc`); it stops for no other error."""
        with suppress(GuestFailed, VmmFailed):  # it has ended, or is one of before there was such a socket
            following = self.host.qmp.follow(self.host.paths.vm_run(part.vm) / EVENTS, "query-status", frozenset({"STOP", "RESUME"}))
            async with aclosing(following):
                async for found in following:
                    yield isinstance(found, dict) and found.get("status") == "io-error"

    async def proceed(self, part: MachinePart) -> None:
        """See Stalling."""
        await self.host.qmp.execute(self.host.paths.vm_run(part.vm) / "qmp.sock", "cont", timeout=READY_TIMEOUT)

    def check(self) -> list[Finding]:
        """See Vmm."""
        missing = self.usable()
        if missing:
            packages, fix = ((PACKAGE,), "") if "installed" in missing else ((), "use an x86-64 host")
            return [Finding(level=Level.FAIL, subject="qemu", message=missing, packages=packages, fix=fix)]
        accelerator, reason = self._accelerator()
        speed = Level.PASS if accelerator == "kvm" else Level.WARN
        fix = "" if speed is Level.PASS else "machines work, slowly; for speed, use a host with hardware virtualisation and access to /dev/kvm"
        return [
            Finding(level=Level.PASS, subject="qemu", message=f"{self.host.proc.which(BINARY)}"),
            Finding(level=speed, subject="kvm", message=f"{accelerator.upper()} is used: {reason}", fix=fix),
        ]


def backend(host: Host) -> Vmm:
    """QEMU on this host."""
    return Qemu(host)
