"""A pretended host with an image and a kernel, on which daemons begin and end; the daemon and its backends are the real ones."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

from banger.daemon import Daemon, compose
from banger.daemon.operations import Progress
from banger.host.sqlite import RealDatabases
from banger.model import codec
from banger.model.catalog import ImageManifest, KernelManifest
from banger.model.config import Settings
from banger.model.event import Event
from banger.model.operation import Operation
from banger.model.vm import VmSpec, VmStatus
from banger.testing import FakeGuest, FakeHost, Mood

BUILT = datetime(2026, 1, 1, tzinfo=UTC)
IMAGE = ImageManifest(name="box", source="debian", digest="sha256:1", size_bytes=1, built=BUILT, kernel="linux", used_bytes=1, packages=1, init="")
KERNEL = KernelManifest(name="linux", source="debian", digest="sha256:2", size_bytes=1, built=BUILT, release="6.1", architecture="x86_64")
SETTINGS = Settings(default_image="box", network="none", memory_mib=256, vcpu=1, boot_timeout=0.3, stop_timeout=0.3)
OTTER = VmSpec(name="otter")
#: For something that takes milliseconds, on a busy host.
SECONDS = 30.0


class NoModules:
    """A kernel that has everything built in."""

    def closure(self, folder: Path, names: list[str]) -> list[Path]:
        return []


class Place:
    """A pretended host, on which daemons begin and end; processes stay."""

    def __init__(self, fake: FakeHost, stack: AsyncExitStack) -> None:
        self.fake, self.stack = fake, stack
        self.host = dataclasses.replace(fake.host, kmod=NoModules())
        paths = fake.paths
        for folder in (paths.state, paths.run, paths.cache, paths.machines, paths.running, paths.images, paths.kernels):
            folder.mkdir(parents=True, exist_ok=True)
        put(paths.image("box"), codec.encode(IMAGE))
        put(paths.kernel("linux"), codec.encode(KERNEL))
        (paths.state / "agent").write_bytes(b"agent")

    async def daemon(self) -> Daemon:
        """One more daemon, which takes over what is there; the former one is simply forgotten, as after SIGKILL."""
        tasks = await self.stack.enter_async_context(Endless())
        made = compose(
            self.host,
            databases=RealDatabases(),
            build="0+0",
            agent=self.fake.paths.state / "agent",
            catalogs=self.fake.paths.config,
            tasks=tasks.group,
        )
        self.stack.callback(made.vms.store.database.close)
        await made.names.open()
        await made.vms.adopt()
        return made

    def guests(self, mood: Mood) -> None:
        """How the guests of machines yet to be started behave."""
        self.fake.qemu.guest = lambda _: FakeGuest(mood)  # type: ignore[method-assign]

    def clean(self) -> bool:
        """No process and no file of a machine."""
        left = [path for folder in (self.fake.paths.machines, self.fake.paths.running) for path in folder.iterdir()]
        return not left and all(process.ended.is_set() for process in self.fake.proc.processes)


class Endless:
    """A task group that ends when it is left, whatever still runs in it."""

    async def __aenter__(self) -> Endless:
        self.group = asyncio.TaskGroup()
        await self.group.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.group._abort()
        await self.group.__aexit__(None, None, None)


def put(folder: Path, manifest: bytes) -> None:
    folder.mkdir()
    (folder / "manifest.json").write_bytes(manifest)


async def result(stream: AsyncIterator[Progress[VmStatus]]) -> VmStatus:
    """The operation's result, or what it raised."""
    last = [item async for item in stream][-1]
    assert isinstance(last, VmStatus)
    return last


async def reach(stream: AsyncIterator[Progress[VmStatus]], stage: str) -> str:
    """Follow an operation until it is at a stage; its id."""
    identity = ""
    async for item in stream:
        if isinstance(item, Operation):
            identity = item.id
        if isinstance(item, Event) and item.stage == stage:
            break
    return identity


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks go on until it holds."""
    deadline = monotonic() + SECONDS
    while not condition():
        assert monotonic() < deadline, f"it has not come within {SECONDS:g} s"
        await asyncio.sleep(0)
