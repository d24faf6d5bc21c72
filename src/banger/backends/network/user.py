"""The default network: passt, an ordinary process, makes the guest's connections its own. It needs no privilege and no setting up on the host.

Every guest sees the same little network: itself, a gateway, and a name server whose queries passt passes on to the host's, so a resolver on the host's
loopback works too. Nothing can reach the guest from outside. The host's loopback is out of the guest's reach, which takes a sieve in front of passt
(see host/sieve.py), unless `host_access`: then the gateway's address leads there.
A VMM that can connect to a socket finds the sieve's in the run folder; one that knows TAPs only (Firecracker) finds one in a user and network namespace
of the sieve's, which it enters. Owns one sieve and one passt a machine, and their socket. Both end with the connection of the VMM.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from banger.backends.lives import Lives
from banger.host import sieve
from banger.host.facts import secluded_tap
from banger.host.proc import ProcessId
from banger.model.errors import BadRequest, HostLacks, ToolFailed
from banger.model.finding import Finding, Level
from banger.model.ids import mac_of
from banger.model.packages import install
from banger.model.parts import NicPart, PartStatus

if TYPE_CHECKING:
    from banger.backends.network import Network
    from banger.host import Host
    from banger.model.ids import VmId

PACKAGE = "passt"
ADDRESS, PREFIX, GATEWAY, RESOLVER = "10.0.2.15", 24, "10.0.2.2", "10.0.2.3"
MTU = 1500
READY_TIMEOUT = 5.0
SOCKET = "passt.sock"
#: In a namespace of its own, where there is no other.
TAP = "tap0"
#: The gateway's, so that what the guest has learned holds with another passt too.
GATEWAY_MAC = "52:42:00:00:00:02"
#: What passt says on a host without a default route. It needs an interface only to take addresses from, and is told all of them.
NO_ROUTE = "No external routable interface"
#: What passt says whatever happens.
CHATTER = ("Failed to send", "Don't run as root", "Couldn't get any nameserver", "External interface")


def socket_name(vm: VmId) -> str:
    """The socket's name seen from the folder it is in, written so that it holds the id: by this word a lost process is found."""
    return f"../{vm}/{SOCKET}"


def passt_argv(part: NicPart, *, interface: str = "") -> list[str]:
    """passt's command; it goes to the background once it is ready. As root it becomes nobody by itself."""
    return [
        "passt",
        "--quiet",
        "--ipv4-only",
        *(("--interface", interface) if interface else ()),
        *("--mac-addr", GATEWAY_MAC),
        *("--address", part.address.partition("/")[0]),
        *("--netmask", part.address.partition("/")[2]),
        *("--gateway", part.gateway),
        *("--dns-forward", part.dns[0]),
        *("--mtu", str(part.mtu)),
        *(() if part.host_access else ("--no-map-gw",)),
        *("--tcp-ports", "none"),
        *("--udp-ports", "none"),
        "--no-dhcp",
        "--no-ndp",
        "--no-dhcpv6",
        "--no-ra",
    ]


def argv(part: NicPart, *, interface: str = "") -> list[str]:
    """The sieve's command, which starts passt, goes to the background when that is ready, and prints its pid."""
    return [
        sys.executable,
        "-I",
        "-S",
        sieve.__file__,
        *(("--open",) if part.host_access else ()),
        *(("--tap", part.tap) if part.tap else ()),
        socket_name(part.vm),
        "--",
        *passt_argv(part, interface=interface),
    ]


class User:
    """The backend."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.lives = Lives(host, host.paths.network_process, lambda vm: (socket_name(vm),))

    async def usable(self) -> str:
        """See Network."""
        return "" if self.host.proc.which("passt") else "passt is not installed"

    def plan(self, vm: VmId, *, host_access: bool, sockets: bool = True, nat: bool | None = None, taken: frozenset[str] = frozenset()) -> NicPart:
        """See Network."""
        if nat is False:
            raise BadRequest("a machine on the network user always reaches what the host does", hint="choose --network bridge, or --network none")
        return NicPart(
            backend="user",
            vm=vm,
            mac=mac_of(vm),
            address=f"{ADDRESS}/{PREFIX}",
            gateway=GATEWAY,
            dns=(RESOLVER,),
            mtu=MTU,
            host_access=host_access,
            nat=True,
            tap="" if sockets else TAP,
            secluded=not sockets,
        )

    async def ensure(self, part: NicPart) -> None:
        """See Network."""
        if self.lives.find(part.vm) is not None:
            return
        if self.host.proc.which("passt") is None:
            raise HostLacks("passt is not installed", hint=f"as root: {install((PACKAGE,), self.host.facts.distribution())}; or choose --network none")
        lack = secluded_tap(self.host.facts) if part.tap else ""
        if lack:
            raise HostLacks(lack, hint="choose --vmm qemu, or --network none")
        folder = self.host.files.private_folder(self.host.paths.vm_run(part.vm))
        self.host.files.remove_tree(folder / SOCKET)
        await self.lives.start(part.vm, lambda: self._spawn(part))

    async def _spawn(self, part: NicPart) -> ProcessId:
        try:
            return await self._run(part, argv(part))
        except ToolFailed as error:
            if not any(NO_ROUTE in line for line in error.tail):
                raise explain(error) from error
        self.host.files.remove_tree(self.host.paths.vm_run(part.vm) / SOCKET)
        try:
            return await self._run(part, argv(part, interface="lo"))
        except ToolFailed as error:
            raise explain(error) from error

    async def _run(self, part: NicPart, command: list[str]) -> ProcessId:
        printed = await self.host.proc.run(command, timeout=READY_TIMEOUT, cwd=self.host.paths.vm_run(part.vm))
        found = self.host.proc.identify(int(printed)) if printed.strip().isdigit() else None
        if found is None:
            raise ToolFailed("passt ended at once")
        return found

    async def remove(self, part: NicPart) -> None:
        """See Network."""
        await self.lives.end(part.vm)
        folder = self.host.paths.vm_run(part.vm)
        self.host.files.remove_tree(folder / SOCKET)
        self.host.files.remove_if_empty(folder)

    def inspect(self, part: NicPart) -> PartStatus:
        """See Network."""
        return self.lives.inspect(part.vm)

    async def check(self) -> list[Finding]:
        """See Network."""
        if self.host.proc.which("passt") is None:
            return [Finding(level=Level.FAIL, subject="network user", message="passt is not installed", packages=(PACKAGE,))]
        return [Finding(level=Level.PASS, subject="network user", message="passt is installed")]


def explain(error: ToolFailed) -> ToolFailed:
    """passt's own words, without what it always says; or the sieve's."""
    said = [line for line in error.tail if not line.startswith(CHATTER)]
    if said and said[-1].startswith(sieve.NO_TAP):
        return ToolFailed(said[-1], hint="choose --vmm qemu, which needs none, or --network none", tail=tuple(said))
    return ToolFailed(
        f"passt failed: {said[-1] if said else error.message}", hint="a machine without a network needs none: --network none", tail=tuple(said)
    )


def backend(host: Host) -> Network:
    """passt on this host."""
    return User(host)
