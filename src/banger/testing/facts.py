"""A host as a test wants it."""

from __future__ import annotations

from banger.host.facts import Kvm
from banger.host.kernel import Kernel


class FakeFacts:
    """Eight processors, 16 GiB, no KVM, TAPs and user namespaces; every fact is an attribute to be changed."""

    def __init__(self) -> None:
        self.count, self.mib, self.khz = 8, 16384, 2_500_000
        self.machine, self.superuser = "x86_64", False
        self.boot = "00000000-0000-4000-8000-000000000000"
        self.words: tuple[str, ...] = ("debian",)
        self.system = Kernel(version=(6, 1), cgroup=2, favordynmods=True)
        self.ports: set[int] = set()
        self.resolvers: tuple[str, ...] = ("192.0.2.53",)
        self.no_tun = self.no_namespaces = ""
        self.has_kvm = Kvm(False, "/dev/kvm is missing")

    def cpus(self) -> int:
        """See Facts."""
        return self.count

    def memory_mib(self) -> int:
        """See Facts."""
        return self.mib

    def tsc_khz(self) -> int:
        """See Facts."""
        return self.khz

    def architecture(self) -> str:
        """See Facts."""
        return self.machine

    def boot_id(self) -> str:
        """See Facts."""
        return self.boot

    def root(self) -> bool:
        """See Facts."""
        return self.superuser

    def distribution(self) -> tuple[str, ...]:
        """See Facts."""
        return self.words

    def kernel(self) -> Kernel:
        """See Facts."""
        return self.system

    def taken(self, port: int) -> bool:
        """See Facts."""
        return port in self.ports

    def uid(self) -> int:
        """See Facts."""
        return 0 if self.superuser else 1000

    def nameservers(self) -> tuple[str, ...]:
        """See Facts."""
        return self.resolvers

    def kvm(self) -> Kvm:
        """See Facts."""
        return self.has_kvm

    def tun(self) -> str:
        """See Facts."""
        return self.no_tun

    def user_namespaces(self) -> str:
        """See Facts."""
        return self.no_namespaces
