"""Firecracker: the least VMM there is, for hosts with KVM.

The process runs inside the machine's run folder and names its sockets relative to it, so that a saved machine can be started elsewhere. All of the
configuration is one file that is there before it starts: whoever dies in between leaves a whole machine or none. The guest's console is Firecracker's
stdout, a pipe that never makes it wait; while no daemon reads, the first 64 KiB are kept and the rest is lost. It has no switch for the guest's power:
a guest that restarts ends it (`reboot=k`), so the agent restarts where it is told to power off.
Without a jail the process has no capability, cannot get one (no new privileges), and is in a user namespace, its own or its network's.
Owns the process, `vmm.json`, `machine.json`, `console.pipe`, the two sockets, and through `host/meters.py` the pipe of its metrics; `remove` takes all
of them away.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from banger.backends.jailing import NO_NETWORK, Jailing, inside, limits
from banger.backends.lives import Lives
from banger.backends.releases import Binaries, too_old, why
from banger.host import fcapi, unshare, vsock
from banger.host.detached import recorded
from banger.host.facts import secluded_tap
from banger.host.jail import Thing
from banger.host.meters import PIPE
from banger.host.proc import Life, ProcessId
from banger.model.drives import by_letter, drives, words
from banger.model.errors import BadRequest, BangerError, GuestFailed, HostLacks, TimedOut, VmmFailed, WrongState
from banger.model.finding import Finding, Level
from banger.model.parts import DiskPart, MachinePart, NicPart, PartStatus
from banger.model.paths import Paths
from banger.model.releases import FLOOR, Binary, show_version

if TYPE_CHECKING:
    from banger.backends.vmm import Vmm
    from banger.host import Host
    from banger.host.stream import Stream
    from banger.model.ids import VmId
    from banger.model.metrics import Metrics

log = logging.getLogger(__name__)
API, VSOCK, CONFIGURATION, OUTPUT = "api.sock", "vsock.sock", "machine.json", "console.pipe"
#: Where the agent listens, and the guest's address: the least that is not reserved (vsock(7)).
PORT, CONTEXT = 1024, 3
NETWORKS = frozenset({"none", "user", "bridge"})
READY_TIMEOUT = 30.0
FLUSH_TIMEOUT = 5.0
#: The first line after a pipe that was full has the beginning of another one before it, and is lost.
FLUSHES = 2
FIRST_PAUSE, LONGEST_PAUSE = 0.002, 0.05
TAIL_LINES = 20
MOST_VCPUS = 32
LEAST_MEMORY, MOST_MEMORY = 128, 1 << 20

#: The least that boots: no PCI bus to look through, no keyboard controller to wait for; Firecracker's own start-up test uses the same.
ARGUMENTS = (
    *("console=ttyS0", "reboot=k", "panic=-1", "pci=off", "quiet"),
    *("i8042.noaux", "i8042.nomux", "i8042.nopnp", "i8042.dumbkbd", "swiotlb=noforce", "cryptomgr.notests"),
    *(f"banger.vsock={PORT}", "banger.off=reset"),
)


def instance(vm: VmId) -> str:
    """What `--id` says: by this word a process is found whose pid was not written down."""
    return f"banger-{vm}"


def configuration(part: MachinePart, paths: Paths) -> fcapi.Configuration:
    """The whole machine; the guest sees its disks in the order of the drives."""
    disks = drives(part.disk, paths)
    arguments = " ".join((*ARGUMENTS, *words(disks, by_letter)))
    return fcapi.Configuration(
        boot_source=fcapi.BootSource(kernel_image_path=part.kernel, initrd_path=part.initramfs, boot_args=arguments),
        machine_config=fcapi.MachineConfig(vcpu_count=part.vcpu, mem_size_mib=part.memory_mib),
        drives=tuple(fcapi.Drive(drive_id=disk.role, path_on_host=disk.path, is_read_only=disk.read_only) for disk in disks),
        vsock=fcapi.Vsock(guest_cid=CONTEXT, uds_path=VSOCK),
        metrics=fcapi.MetricsConfig(metrics_path=PIPE),
        network_interfaces=_interfaces(part.nic),
    )


def _interfaces(nic: NicPart) -> tuple[fcapi.NetworkInterface, ...]:
    """The machine's TAP, if its network has one."""
    return (fcapi.NetworkInterface(iface_id="eth0", guest_mac=nic.mac, host_dev_name=nic.tap),) if nic.tap else ()


def argv(part: MachinePart, binary: str) -> list[str]:
    """The whole command; its own log shares stdout with the console, so only warnings are asked for."""
    return [
        binary,
        *("--id", instance(part.vm)),
        *("--api-sock", API),
        *("--config-file", CONFIGURATION),
        *("--level", "Warning"),
    ]


