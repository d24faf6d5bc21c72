"""Large files from the web whose digest is known: fetched with progress, into room that is there, and what they must be before anybody reads them.

The caller gives the file's place, in a folder of its own, and removes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from banger.host.mmdebstrap import check_room
from banger.model.errors import Corrupt
from banger.model.event import report

if TYPE_CHECKING:
    from banger.host import Host

#: How long the largest may take, in seconds; who sends nothing at all is given up long before (host/web.py).
PATIENCE = 6 * 3600.0


async def fetch(host: Host, url: str, sha256: str, into: Path, *, name: str, limit: int) -> None:
    """Write what is at `url` to the new file `into`; Corrupt when its SHA-256 is not `sha256` (hex; empty: any), NoSpace as soon as it cannot fit."""
    roomy = False

    def told(done: int, total: int | None) -> None:
        nonlocal roomy
        if not roomy and total is not None:
            check_room(host.files, into.parent, total - done, name)
        roomy = True
        report(f"fetching {name}", done=done, total=total, unit="bytes")

    await host.web.fetch(url, into, limit=limit, told=told, seconds=PATIENCE)
    await verify(host, into, sha256, url)


async def verify(host: Host, file: Path, sha256: str, source: str) -> None:
    """Corrupt when a file is not what it must be; an empty digest is anything's."""
    if not sha256:
        return
    found = await host.archive.sha256(file)
    if found != f"sha256:{sha256}":
        raise Corrupt(f"{source} is not what it must be: its digest is {found}, not sha256:{sha256}", hint="nothing was kept")
