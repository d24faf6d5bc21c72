"""Machines that a full host disk has halted: they say so, and go on when there is room. One `tend` a running machine, which waits for news of it.

The only poll is of a machine that is halted, since no file system tells when it has room again.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import TYPE_CHECKING

from banger.backends.vmm import Stalling
from banger.model.errors import BangerError
from banger.model.sizes import show_size

if TYPE_CHECKING:
    from banger.daemon.machine import Machine

log = logging.getLogger(__name__)
#: What must be free before a halted machine goes on, and how often that is looked up.
ROOM, PAUSE = 64 << 20, 1.0


async def tend(machine: Machine) -> None:
    """As long as the machine's VMM lives: know whether it is halted, and let it go on. Ends quietly; what goes wrong is in the log."""
    vmm = machine.resources.vmm(machine.plan)
    if not isinstance(vmm, Stalling):
        return
    try:
        async with aclosing(vmm.stalls(machine.plan.machine)) as news:
            async for halted in news:
                machine.stalled = stalled(machine) if halted else ""
                if halted:
                    log.warning("%s is %s", machine.plan.name, machine.stalled)
                    await _room(machine)
                    await vmm.proceed(machine.plan.machine)
    except (BangerError, OSError) as error:
        log.warning("%s is not watched for a full disk any more: %s", machine.plan.name, error)
    finally:
        machine.stalled = ""


def stalled(machine: Machine) -> str:
    """What is told of a halted machine."""
    folder = machine.host.paths.vm_state(machine.plan.id)
    return f"paused: no space left for {folder}; it goes on once {show_size(ROOM)} are free there"


async def _room(machine: Machine) -> None:
    """Wait for room. Never at once: a disk may be full for this user and have room for others."""
    while True:
        await asyncio.sleep(PAUSE)
        if machine.host.files.free_bytes(machine.host.paths.vm_state(machine.plan.id)) >= ROOM:
            return
