"""What disks need of the image's file below them: that it is what it was; and those that write over all of it room, ext4, and a journal.

The file itself is never written. It may be the user's own (an image that was registered), which banger only knows again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from banger.model.drives import leans
from banger.model.errors import BadRequest, Corrupt, WrongState
from banger.model.sizes import show_size

if TYPE_CHECKING:
    from banger.host import Host
    from banger.model.parts import DiskPart


def require_unchanged(host: Host, part: DiskPart) -> None:
    """WrongState when the disk stands over a file of the user's that has changed since, or gone: what lies over it would not fit it any more."""
    if part.stamp == (0, 0) or not leans(part):
        return
    found = host.files.stamp(Path(part.base))
    if found != part.stamp:
        what = "has changed" if found != (0, 0) else "is missing"
        raise WrongState(
            f"{part.base}, which the machine's disk lies over, {what}: what the machine wrote does not fit it any more",
            hint="put the file back as it was, with its time of change; or delete the machine",
        )


def require_base(host: Host, part: DiskPart) -> None:
    """BadRequest when this image cannot become a disk of this size; Corrupt when its file is gone."""
    base = Path(part.base)
    size = host.files.size(base)
    if size is None:
        raise Corrupt(f"the image's file {base} is missing", hint="pull the image again")
    if size > part.size:
        raise BadRequest(
            f"the image has {show_size(size)}, a disk of {show_size(part.size)} cannot hold it", hint=f"--disk-size {show_size(size)} or more"
        )
    try:
        journal = host.ext4.has_journal(base)
    except Corrupt as error:
        raise BadRequest(f"a disk of kind {part.backend} needs an image in ext4: {error}", hint="choose --disk overlay") from error
    if not journal:
        image = base.parent.name if base.is_relative_to(host.paths.images) else ""
        again = f"make it anew with: banger image pull --force {image}" if image else f"give it one: tune2fs -j {base}"
        raise BadRequest(
            f"the image {image or base} has no journal: a disk made from it would not survive a power cut", hint=f"{again}; or choose --disk overlay"
        )
