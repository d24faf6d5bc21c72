"""Leases: which machine has which address, where machines have addresses of their own; and what the host keeps ready for the next ones.

A lease is an address in a saved plan, from the moment it is decided until the machine is deleted: there is no other table that could disagree. Those
that are kept ready are the lowest free ones, which are what the next machines get. Owns the task that keeps them ready.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from banger.backends.network import Network, Shared
from banger.daemon.machine import Machine
from banger.daemon.plan import NOBODY
from banger.daemon.resources import Resources
from banger.daemon.store import Phase
from banger.model.errors import BangerError, HostLacks
from banger.model.ids import VmId
from banger.model.parts import NicPart

log = logging.getLogger(__name__)


class Leases:
    """The leases of these machines; `ready` is how many are kept ready."""

    def __init__(self, resources: Resources, machines: Mapping[VmId, Machine], ready: int) -> None:
        self.resources, self.machines, self.ready = resources, machines, ready
        self.changed = asyncio.Event()

    def taken(self, network: str) -> frozenset[str]:
        """The addresses that machines have there, running or not."""
        return frozenset(machine.plan.nic.address for machine in self.machines.values() if machine.plan.nic.backend == network)

    def live(self, network: str) -> list[NicPart]:
        """The network parts of machines that run there."""
        return [machine.plan.nic for machine in self.machines.values() if machine.plan.nic.backend == network and machine.inspect().running]

    def spare(self, name: str, network: Network) -> list[NicPart]:
        """What the next machines there will get, and what those have got that are being made."""
        if not self.ready:
            return []
        making = [machine.plan.nic for machine in self.machines.values() if machine.phase is Phase.CREATING and machine.plan.nic.backend == name]
        taken, free = set(self.taken(name)), list[NicPart]()
        try:
            for _ in range(self.ready):
                free.append(network.plan(NOBODY, host_access=False, nat=False, taken=frozenset(taken)))
                taken.add(free[-1].address)
        except HostLacks as error:
            log.info("%d of %d are kept ready: %s", len(free), self.ready, error)
        return making + free

    async def settle(self) -> None:
        """Make the host so; what fails is told, and tried again after the next change."""
        for name, network in self.resources.networks.items():
            if isinstance(network, Shared):
                try:
                    await network.settle(self.live(name), self.spare(name, network))
                except (BangerError, OSError) as error:
                    log.warning("the network %s is not as it should be: %s", name, error)

    def touch(self) -> None:
        """Something has changed that what is kept ready depends on."""
        self.changed.set()

    async def keep(self) -> None:
        """Keep what is to be ready, for good."""
        while True:
            await self.changed.wait()
            self.changed.clear()
            await self.settle()
