"""A world in one disk and network mode, and the host as it was with nothing but its daemon. The fixture `stage` gives one for each mode there is here.

In the lab machine: the modes that need its kernel, and Firecracker.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from banger.model.errors import BangerError
from tests.inventory import Inventory, take
from tests.namespace import private_network
from tests.world import SHELF, SLIM, World, alive, each_event, until

HERE = (("overlay", "none"), ("overlay", "user"), ("overlay", "bridge"), ("reflink", "none"))
LAB = (("overlay", "user"), ("devmapper", "bridge"), ("reflink", "none"))
MODES = LAB if os.environ.get("BANGER_LAB") else HERE
SECONDS = 60.0


class Stage:
    """What stands on the host, and what is left on it."""

    def __init__(self, world: World) -> None:
        """One machine was there before: what the cache holds, and what the first one makes of the host's network, is no leftover."""
        self.world = world
        world.ok("vm", "create", "--name", "first", "--no-start")
        world.ok("vm", "delete", "first")
        self.before = self.seen()

    def seen(self) -> Inventory:
        """The host now."""
        return take(self.world.root)

    def left(self) -> dict[str, list[str]]:
        """What is there now and was not before; another daemon than before is none of it."""
        found = self.seen().beyond(self.before)
        found["processes"] = [each for each in found.get("processes", ()) if "banger.bangerd" not in each]
        return {kind: more for kind, more in found.items() if more}

    def clean(self) -> None:
        """Soon nothing is left."""
        with contextlib.suppress(AssertionError):
            until(lambda: self.left() == {}, "a clean host", seconds=SECONDS)
        assert self.left() == {}

    def kill_daemon_at(self, stage: str, operation: str, **parameters: object) -> None:
        """Begin an operation, kill the daemon when it comes to the stage, and let the next one clean up."""
        world = self.world
        pid, reached = world.daemon_pid(), False
        with contextlib.suppress(BangerError, OSError, ValueError):
            for event in each_event(world.client().stream(operation, **parameters)):
                if event["stage"] == stage and not reached:
                    reached = True
                    os.kill(pid, signal.SIGKILL)
        assert reached, f"{operation} has no stage {stage}"
        until(lambda: not alive(pid), "the daemon's end")
        world.ok("vm", "list")

    def kill_vmm_at(self, stage: str, operation: str, **parameters: object) -> None:
        """Begin an operation that starts the machine otter, kill its VMM when it comes to the stage, and hear the rest."""
        for event in each_event(self.world.client().stream(operation, **parameters)):
            if event["stage"] == stage:
                until(lambda: self.world.row("otter")["pid"], "the VMM", seconds=SECONDS)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(str(self.world.row("otter")["pid"])), signal.SIGKILL)

    def works(self) -> None:
        """The machine otter does what it is told."""
        assert self.world.ok("vm", "exec", "otter", "--", "echo", "here") == "here\n"


@contextmanager
def btrfs(folder: Path) -> Iterator[Path]:
    """A place where files can be clones, with the images."""
    image, place = folder / "btrfs.img", folder / "btrfs"
    with image.open("wb") as file:
        file.truncate(2 << 30)
    place.mkdir()
    subprocess.run(["mkfs.btrfs", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        (place / "images" / SLIM).mkdir(mode=0o700, parents=True)
        for source in (SHELF / "images" / SLIM).iterdir():
            subprocess.run(["cp", "--sparse=always", source, place / "images" / SLIM], check=True)
        yield place
        shutil.rmtree(place, ignore_errors=True)
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


@contextmanager
def staged(folder: Path, disk: str, network: str) -> Iterator[Stage]:
    """One mode's."""
    settings = {"disk": disk, "disk_size": "1G", "dns_port": "0"}
    with ExitStack() as stack:
        if network == "bridge":
            stack.enter_context(private_network())
        if disk == "reflink":
            folder = stack.enter_context(btrfs(folder))
            settings["images_dir"] = str(folder / "images")
        world = World(folder, (), network=network, **settings)
        stack.callback(world.close)
        yield Stage(world)


@pytest.fixture(params=MODES, ids="-".join)
def stage(request: pytest.FixtureRequest, short_path: Path, shelf: None) -> Iterator[Stage]:
    """Each mode's in turn."""
    if os.geteuid() != 0:
        pytest.skip("root is needed for the bridge, btrfs and device-mapper")
    with staged(short_path, *request.param) as made:
        yield made
