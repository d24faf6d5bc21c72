"""Make one image or kernel with the real host: `build_artefact.py KIND NAME FOLDER [STOP]`, in a process of its own so that another user can run it.

Prints one JSON object a line: the events, and last the manifest. With STOP it cancels itself once an event's detail is STOP.
"""

from __future__ import annotations

import asyncio
import os
import sys
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from banger.backends import load
from banger.host import Host
from banger.host.archive import RealArchive
from banger.host.clock import RealClock
from banger.host.ext4 import RealExt4
from banger.host.facts import RealFacts
from banger.host.files import RealFiles
from banger.host.proc import RealProc
from banger.model import codec
from banger.model.catalog import ImageCatalog, ImageManifest, KernelCatalog, KernelManifest
from banger.model.errors import BangerError
from banger.model.event import Event, listening

CATALOG = files("banger") / "catalog"


def real_host() -> Host:
    """As much of the real host as building needs."""
    proc = RealProc(os.environ["PATH"])
    parts = SimpleNamespace(archive=RealArchive(), clock=RealClock(), ext4=RealExt4(proc), facts=RealFacts(), files=RealFiles(), proc=proc)
    return cast(Host, parts)


async def build(kind: str, name: str, folder: Path) -> ImageManifest | KernelManifest:
    """What the shipped catalog offers under that name, made in the folder."""
    if kind == "image":
        images = codec.decode((CATALOG / "images.json").read_bytes(), ImageCatalog, what="images").entries
        source = load("image", "debian", real_host())
        return await source.ensure(source.plan(next(entry for entry in images if entry.name == name), folder))
    kernels = codec.decode((CATALOG / "kernels.json").read_bytes(), KernelCatalog, what="kernels").entries
    kernel = load("kernel", "debian", real_host())
    return await kernel.ensure(kernel.plan(next(entry for entry in kernels if entry.name == name), folder))


async def main(kind: str, name: str, folder: Path, stop: str) -> int:
    """Exit status 0 when made, 3 when cancelled, 4 on an error of banger's."""
    task = asyncio.current_task()
    assert task is not None

    def hear(event: Event) -> None:
        print(codec.encode(event).decode(), flush=True)
        if event.detail == stop:
            task.cancel()

    try:
        with listening(hear):
            made = await build(kind, name, folder)
    except asyncio.CancelledError:
        return 3
    except BangerError as error:
        print(error, file=sys.stderr)
        return 4
    print(codec.encode(made).decode())
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), (sys.argv[4:] or [""])[0])))
