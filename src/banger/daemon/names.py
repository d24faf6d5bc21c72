"""Names: `NAME.vm` is a running machine's address for the host's programs, as long as the host can reach it there.

There is no table to go stale: each query looks at the machines as they are. The port is one of the loopback (setting `dns_port`); when another has it,
machines do without names, and it is tried again whenever one starts. Where systemd-resolved runs it is told to ask us for `vm`, on the bridge, as soon
as a machine is behind that; both are best effort, and how they stand is in the log, in `banger daemon status`, and in a file that doctor reads.
Owns the port, what is set on the bridge, and that file; `close` gives them back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from ipaddress import IPv4Interface
from pathlib import Path
from typing import TYPE_CHECKING

from banger.daemon.machine import Machine
from banger.daemon.naming import Naming, write_naming
from banger.host import Host
from banger.host.nameserver import Listening
from banger.model.errors import BangerError
from banger.model.names import LOOPBACK, Routing, reverse_domain, server

if TYPE_CHECKING:
    from banger.daemon import dns

log = logging.getLogger(__name__)
#: How long a start waits for the host's resolver at most; what it does afterwards is noted all the same.
PATIENCE = 10.0


Reply = Callable[[bytes, "dns.Table", bool], bytes]


def _unready(query: bytes, table: dns.Table, stream: bool) -> bytes:
    raise AssertionError("nobody is asked before it listens")


def _reader() -> Reply:
    """How queries are answered. Imported in a thread, before the first comes: it takes 30 ms and more, in which the daemon would do nothing else."""
    from banger.daemon import dns

    return lambda query, table, stream: dns.answer(query, table, stream=stream)


class Names:
    """Who answers for the zone, and who is sent to us."""

    def __init__(self, host: Host, machines: Callable[[], Iterable[Machine]]) -> None:
        self.host, self.machines = host, machines
        #: Where we answer, and the interface that machines with names are behind (backends/network/bridge.py).
        self.port, self.link = host.settings.dns_port, host.settings.bridge
        self.listening: Listening | None = None
        self._reply: Reply = _unready
        self.lock = asyncio.Lock()
        self.state = Naming(port=self.port)
        #: What the resolver was told, and the number of the interface it was told about: one of the same name may come later.
        self.routed: tuple[bytes, Routing] | None = None

    # -- answering ------------------------------------------------------------------------------------------------------------------------------

    def table(self) -> dict[str, IPv4Interface]:
        """The machines that run and that the host reaches, by name."""
        plans = [machine.plan for machine in self.machines() if machine.plan.nic.reachable and machine.inspect().running]
        return {plan.name: IPv4Interface(plan.nic.address) for plan in plans}

    def answer(self, query: bytes, stream: bool) -> bytes:
        """See daemon/dns.py."""
        return self._reply(query, self.table(), stream)

    def summary(self) -> str:
        """Where names are answered, or why not, in one line."""
        if not self.port:
            return "off: the setting dns_port is 0"
        return self.state.trouble or f"NAME.vm at {server(self.port)}"

    # -- standing by ----------------------------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Take the port, if it is to be had."""
        async with self.lock:
            await self._listen()

    @asynccontextmanager
    async def beside(self, machine: Machine, tasks: asyncio.TaskGroup) -> AsyncIterator[None]:
        """While a machine is brought up: the resolver is told as soon as the network is there, and knows once the machine is up."""
        work = tasks.create_task(self._begin(machine), name=f"name {machine.plan.name}")
        try:
            yield
            await work
        finally:
            work.cancel()

    async def _begin(self, machine: Machine) -> None:
        await machine.connected.wait()
        await self.began(machine)

    async def began(self, machine: Machine) -> None:
        """A machine's network is there: see that its name leads to it. Never fails."""
        if not self.port or not machine.plan.nic.reachable:
            return
        async with self.lock:
            if self.listening is None:
                await self._listen()
            if self.listening is not None:
                await self._route(machine)

    async def close(self) -> None:
        """Give everything back."""
        async with self.lock:
            if self.routed is not None:
                await self._revert()
            if self.listening is not None:
                await self.listening.close()
                self.listening = None
                self.host.files.remove_tree(self.host.paths.names)

    async def _listen(self) -> None:
        if not self.port:
            return
        self._reply = await asyncio.to_thread(_reader)
        try:
            self.listening = await self.host.nameservers.listen(LOOPBACK, self.port, self.answer)
        except (BangerError, OSError) as error:
            log.warning("names are not answered: %s", error)
            self._tell(trouble=str(error))
        else:
            log.info("names are answered at %s", server(self.port))
            self._tell(trouble="")

    async def _route(self, machine: Machine) -> None:
        """Tell the resolver, unless it knows."""
        index = self._index()
        networks = {each.network for each in (*self.table().values(), IPv4Interface(machine.plan.nic.address))}
        routing = Routing(link=self.link, port=self.port, domains=("vm", *sorted(map(reverse_domain, networks))))
        if self.routed == (index, routing) or self.host.resolver.lacks():
            return
        try:
            async with asyncio.timeout(PATIENCE):
                await self.host.resolver.route(routing)
        except (BangerError, OSError) as error:
            log.warning("the host's resolver is not told of names: %s", error)
            self.routed = None
            self._tell(routing=str(error) or f"it took longer than {PATIENCE:g} s")
        else:
            log.info("%s is asked for %s", server(self.port), ", ".join(routing.domains))
            self.routed = (index, routing)
            self._tell(routing="")

    async def _revert(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                await self.host.resolver.revert(self.link)
        except (BangerError, OSError) as error:
            log.warning("what the host's resolver was told of %s stays: %s", self.link, error or "it does not answer")
        self.routed = None

    def _index(self) -> bytes:
        try:
            return self.host.files.read(Path("/sys/class/net", self.link, "ifindex")) or b""
        except OSError:  # it is just going
            return b""

    def _tell(self, *, trouble: str | None = None, routing: str | None = None) -> None:
        """Keep and write down how it stands; nobody depends on the file."""
        state = self.state
        self.state = Naming(
            port=self.port,
            trouble=state.trouble if trouble is None else trouble,
            routing=state.routing if routing is None else routing,
            routed=self.routed is not None,
        )
        try:
            write_naming(self.host, self.state)
        except (BangerError, OSError) as error:
            log.warning("%s is not written: %s", self.host.paths.names, error)
