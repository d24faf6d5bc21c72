"""What kinds of disk that write over a whole image need of it: room for it within the disk's size, and a journal. The image itself is never written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from banger.model.errors import BadRequest, Corrupt
from banger.model.sizes import show_size

if TYPE_CHECKING:
    from banger.host import Host
    from banger.model.parts import DiskPart


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
    if not host.ext4.has_journal(base):
        image = base.parent.name
        hint = f"make it anew with: banger image pull --force {image}; or choose --disk overlay"
        raise BadRequest(f"the image {image} has no journal: a disk made from it would not survive a power cut", hint=hint)
