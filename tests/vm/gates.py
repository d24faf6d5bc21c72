"""Creations held open at a stage: a gate is a script in front of the tool that the stage runs; it waits at a FIFO before it becomes the tool."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from pathlib import Path

from tests.world import KERNEL, World, until

QEMU = "qemu-system-x86_64"
#: The stages of a creation that run a tool, and the tool. The agent's is held by freezing the VMM.
TOOLS = {"image": "mmdebstrap", "kernel": "mmdebstrap", "disk": "mkfs.ext4", "network": "passt", "machine": QEMU}
STAGES = (*TOOLS, "agent")
SECONDS = 15.0


class Gate:
    """A command of the host that waits before it begins."""

    def __init__(self, folder: Path, command: str) -> None:
        real = shutil.which(command, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        assert real is not None
        folder.mkdir(exist_ok=True)
        self.reached, self.fifo, self.script = folder / f"{command}.reached", folder / f"{command}.fifo", folder / command
        os.mkfifo(self.fifo)
        self.script.write_text(f'#!/bin/sh\n: > {self.reached}\nread -r go < {self.fifo}\nexec {real} "$@"\n')
        self.script.chmod(0o755)

    def wait(self) -> None:
        """Until somebody stands at the gate."""
        until(self.reached.exists, f"the call of {self.script.name}", seconds=SECONDS)

    def open(self) -> None:
        """Let all pass, who stands there and who comes."""
        self.script.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            os.close(os.open(self.fifo, os.O_WRONLY | os.O_NONBLOCK))


class Held:
    """A banger whose creations can be held at one stage."""

    def __init__(self, world: World, stage: str) -> None:
        self.world, self.stage = world, stage
        self.network = "user" if stage == "network" else "none"
        world.env["PATH"] = f"{world.root}/bin:{world.env['PATH']}"
        self._own_shelves()
        world.ok("vm", "list")
        self.gate = Gate(world.root / "bin", TOOLS[stage]) if stage in TOOLS else None

    def _own_shelves(self) -> None:
        """Where images or kernels are to be made, they go to folders of our own, and what is made is tiny."""
        if self.stage == "image":
            catalog(self.world)
        elif self.stage == "kernel":
            self.world.env["BANGER_KERNELS_DIR"] = str(self.world.root / "kernels")

    def wait(self) -> None:
        """Until the creation is at the stage."""
        if self.gate is not None:
            self.gate.wait()
            return
        until(lambda: [each for each in under_way(self.world) if each["stage"] == "agent"], "the stage agent", seconds=SECONDS)
        os.kill(self.vmm(), signal.SIGSTOP)

    def vmm(self) -> int:
        """The VMM's pid."""
        return next(int(str(row["pid"])) for row in self.world.rows() if row["pid"])

    def go(self) -> None:
        """Let the stage end."""
        if self.gate is not None:
            self.gate.open()
        else:
            os.kill(self.vmm(), signal.SIGCONT)

    def words(self, *more: str) -> tuple[str, ...]:
        """A command that creates."""
        return ("vm", "create", "--name", "otter", "--network", self.network, *more)


def under_way(world: World) -> list[dict[str, object]]:
    """The operations."""
    found = world.client().call("daemon.operations")
    assert isinstance(found, list)
    return [each for each in found if each["finished"] is None]


def catalog(world: World) -> None:
    """A user's catalog with one tiny image, which is the default."""
    folder = world.root / "catalog"
    folder.mkdir()
    entry = {
        "name": "tiny",
        "source": "debian",
        "kernel": KERNEL,
        "suite": "bookworm",
        "variant": "extract",
        "packages": ["busybox-static"],
        "size_mib": 16,
    }
    (folder / "images.json").write_text(json.dumps({"version": 1, "entries": [entry]}))
    world.env |= {"BANGER_CATALOG": str(folder), "BANGER_DEFAULT_IMAGE": "tiny", "BANGER_IMAGES_DIR": str(world.root / "images")}


def nothing_left(world: World) -> bool:
    """No row, no process, no file of a machine, nothing half made on a shelf."""
    shelves = [path.name for shelf in ("images", "kernels") for path in (world.root / shelf).glob(".*")]
    blanks = list((world.root / "cache").rglob("*.new"))
    return not (world.rows() or world.processes() or world.machine_files() or shelves or blanks)


def clean(world: World) -> None:
    """Soon nothing is left."""
    until(
        lambda: nothing_left(world),
        "a clean host",
        seconds=SECONDS,
        instead=lambda: f"{world.rows()}, {world.processes()}, {world.machine_files()}\n{world.log()[-3000:]}",
    )
