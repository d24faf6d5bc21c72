"""What the host is: processors, memory, KVM, and who we are. Read when asked; nothing that can change is kept."""

from __future__ import annotations

import ipaddress
import os
import platform
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import msgspec

from banger.host.kernel import Kernel, read_distribution, read_kernel
from banger.host.tsc import measure_khz

#: The second is what systemd-resolved knows behind its own 127.0.0.53.
RESOLVERS = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
TUN = "/dev/net/tun"


class Kvm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether KVM runs stock kernels here, and why (not)."""

    usable: bool
    reason: str


class Facts(Protocol):
    """What decisions about defaults and backends rest on."""

    def cpus(self) -> int:
        """Processors this process may use."""

    def memory_mib(self) -> int:
        """The host's memory in MiB."""

    def tsc_khz(self) -> int:
        """The rate of the time stamp counter in kHz (for `tsc_early_khz`), 0 when it cannot be had; takes 10 ms the first time."""

    def architecture(self) -> str:
        """As uname(2) has it: x86_64, aarch64."""

    def boot_id(self) -> str:
        """What the kernel drew at random when it booted (random(4))."""

    def root(self) -> bool:
        """Whether we are the superuser."""

    def distribution(self) -> tuple[str, ...]:
        """What it calls itself, and what it is like: the words of os-release(5), nearest first."""

    def kernel(self) -> Kernel:
        """What the kernel says of itself, as far as it bears on machines' speed."""

    def taken(self, port: int) -> bool:
        """Whether something on this host is bound to this port of 127.0.0.1, for datagrams or streams."""

    def uid(self) -> int:
        """Who we are."""

    def nameservers(self) -> tuple[str, ...]:
        """The host's name servers that others can ask, too: IPv4, and none on the loopback; behind systemd-resolved, those that it asks."""

    def kvm(self) -> Kvm:
        """Usable means: /dev/kvm opens for reading and writing and the processor shows vmx or svm (some clouds' /dev/kvm has neither)."""

    def tun(self) -> str:
        """Empty when this user may open /dev/net/tun, by which TAPs are made; else why not. (Some tools wait for ever where it may not be opened.)"""

    def user_namespaces(self) -> str:
        """Empty when this user may make a user and a network namespace; else why not."""


def secluded_tap(facts: Facts) -> str:
    """Empty when this user can have a TAP in a namespace of its own; else why not."""
    return facts.tun() or facts.user_namespaces()


def parse_nameservers(text: str) -> tuple[str, ...]:
    """What a resolv.conf(5) names, as far as somebody else than the host can ask it."""
    words = [line.split() for line in text.splitlines()]
    named = [line[1] for line in words if len(line) > 1 and line[0] == "nameserver"]
    usable = []
    for name in named:
        with suppress(ValueError):
            if not ipaddress.IPv4Address(name).is_loopback and name != "0.0.0.0":
                usable.append(name)
    return tuple(usable)


class RealFacts:
    """The host itself."""

    def __init__(self) -> None:
        self._tsc_khz: int | None = None
        self._namespaces = False

    def cpus(self) -> int:
        """See Facts."""
        return len(os.sched_getaffinity(0))

    def memory_mib(self) -> int:
        """See Facts."""
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20

    def tsc_khz(self) -> int:
        """See Facts."""
        if self._tsc_khz is None:
            measured = measure_khz()
            self._tsc_khz = measured if 100_000 < measured < 10_000_000 else self._present_khz()
        return self._tsc_khz

    def _present_khz(self) -> int:
        """The processor's present clock: the same where it does not change, and better than nothing."""
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("cpu MHz"):
                return int(float(line.partition(":")[2]) * 1000)
        return 0

    def architecture(self) -> str:
        """See Facts."""
        return platform.machine()

    def boot_id(self) -> str:
        """See Facts."""
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    def root(self) -> bool:
        """See Facts."""
        return os.geteuid() == 0

    def distribution(self) -> tuple[str, ...]:
        """See Facts."""
        return read_distribution()

    def kernel(self) -> Kernel:
        """See Facts."""
        return read_kernel()

    def taken(self, port: int) -> bool:
        """See Facts."""
        return any(_bound(Path("/proc/net", table), port) for table in ("udp", "tcp", "udp6", "tcp6"))

    def uid(self) -> int:
        """See Facts."""
        return os.geteuid()

    def nameservers(self) -> tuple[str, ...]:
        """See Facts."""
        for path in RESOLVERS:
            with suppress(OSError):
                found = parse_nameservers(path.read_text(errors="replace"))
                if found:
                    return found
        return ()

    def kvm(self) -> Kvm:
        """See Facts."""
        if not os.path.exists("/dev/kvm"):
            return Kvm(False, "/dev/kvm is missing")
        if not os.access("/dev/kvm", os.R_OK | os.W_OK):
            return Kvm(False, "/dev/kvm is not accessible to this user")
        flags = next((line.split() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), [])
        if not {"vmx", "svm"} & set(flags):
            return Kvm(False, "the processor shows no vmx or svm")
        return Kvm(True, "/dev/kvm is usable")

    def tun(self) -> str:
        """See Facts."""
        if not os.path.exists(TUN):
            return f"{TUN} is missing"
        return "" if os.access(TUN, os.R_OK | os.W_OK) else f"{TUN} is not accessible to this user"

    def user_namespaces(self) -> str:
        """See Facts. There are too many ways to forbid it to read them all, so it is tried; once it has worked, it is taken to work."""
        if self._namespaces:
            return ""
        command = ["unshare", "--user", "--map-user=1", "--map-group=1", "--net", "--", "true"]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=5)
        except subprocess.CalledProcessError as error:
            return f"this host does not let this user make user namespaces: {error.stderr.strip() or 'no reason given'}"
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"user namespaces cannot be made: {error}"
        self._namespaces = True
        return ""


def _bound(table: Path, port: int) -> bool:
    """Whether a table of sockets (proc_net(5): addresses in hexadecimal, in the host's order) has the port at 127.0.0.1 or at all addresses.

    Streams count while they listen only (state 0A); a socket of datagrams that is bound has state 07.
    """
    places = {f"{address}:{port:04X}" for address in ("0100007F", "0" * 8, "0" * 32)}
    try:
        lines = table.read_text().splitlines()[1:]
    except FileNotFoundError:  # a kernel without IPv6
        return False
    return any(fields[1] in places and fields[3] in ("0A", "07") for fields in map(str.split, lines))
