"""Firecracker behind its jailer: whether, as whom, in which folder, and within which limits. What is decided here `host/jail.py` and the jailer do.

The jail is the folder `jail` in the machine's run folder, and in it, as the jailer has it, `NAME/ID/root`: all that Firecracker then sees. Its
user is computed from the machine's id, from a range that belongs to nobody, so that no two machines share one; the owner of the root says whose it is.
What is in the jail belongs to a process that may have turned hostile: it is reached through sockets that are no links, and otherwise only removed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from banger.host import fcapi
from banger.host.cgroup import Limits
from banger.host.jail import Thing
from banger.model.errors import HostLacks
from banger.model.finding import Finding, Level

if TYPE_CHECKING:
    from banger.backends.releases import Binaries
    from banger.host import Host
    from banger.model.config import Settings
    from banger.model.ids import VmId
    from banger.model.parts import NicPart
    from banger.model.releases import Binary

log = logging.getLogger(__name__)
JAIL = "jail"
NO_NETWORK = "none"
MIB = 1 << 20
#: What Firecracker takes beside the guest's memory: itself (5 MiB), the kernel's page tables for the guest, and pages of files that it just used.
OVERHEAD_MIB, OVERHEAD_SHARE = 64, 64
#: Threads beside one for each virtual processor (the VMM itself, its API) with room to spare, and processors for them.
SPARE_THREADS, SPARE_CPUS = 16, 1.0


def user_of(vm: VmId, settings: Settings, tap: str = "") -> int:
    """The user, and group, that a machine's VMM runs as behind the jailer.

    On the bridge it goes with the TAP, which belongs to it: so a TAP that is ready has its owner before there is a machine. Giving it to another would
    take milliseconds of the kernel's.
    """
    place = tap.rpartition("-")[2] if tap.startswith("bgr-") else ""
    return settings.jail_uid_first + int(place or str(int(vm, 16))) % settings.jail_uid_count


def tap_owner(host: Host, part: NicPart) -> int:
    """Who opens a machine's TAP: its jailed VMM's user. One that runs as root, without a jail, opens any; where we are not root, it is ours."""
    return user_of(part.vm, host.settings, part.tap) if host.facts.root() else host.facts.uid()


def limits(vcpu: int, memory_mib: int) -> Limits:
    """What a machine may take of the host, its VMM included."""
    memory = memory_mib + OVERHEAD_MIB + memory_mib // OVERHEAD_SHARE
    return Limits(memory_bytes=memory * MIB, cpus=vcpu + SPARE_CPUS, pids=vcpu + SPARE_THREADS)


def inside(found: fcapi.Configuration) -> tuple[fcapi.Configuration, tuple[Thing, ...]]:
    """The same machine with every file where the jail has it, and what therefore has to be put there."""
    boot = found.boot_source
    things = [Thing(name="kernel", source=boot.kernel_image_path, read_only=True), Thing(name="initramfs", source=boot.initrd_path, read_only=True)]
    things += [Thing(name=drive.drive_id, source=drive.path_on_host, read_only=drive.is_read_only) for drive in found.drives]
    jailed = msgspec.structs.replace(
        found,
        boot_source=msgspec.structs.replace(boot, kernel_image_path="/kernel", initrd_path="/initramfs"),
        drives=tuple(msgspec.structs.replace(drive, path_on_host=f"/{drive.drive_id}") for drive in found.drives),
    )
    return jailed, tuple(things)


def argv(words: Sequence[str], *, jailer: str, uid: int, base: Path, cgroup: str = "", netns: str = "") -> list[str]:
    """The command of Firecracker (`words`: binary, `--id`, the id, the rest) as one of its jailer. seccomp stays on: nothing turns it off.

    `netns` is the file of a network namespace, or `NO_NETWORK` for a new one in which there is nothing; empty: ours.
    """
    binary, option, identity, *rest = words
    assert option == "--id", "the jailer passes the id on by itself"
    return [
        *(("unshare", "--net", "--") if netns == NO_NETWORK else ()),
        jailer,
        *("--id", identity),
        *("--exec-file", binary),
        *("--uid", str(uid)),
        *("--gid", str(uid)),
        *("--chroot-base-dir", str(base)),
        *(("--cgroup-version", "2", "--parent-cgroup", cgroup) if cgroup else ()),
        *(("--netns", netns) if netns not in ("", NO_NETWORK) else ()),
        "--",
        *rest,
    ]


class Jailing:
    """The jails of machines."""

    def __init__(self, host: Host, binaries: Binaries) -> None:
        self.host, self.binaries = host, binaries

    def base(self, vm: VmId) -> Path:
        """The jailer's folder for the machine."""
        return self.host.paths.vm_run(vm) / JAIL

    def place(self, vm: VmId) -> Path:
        """Where the machine's VMM has its sockets: its jail's root, or the run folder itself when it has none."""
        return next(self.base(vm).glob("*/*/root"), self.host.paths.vm_run(vm))

    def owner(self, vm: VmId) -> int:
        """The user of the machine's jail; -1 when there is none."""
        return next((self.host.jails.owner(root) for root in self.base(vm).glob("*/*/root")), -1)

    def lack(self, binary: Binary) -> str:
        """Why this Firecracker runs without a jailer; empty when it runs behind it."""
        settings = self.host.settings
        if settings.jailer == "no":
            return "the setting jailer is no"
        missing = self._impossible()
        if missing:
            return missing
        if not binary.jailer:
            return "the jailer is not installed"
        name = Path(binary.path).resolve().name
        if "firecracker" not in name:
            return f"the jailer starts nothing that is called {name}"
        version = self.binaries.version(Path(binary.jailer), "Jailer")
        if version != binary.version:
            return f"the jailer at {binary.jailer} is of version {version or 'unknown'}, not {binary.version}"
        return ""

    def _impossible(self) -> str:
        """Why no jailer whatever could do anything here."""
        first, count = self.host.settings.jail_uid_first, self.host.settings.jail_uid_count
        return self.host.jails.lack(self.host.paths.running, first, first + count - 1)

    def wanted(self, binary: Binary) -> bool:
        """Whether to use it; HostLacks when it has to be used and cannot be."""
        missing = self.lack(binary)
        if missing and self.host.settings.jailer == "yes":
            raise HostLacks(f"machines are to run behind the jailer: {missing}", hint="run: banger doctor")
        return not missing

    def ensure(
        self, vm: VmId, words: Sequence[str], things: Sequence[Thing], bounds: Limits, binary: Binary, netns: str = "", tap: str = ""
    ) -> list[str]:
        """Furnish the jail and make its limits; the command that starts Firecracker in it."""
        base = self.base(vm)
        uid = self._user(vm, tap)
        root = base / Path(binary.path).resolve().name / words[2] / "root"
        self.host.files.private_folder(base)
        self.host.jails.furnish(root, [self._lent(thing) for thing in things], uid)
        cgroup = "" if self.host.cgroups.lack() else self.host.cgroups.ensure(words[2], bounds)
        return argv(words, jailer=binary.jailer, uid=uid, base=base, cgroup=cgroup, netns=netns)

    def _lent(self, thing: Thing) -> Thing:
        """An image that is a file of the user's own is only lent to us."""
        paths = self.host.paths
        ours = any(Path(thing.source).is_relative_to(root) for root in (paths.state, paths.cache, paths.images, paths.kernels, Path("/dev")))
        return thing if ours or not thing.read_only else msgspec.structs.replace(thing, lent=True)

    def _user(self, vm: VmId, tap: str) -> int:
        """Computed, so that nothing has to be remembered; that two machines get the same one is next to impossible unless the range is made small."""
        uid = user_of(vm, self.host.settings, tap)
        for root in self.host.paths.running.glob(f"*/{JAIL}/*/*/root"):
            if self.host.jails.owner(root) == uid:
                raise HostLacks(f"the user {uid} has a machine already", hint="enlarge the setting jail_uid_count, and create the machine anew")
        return uid

    async def remove(self, vm: VmId, identity: str, written: Sequence[str]) -> None:
        """After the process: empty the jail, take back what its user could write, and end its group. Missing is success."""
        self.host.jails.empty(self.base(vm))
        for path in written:
            self.host.jails.give_back(Path(path))
        await self.host.cgroups.remove(identity)

    def check(self, binary: Binary) -> list[Finding]:
        """The row of doctor."""
        missing = self.lack(binary)
        if not missing:
            return [self._good(binary)]
        level = Level.PASS
        if self.host.settings.jailer == "yes":
            level = Level.FAIL
        elif self.host.facts.root() and self.host.settings.jailer == "auto":
            level = Level.WARN
        fix = "" if level is Level.PASS else "banger firecracker install" if not self._impossible() else "set jailer to no, if that is meant to be so"
        return [Finding(level=level, subject="jailer", message=f"machines run without it: {missing}", fix=fix)]

    def _good(self, binary: Binary) -> Finding:
        settings, unlimited = self.host.settings, self.host.cgroups.lack()
        users = f"users {settings.jail_uid_first} to {settings.jail_uid_first + settings.jail_uid_count - 1}"
        if unlimited:
            return Finding(
                level=Level.WARN, subject="jailer", message=f"{binary.jailer}, without limits: {unlimited}", fix="boot the host with cgroup v2"
            )
        return Finding(level=Level.PASS, subject="jailer", message=f"{binary.jailer}, {users}")
