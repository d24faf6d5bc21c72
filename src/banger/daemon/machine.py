"""One machine in the daemon's memory, and how it is brought up: the straight line from a plan to an agent that knows who it is.

Its lock is held while its parts are made and removed, never while the guest is waited for.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import signal
from collections.abc import Awaitable

from banger.daemon import plan as planning
from banger.daemon.entry import Entry
from banger.daemon.guests import Conversation, Hello, converse
from banger.daemon.resources import Resources
from banger.daemon.ssh import KnownHosts
from banger.daemon.store import Phase
from banger.host import Host
from banger.model.commands import stop_signal
from banger.model.errors import BangerError, GuestFailed, TimedOut, VmmFailed, WrongState
from banger.model.event import report, step
from banger.model.parts import PartStatus
from banger.model.ssh import fingerprint
from banger.model.vm import VmPlan, VmState, VmStatus

log = logging.getLogger(__name__)
IDENTITY_TIMEOUT = 20.0
TAIL_LINES = 20
POLL_BOOTED = 0.25
#: How much of the time that a machine has to stop is kept for what comes after its image's own command has ended, in seconds.
POWER_OFF = 4.0
#: How long after a broken connection the end of the process behind it shows.
END_SHOWS = 1.0


class Machine:
    """A machine: its plan, its lock, and the conversation with its guest while there is one."""

    def __init__(self, host: Host, resources: Resources, known: KnownHosts, tasks: asyncio.TaskGroup, plan: VmPlan, phase: Phase) -> None:
        self.host, self.resources, self.known, self.tasks, self.plan, self.phase = host, resources, known, tasks, plan, phase
        self.lock = asyncio.Lock()
        self.dialling = asyncio.Lock()
        self.conversation: Conversation | None = None
        self.boot_id = ""
        self.note = ""
        #: Why the VMM has halted the guest; empty while it runs.
        self.stalled = ""
        #: Whether it was not cleaned up to the end when it went down last.
        self.dirty = False
        #: Whether whoever creates it runs what the image runs, this once: then it is not started with the machine.
        self.attended = False
        self.entry = Entry(plan.name, tasks)
        self.watcher: asyncio.Task[None] | None = None
        #: Set while its network is there.
        self.connected = asyncio.Event()

    def inspect(self) -> PartStatus:
        """Whether its VMM lives; never waits."""
        return self.resources.vmm(self.plan).inspect(self.plan.machine)

    def status(self) -> VmStatus:
        """What is seen of it now, without asking the guest."""
        plan, vmm = self.plan, self.inspect()
        state = VmState.FROZEN if vmm.frozen else VmState.RUNNING if vmm.running else VmState.STOPPED
        if self.stalled and state is VmState.RUNNING:
            state = VmState.PAUSED
        if self.phase is not Phase.KEPT:
            state = VmState.CREATING
        disk = self.resources.disks[plan.disk.backend].inspect(plan.disk)
        return VmStatus(
            id=plan.id,
            name=plan.name,
            state=state,
            image=plan.image,
            kernel=plan.kernel,
            vcpu=plan.machine.vcpu,
            memory_mib=plan.machine.memory_mib,
            disk=plan.disk.backend,
            disk_bytes=plan.disk.size,
            disk_used_bytes=disk.used_bytes,
            network=plan.nic.backend,
            address=plan.nic.address,
            host_access=plan.nic.host_access,
            nat=plan.nic.nat,
            vmm=plan.machine.backend,
            accelerator=plan.machine.accelerator,
            reason=plan.machine.reason,
            rm=plan.rm,
            created=plan.created,
            pid=vmm.pid,
            boot_id=self.boot_id if vmm.running else "",
            entrypoint=self.entry.seen if vmm.running else None,
            ssh_fingerprints=tuple(map(fingerprint, self.known.of(plan.name))),
            note=self.note or self.stalled or disk.detail,
        )

    async def up(self, wait: str) -> None:
        """Make network and VMM, wait for the agent, tell it who it is. What fails is undone, and carries the console's tail."""
        try:
            async with self.lock:
                if self.phase is Phase.DELETING:
                    raise WrongState(f"machine {self.plan.name} was deleted meanwhile")
                async with step("disk", f"disk {self.plan.disk.backend}"):
                    await self.resources.attach(self.plan.disk)
                async with step("network", f"network {self.plan.nic.backend}"):
                    await self.resources.ensure(self.plan.nic)
                    self.connected.set()
                async with step("machine", f"starting {self.plan.machine.backend}"):
                    await self.resources.ensure(self.plan.machine)
                    self.host.consoles.start(self.plan.id)
            async with step("agent", "waiting for the guest"):
                await self._alive(self.meet(self.host.settings.boot_timeout))
                if self.entry.trouble():
                    report(f"warning: what the image of {self.plan.name} runs {self.entry.trouble()}")
            if wait == "boot":
                async with step("boot", "waiting until the guest's init has settled"):
                    await self._alive(self._settle())
        except BaseException as error:
            if isinstance(error, BangerError):
                error.tail = error.tail or self.host.consoles.tail(self.plan.id, TAIL_LINES)
            try:
                await self.down()
            except (BangerError, OSError) as left:
                error.add_note(f"left over: {left}")
            raise

    async def _alive(self, work: Awaitable[object]) -> None:
        """Wait for a guest that boots; however the end of its VMM shows first, it is told as that."""
        try:
            await work
        except (GuestFailed, WrongState) as error:
            try:
                async with asyncio.timeout(END_SHOWS):
                    await self.resources.vmm(self.plan).gone(self.plan.machine)
            except TimeoutError:
                raise error from None
            raise self._ended() from error

    def _ended(self) -> VmmFailed:
        tail = self.host.consoles.tail(self.plan.id, TAIL_LINES)
        panic = any("Kernel panic" in line for line in tail)
        cause = "its kernel panicked" if panic else "it was killed (is the host short of memory?) or has switched itself off"
        return VmmFailed(f"the machine {self.plan.name} ended before its agent answered: {cause}", hint=self._look(), tail=tail)

    def _look(self) -> str:
        """Where to see more; of a machine that is being created nothing will be left but the console's tail in the error."""
        if self.phase is Phase.KEPT:
            return f"all of its console: banger vm logs {self.plan.name}"
        return "try it again; to keep a machine that does not boot: banger vm create --no-start, then banger vm start, banger vm logs"

    async def meet(self, timeout: float) -> Conversation:
        """The conversation with the guest's agent, begun anew when there is none; GuestFailed or VmmFailed when it cannot be had in time."""
        async with self.dialling:
            if self.conversation is None or self.conversation.broken is not None:
                self.conversation = await self._begin(timeout)
                self.boot_id = self.conversation.hello.boot_id
            if self.plan.entrypoint:
                await self.entry.attend(self.conversation)
            return self.conversation

    async def _begin(self, timeout: float) -> Conversation:
        if not self.inspect().running:
            raise WrongState(f"machine {self.plan.name} is not running", hint=f"run: banger vm start {self.plan.name}")
        greeting = asyncio.create_task(self._greet(timeout))
        ended = asyncio.create_task(self.resources.vmm(self.plan).gone(self.plan.machine))
        try:
            await asyncio.wait([greeting, ended], return_when=asyncio.FIRST_COMPLETED)
            if greeting.done():
                return greeting.result()
            raise self._ended()
        finally:
            greeting.cancel()
            ended.cancel()
            await asyncio.wait([greeting, ended])

    async def _greet(self, timeout: float) -> Conversation:
        name = self.plan.name
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        try:
            stream = await self.resources.vmm(self.plan).dial(self.plan.machine, timeout=timeout)
        except TimedOut as error:
            raise TimedOut(f"the agent in {name} did not answer: {error}", hint=self._look()) from error
        epoch = int.from_bytes(self.host.clock.random(4), "big") or 1
        try:
            conversation = await converse(stream, epoch=epoch, tasks=self.tasks, name=name, timeout=max(1.0, round(until - loop.time(), 1)))
        except TimedOut as error:
            error.hint = self._look()
            raise
        await self._identify(conversation, conversation.hello)
        return conversation

    async def _identify(self, conversation: Conversation, hello: Hello) -> None:
        """Fails closed: a guest that does not know who it is gets no command."""
        if hello.boot_error:
            conversation.close(GuestFailed("its boot failed"))
            raise GuestFailed(f"the guest could not boot: {hello.boot_error[:1000]}", hint="the console's last lines are above")
        if hello.identified:
            return
        entropy = base64.b64encode(self.host.clock.random(64)).decode()
        request = planning.identity(self.plan, time_ns=self.host.clock.nanoseconds(), entropy=entropy, entrypoint=not self.attended)
        try:
            answer = await conversation.request(request, timeout=IDENTITY_TIMEOUT)
        except BaseException:
            conversation.close(GuestFailed("it could not be told who it is"))
            raise
        self.attended = False
        self.known.pin(self.plan.name, answer.get("host_keys"))

    async def _settle(self) -> None:
        """Ask until the init has settled: systemd has no event for it that a stranger could wait on without a bus connection."""
        limit = self.host.settings.boot_timeout
        try:
            async with asyncio.timeout(limit):
                while True:
                    if await self._booted():
                        return
                    await asyncio.sleep(POLL_BOOTED)
        except TimeoutError:
            raise TimedOut(f"the init of {self.plan.name} has not settled within {limit:g} s", hint=self._look()) from None

    async def _booted(self) -> bool:
        conversation = await self.meet(IDENTITY_TIMEOUT)
        answer = await conversation.request({"op": "info"}, timeout=IDENTITY_TIMEOUT)
        return answer.get("booted") is True

    async def down(self) -> None:
        """End the VMM and its network for good, whatever the guest says; the disk stays."""
        async with self.lock:
            await self._clear()

    async def reap(self) -> bool:
        """Clean up after a VMM that has ended; False when another one runs already (the machine was restarted meanwhile)."""
        async with self.lock:
            if self.inspect().running:
                return False
            await self._clear()
            return True

    def foretell(self) -> GuestFailed:
        """From now on the conversation's end is the machine's, and told as that."""
        end = GuestFailed(f"the machine {self.plan.name} was stopped")
        if self.conversation is not None:
            self.conversation.ending = end
        return end

    def end(self) -> None:
        """Tell its VMM to end, and wait for nothing: `down` does."""
        self.foretell()
        self.resources.vmm(self.plan).signal(self.plan.machine, signal.SIGKILL)

    async def _clear(self) -> None:
        """The conversation ends last: whoever hears its end and looks finds no machine that still runs."""
        end, conversation = self.foretell(), self.conversation
        self.conversation, self.dirty = None, True
        self.entry.forget()
        self.connected.clear()
        try:
            await self.resources.remove_volatile(self.plan)
            self.dirty = False
        finally:
            if conversation is not None:
                conversation.close(end)
            self.host.consoles.stop(self.plan.id)

    async def power_off(self, timeout: float) -> None:
        """Let what the image runs end, and the guest power off, within `timeout` seconds; what goes wrong is noted, since the caller forces it then."""
        vmm = self.resources.vmm(self.plan)
        try:
            async with asyncio.timeout(timeout):
                conversation = await self.meet(timeout)
                await self.entry.end(stop_signal(self.plan.config), max(timeout - POWER_OFF, timeout / 2))
                await conversation.request({"op": "poweroff"}, timeout=timeout)
                await vmm.gone(self.plan.machine)
        except TimeoutError:
            log.info("%s did not power off within %g s and is forced", self.plan.name, timeout)
        except BangerError as error:
            log.info("%s cannot power off by itself: %s", self.plan.name, error)
