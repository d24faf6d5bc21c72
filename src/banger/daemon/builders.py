"""Builder machines: one for each build or commit, with the agent as process 1; what its disk holds in the end becomes a root file system.

A builder has `rm`: it goes with the operation, however that ends, and with a daemon that is killed. Owns the machine while it is needed.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from banger.daemon.guests import Conversation
from banger.daemon.guestwork import Ended, fetch, lay, run
from banger.daemon.machine import Machine
from banger.daemon.making import Seed, own_file
from banger.daemon.vms import Vms
from banger.host import Host
from banger.host.buildcontext import Content, Packing, Sink
from banger.host.mmdebstrap import check_room
from banger.host.rootfs import Layer, Written, limits_of
from banger.model.errors import Corrupt
from banger.model.event import report, step
from banger.model.inits import LOOK
from banger.model.recipe import Copy, Run
from banger.model.vm import VmSpec

#: What of a root is a machine's and no image's.
WITHOUT = (
    *("/etc/machine-id", "/etc/hostname", "/etc/resolv.conf", "/etc/ssh/ssh_host_*", "/etc/.banger-*"),
    *("/var/lib/systemd/random-seed", "/var/lib/systemd/credential.secret", "/lost+found"),
)
#: Where a script is laid that has an interpreter of its own: in the guest's memory, so no image gets it.
SCRIPTS, SCRIPT = "/run", "banger-build-script"
MEET, SYNC, QUIET = 30.0, 600.0, 60.0
SPARE = 64 << 20
MIB = 1 << 20


class Builder:
    """A builder machine that runs."""

    def __init__(self, host: Host, machine: Machine) -> None:
        self.host, self.machine = host, machine

    async def talk(self) -> Conversation:
        """The conversation with its agent."""
        return await self.machine.meet(MEET)

    async def folder(self, path: str) -> None:
        """Make a folder unless it is there."""
        await lay(await self.talk(), unpacking(path, into=True), Packing(Content(into=True)).chunks())

    async def run(self, step: Run, told: Callable[[Sequence[str]], None]) -> Ended:
        """Run a step's command, and end what it has left running; how it ended. What it prints is heard in lines, some at a time."""
        argv = step.argv
        if step.script:
            script = Packing(Content(into=True, inline=((SCRIPT, step.script.encode("utf-8", "surrogatepass")),)))
            await lay(await self.talk(), unpacking(SCRIPTS, into=True, mode=0o755), script.chunks())
            argv = (f"{SCRIPTS}/{SCRIPT}",)
        wanted = {"argv": list(argv), "env": {**step.proxies, **step.env}, "cwd": step.workdir, "user": step.user or None}
        found = await run(await self.talk(), wanted, told)
        await (await self.talk()).request({"op": "quiet"}, timeout=QUIET)
        status, name = found.get("exit"), found.get("signal")
        return Ended(exit=status if isinstance(status, int) else 0, signal=name if isinstance(name, str) else "")

    async def copy(self, step: Copy, content: Content, digest: str) -> None:
        """Lay a step's files into the machine; Corrupt when they are not any more what was digested."""
        packing = Packing(content)
        request = unpacking(step.target, into=content.into, owner=step.owner or "0:0", mode=step.mode)
        await lay(await self.talk(), request, packing.chunks())
        for archive in packing.archives():
            await lay(await self.talk(), unpacking(step.target, into=True, owner=step.owner or None, mode=step.mode), archive)
        if packing.digest != digest:
            raise Corrupt("the context was changed while it was read", hint="try again when nobody writes to it")

    async def settled(self, keep: Callable[[Path], Awaitable[None]]) -> None:
        """Have all that was written on its disk, and nothing more written while `keep` copies the disk's own file."""
        await (await self.talk()).request({"op": "sync"}, timeout=SYNC)
        plan, vmm = self.machine.plan, self.machine.resources.vmm(self.machine.plan)
        vmm.signal(plan.machine, signal.SIGSTOP)
        try:
            await keep(own_file(self.host.paths, plan.disk))
        finally:
            vmm.signal(plan.machine, signal.SIGCONT)

    async def root(self, rootfs: Path, label: str) -> Written:
        """Write what its disk holds into a new file, as a root file system."""
        tar = rootfs.with_name("root.tar")
        async with step("read the machine's disk", label):
            added = self.host.files.used_bytes(own_file(self.host.paths, self.machine.plan.disk))
            check_room(self.host.files, rootfs.parent, added + SPARE, f"image {label}")
            sink = Sink(tar, self._told())
            try:
                await fetch(await self.talk(), {"op": "pack", "without": list(WITHOUT)}, sink.write)
            finally:
                digest = sink.close()
        async with step("make image", f"making {label}"):
            layer = Layer(path=str(tar), diff_id=digest, plain=True)
            written = await self.host.rootfs.write(rootfs, [layer], label=label, limits=limits_of(self.host.settings), look=LOOK)
        self.host.files.remove_tree(tar)
        return written

    def _told(self) -> Callable[[int], None]:
        """Reports bytes now and then; Corrupt when there are more than an image may have."""
        limit, said = limits_of(self.host.settings).size, 0

        def told(size: int) -> None:
            nonlocal said
            if size > limit:
                raise Corrupt(f"the machine's disk holds more than an image may ({limit} bytes)", hint="raise the setting image_limit")
            if size - said >= 8 * MIB:
                said = size
                report("", done=size, unit="bytes")

        return told


def unpacking(path: str, *, into: bool, owner: str | None = None, mode: int | None = None) -> dict[str, object]:
    """The agent's `unpack` request."""
    return {"op": "unpack", "path": path, "into": into, "owner": owner, "mode": mode}


@asynccontextmanager
async def building(host: Host, vms: Vms, spec: VmSpec, seed: Seed | None = None) -> AsyncIterator[Builder]:
    """A builder machine for the length of a block; whatever happens, nothing of it is left."""
    machine = await vms.making.temporary(spec, seed=seed)
    try:
        yield Builder(host, machine)
        await vms.roster.destroy(machine)
    except BaseException as error:
        await vms.roster.undo(machine, error)
        raise


def copying(host: Host, source: Path) -> Seed:
    """Begin with what another machine's file has."""

    async def seed(target: Path) -> None:
        files = host.files
        check_room(files, files.private_folder(target.parent), files.used_bytes(source) + SPARE, "the builder's disk")
        fresh = target.with_suffix(".new")
        files.remove_tree(fresh)
        await asyncio.to_thread(files.copy_sparse, source, fresh)
        files.replace(fresh, target)

    return seed
