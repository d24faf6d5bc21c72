"""No network: the machine has no network device at all. The agent's channel is none, so exec, copying and dialling work. Owns nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from banger.model.errors import BadRequest
from banger.model.finding import Finding, Level
from banger.model.ids import mac_of
from banger.model.parts import NicPart, PartStatus

if TYPE_CHECKING:
    from banger.backends.network import Network
    from banger.host import Host
    from banger.model.ids import VmId


class NoNetwork:
    """The backend."""

    async def usable(self) -> str:
        """See Network."""
        return ""

    def plan(self, vm: VmId, *, host_access: bool, sockets: bool = True, nat: bool | None = None, taken: frozenset[str] = frozenset()) -> NicPart:
        """See Network."""
        if nat:
            raise BadRequest("a machine without a network has nothing to send", hint="leave out --nat, or choose another --network")
        if host_access:
            raise BadRequest("a machine without a network cannot have access to the host", hint="leave out --host-access, or choose --network user")
        return NicPart(backend="none", vm=vm, mac=mac_of(vm))

    async def ensure(self, part: NicPart) -> None:
        """See Network."""

    async def remove(self, part: NicPart) -> None:
        """See Network."""

    def inspect(self, part: NicPart) -> PartStatus:
        """See Network."""
        return PartStatus(present=True, running=True)

    async def check(self) -> list[Finding]:
        """See Network."""
        return [Finding(level=Level.PASS, subject="network none", message="needs nothing")]


def backend(host: Host) -> Network:
    """Nothing, on this host as on any."""
    return NoNetwork()
