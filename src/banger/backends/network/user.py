"""The default network: passt, an ordinary process, makes the guest's connections its own. It needs no privilege and no setting up on the host.

Every guest sees the same little network: itself, a gateway, and a name server whose queries passt passes on to the host's, so a resolver on the host's
loopback works too. Nothing can reach the guest from outside. The host's loopback is out of the guest's reach, unless `host_access`: then the
gateway's address leads there.
Owns one passt a machine and its files. passt ends with the connection of its VMM. The socket is kept in the machine's lasting folder, below the home
folder, because AppArmor lets passt make none in /run; the VMM finds it by a link in the run folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from banger.host.detached import Detached
from banger.host.proc import Life, ProcessId
from banger.model.errors import BangerError, HostLacks, ToolFailed
from banger.model.finding import Finding, Level
from banger.model.ids import mac_of
from banger.model.parts import NicPart, PartStatus

if TYPE_CHECKING:
    from banger.backends.network import Network
    from banger.host import Host
    from banger.model.ids import VmId

PACKAGE = "passt"
ADDRESS, PREFIX, GATEWAY, RESOLVER = "10.0.2.15", 24, "10.0.2.2", "10.0.2.3"
MTU = 1500
READY_TIMEOUT = 5.0
SOCKET, PID = "passt.sock", "passt.pid"


def socket_name(vm: VmId) -> str:
    """The socket's name seen from the folder it is in, written so that it holds the id: by this word a lost process is found."""
    return f"../{vm}/{SOCKET}"


def argv(part: NicPart, *, root: bool) -> list[str]:
    """passt's command: it makes its socket, writes its pid, and goes to the background; so when the command returns, it is ready."""
    return [
        "passt",
        "--quiet",
        "--one-off",
        *("--socket", socket_name(part.vm)),
        *("--pid", PID),
        *(("--runas", "0:0") if root else ()),
        "--ipv4-only",
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


class User:
    """The backend."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def plan(self, vm: VmId, *, host_access: bool) -> NicPart:
        """See Network."""
        return NicPart(
            backend="user",
            vm=vm,
            mac=mac_of(vm),
            address=f"{ADDRESS}/{PREFIX}",
            gateway=GATEWAY,
            dns=(RESOLVER,),
            mtu=MTU,
            host_access=host_access,
        )

    def _process(self, vm: VmId) -> Detached:
        record = self.host.paths.vm_run(vm) / "passt.json"
        return Detached(self.host.proc, self.host.files, record, (socket_name(vm),))

    async def ensure(self, part: NicPart) -> None:
        """See Network."""
        process = self._process(part.vm)
        if process.find() is not None:
            return
        if self.host.proc.which("passt") is None:
            raise HostLacks("passt is not installed", hint=f"as root: apt-get install {PACKAGE}; or choose --network none")
        files, folder = self.host.files, self.host.files.private_folder(self.host.paths.vm_state(part.vm))
        for name in (SOCKET, PID):
            files.remove_tree(folder / name)
        files.link(folder / SOCKET, files.private_folder(self.host.paths.vm_run(part.vm)) / SOCKET)
        await process.start(lambda: self._spawn(part))

    async def _spawn(self, part: NicPart) -> ProcessId:
        folder = self.host.paths.vm_state(part.vm)
        try:
            await self.host.proc.run(argv(part, root=self.host.facts.root()), timeout=READY_TIMEOUT, cwd=folder)
        except ToolFailed as error:
            raise explain(error) from error
        pid = (self.host.files.read(folder / PID) or b"").strip()
        found = self.host.proc.identify(int(pid)) if pid.isdigit() else None
        if found is None:
            raise ToolFailed("passt ended at once")
        return found

    async def remove(self, part: NicPart) -> None:
        """See Network."""
        await self._process(part.vm).end()
        state, run = self.host.paths.vm_state(part.vm), self.host.paths.vm_run(part.vm)
        for path in (run / SOCKET, state / SOCKET, state / PID):
            self.host.files.remove_tree(path)
        for folder in (run, state):
            self.host.files.remove_if_empty(folder)

    def inspect(self, part: NicPart) -> PartStatus:
        """See Network."""
        process = self._process(part.vm).find()
        if process is None:
            return PartStatus(present=False)
        return PartStatus(present=True, running=True, frozen=self.host.proc.look(process) is Life.FROZEN, pid=process.pid)

    def check(self) -> list[Finding]:
        """See Network."""
        if self.host.proc.which("passt") is None:
            message, fix = "passt is not installed", f"apt-get install {PACKAGE}"
            return [Finding(level=Level.FAIL, subject="network user", message=message, fix=fix, packages=(PACKAGE,))]
        return [Finding(level=Level.PASS, subject="network user", message="passt is installed")]


def explain(error: ToolFailed) -> BangerError:
    """What passt means by its more cryptic messages."""
    return error


def backend(host: Host) -> Network:
    """passt on this host."""
    return User(host)
