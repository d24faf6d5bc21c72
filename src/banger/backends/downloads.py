"""Large files from the web: fetched with progress, into room that is there, and what they must be before anybody reads them.

One whose digest is known grows in the cache, beside the blobs of registries, and goes on there after a crash or Ctrl-C; `banger image cache prune`
removes what nobody came back for. The caller gives the file's place, in a folder of its own, and removes it.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING

from banger.host.mmdebstrap import check_room
from banger.model.errors import Corrupt
from banger.model.event import report
from banger.model.oci import Descriptor

if TYPE_CHECKING:
    from banger.host import Host
    from banger.host.web import Told

#: How long the largest may take, in seconds; who sends next to nothing is given up long before (host/web/session.py).
PATIENCE = 6 * 3600.0


async def fetch(host: Host, url: str, sha256: str, into: Path, *, name: str, limit: int) -> None:
    """Write what is at `url` to the new file `into`; Corrupt when its SHA-256 is not `sha256` (hex; empty: any), NoSpace as soon as it cannot fit."""
    if not sha256:
        await host.web.fetch(url, into, limit=limit, told=_told(host, into.parent, name), seconds=PATIENCE)
        return
    wanted = Descriptor(media_type="", digest=f"sha256:{sha256}", size=0)
    with host.blobs.using():
        async with host.blobs.filling(wanted) as place:
            await host.web.fetch(url, place, limit=limit, digest=wanted.digest, told=_told(host, place.parent, name), seconds=PATIENCE)
            _move(host, place, into)


def _move(host: Host, source: Path, target: Path) -> None:
    """Across file systems, too."""
    try:
        host.files.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        host.files.copy_sparse(source, target)
        host.files.remove_tree(source)


def _told(host: Host, folder: Path, name: str) -> Told:
    """Reports progress, and NoSpace as soon as it is known how much is to come."""
    roomy = False

    def told(done: int, total: int | None) -> None:
        nonlocal roomy
        if not roomy and total is not None:
            check_room(host.files, folder, total - done, name)
            roomy = True
        report(f"fetching {name}", done=done, total=total, unit="bytes")

    return told


async def verify(host: Host, file: Path, sha256: str, source: str) -> None:
    """Corrupt when a file is not what it must be; an empty digest is anything's."""
    if not sha256:
        return
    found = await host.archive.sha256(file)
    if found != f"sha256:{sha256}":
        raise Corrupt(f"{source} is not what it must be: its digest is {found}, not sha256:{sha256}", hint="nothing was kept")