class Firecracker:
    """The backend."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.binaries = Binaries(host)
        self.jailing = Jailing(host, self.binaries)
        self.lives = Lives(host, host.paths.vmm_process, lambda vm: (instance(vm), CONFIGURATION), self.jailing.owner)

    def usable(self) -> str:
        """See Vmm."""
        if self.host.facts.architecture() != "x86_64":
            return f"Firecracker machines need an x86_64 host for now; this is {self.host.facts.architecture()}"
        return "; ".join(lack for lack in (self._binary_lacks(), self._kvm_lacks()) if lack)

    def _binary_lacks(self) -> str:
        binary = self.binaries.used()
        if binary is None:
            return f"{self.host.settings.firecracker or 'firecracker'} is not installed"
        if not binary.version:
            return f"{binary.path} does not say which version of Firecracker it is"
        if too_old(binary):
            return f"Firecracker {binary.version} is too old: {show_version(FLOOR)} is the oldest that will do ({binary.path})"
        return ""

    def _kvm_lacks(self) -> str:
        if self.host.settings.kvm == "no":
            return "the setting kvm is no"
        kvm = self.host.facts.kvm()
        return "" if kvm.usable or self.host.settings.kvm == "yes" else kvm.reason

    def unfit(self, network: str) -> str:
        """See Vmm."""
        if network not in NETWORKS:
            return f"it cannot use the network {network} yet"
        return secluded_tap(self.host.facts) if network == "user" else ""

    def sockets(self) -> bool:
        """See Vmm."""
        return False

    def plan(self, vm: VmId, *, vcpu: int, memory_mib: int, kernel: str, initramfs: str, disk: DiskPart, nic: NicPart) -> MachinePart:
        """See Vmm."""
        if not 1 <= vcpu <= MOST_VCPUS:
            raise BadRequest(f"{vcpu} virtual CPUs are not possible with Firecracker", hint=f"choose 1 to {MOST_VCPUS}, or --vmm qemu")
        if not LEAST_MEMORY <= memory_mib <= MOST_MEMORY:
            raise BadRequest(f"{memory_mib} MiB of memory are not possible", hint=f"choose {LEAST_MEMORY}M to {MOST_MEMORY >> 10}G")
        if nic.backend not in NETWORKS:
            raise BadRequest(f"Firecracker cannot use the network {nic.backend!r} yet", hint="choose --network none, or --vmm qemu")
        return MachinePart(
            backend="firecracker",
            vm=vm,
            vcpu=vcpu,
            memory_mib=memory_mib,
            accelerator="kvm",
            reason=self._reason(),
            kernel=kernel,
            initramfs=initramfs,
            disk=disk,
            nic=nic,
        )

    def _reason(self) -> str:
        """Which Firecracker it will be, and that KVM is there: what `show` says."""
        binary = self.binaries.used()
        version = f" {binary.version} ({binary.source})" if binary else ""
        return f"Firecracker{version}: {self.host.facts.kvm().reason}"

    def binary(self) -> Binary:
        """The one to start machines with; HostLacks when there is none, or none that will do."""
        missing = self.usable()
        binary = self.binaries.used()
        if missing or binary is None:
            raise HostLacks(missing, hint="run: banger doctor")
        return binary

    async def ensure(self, part: MachinePart) -> None:
        """See Vmm."""
        if self.lives.find(part.vm) is not None:
            return
        binary = self.binary()
        folder = self.host.files.private_folder(self.host.paths.vm_run(part.vm))
        await self._clear(part)
        command = self._furnish(part, binary)

        async def spawn() -> ProcessId:
            return await self.host.proc.spawn(command, cwd=folder, output=folder / OUTPUT)

        started = await self.lives.start(part.vm, spawn)
        self.host.consoles.start(part.vm)
        try:
            await self._running(started, self.jailing.place(part.vm) / API)
        except (GuestFailed, VmmFailed, TimedOut) as error:
            raise await self._failure(part.vm, started, error) from error

    def _furnish(self, part: MachinePart, binary: Binary) -> list[str]:
        """Everything that Firecracker finds when it starts, in its jail if it has one; and the command."""
        found, command, mode = configuration(part, self.host.paths), argv(part, binary.path), 0o600
        network = self._network(part.nic)
        pipe = self.host.meters.prepare(part.vm)
        self.host.meters.start(part.vm)
        if self.jailing.wanted(binary):
            found, things = inside(found)
            things = (*things, Thing(name=PIPE, source=str(pipe), read_only=False))
            netns = f"/proc/{network}/ns/net" if network else NO_NETWORK if part.nic.backend == "none" else ""
            command = self.jailing.ensure(part.vm, command, things, limits(part.vcpu, part.memory_mib), binary, netns, part.nic.tap)
            mode = 0o644  # read by the jail's user; the folders that lead to it are private
        else:
            command = [*self._seclusion(part.nic, network), *command]
        place = self.jailing.place(part.vm)
        self.host.files.write_atomic(place / CONFIGURATION, msgspec.json.encode(found), mode=mode, durable=False)
        return command

    def _network(self, nic: NicPart) -> int:
        """The process in whose namespaces the machine's TAP is; 0 when that is in our own, or there is none."""
        if not nic.secluded:
            return 0
        found = recorded(self.host.proc, self.host.files, self.host.paths.network_process(nic.vm))
        if found is None:
            raise VmmFailed("the network has ended before the machine began")
        return found.pid

    def _seclusion(self, nic: NicPart, network: int) -> list[str]:
        """What stands before the command without a jail: into the network's namespaces, or into one of its own where the host lets us make one."""
        if network:
            return unshare.beside(network)
        return unshare.stripped(namespace=not self.host.facts.user_namespaces(), network=nic.backend == "none")

    async def _running(self, process: ProcessId, socket: Path) -> None:
        """Wait until its API answers, which it does once the guest's processors run."""
        pause = FIRST_PAUSE
        try:
            async with asyncio.timeout(READY_TIMEOUT):
                while True:
                    try:
                        info = await fcapi.get(self.host.dialer, socket, "/", fcapi.InstanceInfo, timeout=READY_TIMEOUT)
                        break
                    except GuestFailed:
                        if self.host.proc.look(process) is Life.GONE:
                            raise
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
        except TimeoutError:
            raise TimedOut(f"Firecracker's API did not answer within {READY_TIMEOUT:g} s") from None
        if info.state != "Running":
            raise VmmFailed(f"Firecracker says that the machine is {info.state.lower()}")

    async def _failure(self, vm: VmId, started: ProcessId, error: BangerError) -> VmmFailed:
        """Why it does not answer: its own last words if it ended."""
        try:
            async with asyncio.timeout(1.0):
                await self.host.proc.gone(started)
        except TimeoutError:
            return VmmFailed(f"Firecracker does not answer: {error}")
        self.host.consoles.stop(vm)
        said = self.host.consoles.tail(vm, TAIL_LINES)
        return VmmFailed(f"Firecracker ended at once: {said[-1] if said else 'it said nothing'}", tail=said)

    async def _clear(self, part: MachinePart) -> None:
        """Take away what a process leaves: its jail, and the pipe with our own hold on it."""
        folder = self.host.paths.vm_run(part.vm)
        await self.jailing.remove(part.vm, instance(part.vm), [drive.path for drive in drives(part.disk, self.host.paths) if not drive.read_only])
        for name in (API, VSOCK, CONFIGURATION, OUTPUT):
            self.host.files.remove_tree(folder / name)
        self.host.meters.remove(part.vm)
        self.host.proc.said(folder / OUTPUT)

    async def remove(self, part: MachinePart) -> None:
        """See Vmm."""
        await self.lives.end(part.vm)
        self.host.consoles.stop(part.vm)  # before its pipe goes
        await self._clear(part)
        self.host.files.remove_if_empty(self.host.paths.vm_run(part.vm))

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
        return await self.lives.call(part.vm, vsock.dial(self.host.dialer, self.jailing.place(part.vm) / VSOCK, PORT, timeout=timeout))

    async def metrics(self, part: MachinePart) -> Metrics:
        """See Metered: the report is in the pipe before the answer comes."""
        before = self.host.meters.read(part.vm)
        if before is None:
            raise WrongState("its Firecracker was started by a banger that did not read metrics yet", hint="restart the machine")
        for _ in range(FLUSHES):
            action = fcapi.Action(action_type="FlushMetrics")
            await fcapi.send(self.host.dialer, self.jailing.place(part.vm) / API, "PUT", "/actions", action, timeout=FLUSH_TIMEOUT)
            found = self.host.meters.read(part.vm)
            if found is not None and found.reports > before.reports:
                return found
        raise VmmFailed("Firecracker's reports make no sense", hint="its metrics are lost until the machine is restarted")

    def check(self) -> list[Finding]:
        """See Vmm."""
        missing = self.usable()
        if missing:
            return [Finding(level=Level.WARN, subject="firecracker", message=missing, fix=self._fix())]
        binary = self.binaries.used()
        assert binary is not None, "usable without a binary"
        found = [Finding(level=Level.PASS, subject="firecracker", message=why(binary)), *self.jailing.check(binary)]
        lack = self.unfit("user")
        if lack:
            fix = "machines with the network user run in QEMU instead; nothing needs to be done"
            found.append(Finding(level=Level.WARN, subject="firecracker", message=f"it cannot have the network user: {lack}", fix=fix))
        return found

    def _fix(self) -> str:
        """Installing it helps only where it is all that is missing."""
        able = self.host.settings.kvm == "yes" or (self.host.settings.kvm == "auto" and self.host.facts.kvm().usable)
        return "banger firecracker install" if able else "machines run in QEMU instead; nothing needs to be done"


def backend(host: Host) -> Vmm:
    """Firecracker on this host."""
    return Firecracker(host)
