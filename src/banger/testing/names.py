"""Names as a test wants them: ports that nobody else sees, and a resolver that remembers what it was told."""

from __future__ import annotations

from banger.host.nameserver import Answer, Listening
from banger.model.errors import Busy, ToolFailed
from banger.model.names import Routing, checked_routing


class FakeListening:
    """A port of the fake."""

    def __init__(self, servers: FakeNameServers, at: tuple[str, int]) -> None:
        self.servers, self.at = servers, at

    async def close(self) -> None:
        """See Listening."""
        self.servers.ports.pop(self.at, None)


class FakeNameServers:
    """All ports are free unless they are in `ports`, where a test finds who answers."""

    def __init__(self) -> None:
        self.ports: dict[tuple[str, int], Answer] = {}

    async def listen(self, address: str, port: int, answer: Answer) -> Listening:
        """See NameServers."""
        if (address, port) in self.ports:
            raise Busy(f"port {port} of {address} is taken by another process")
        self.ports[address, port] = answer
        return FakeListening(self, (address, port))


class FakeResolver:
    """systemd-resolved as a test wants it: `missing` says why there is none, `refusal` what it answers to everything."""

    def __init__(self) -> None:
        self.missing, self.refusal, self.consulted = "systemd-resolved does not run", "", True
        self.routings: dict[str, Routing] = {}
        #: How often something was asked of it.
        self.asks = 0

    def lacks(self) -> str:
        """See Resolver."""
        return self.missing

    def asked(self) -> bool:
        """See Resolver."""
        return self.consulted

    async def route(self, routing: Routing) -> None:
        """See Resolver."""
        self.asks += 1
        if self.refusal:
            raise ToolFailed(self.refusal)
        self.routings[routing.link] = checked_routing(routing)

    async def revert(self, link: str) -> None:
        """See Resolver."""
        self.asks += 1
        self.routings.pop(link, None)
