"""Images and kernels in one file, for hosts without a network."""

from __future__ import annotations

from banger.ops import op

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from banger.daemon import Daemon
    from banger.daemon.operations import Progress
    from banger.model.operation import Loaded, Saved


@op("POST /bundles/save")
def save(daemon: Daemon, *, names: list[str], file: str) -> AsyncIterator[Progress[Saved]]:
    """Save local images, with their kernels, and kernels to one new file; in a folder it is named after its content."""
    return daemon.bundles.save(names, file=file)


@op("POST /bundles/load")
def load(daemon: Daemon, *, file: str, sha256: str | None = None, unverified: bool = False, force: bool = False) -> AsyncIterator[Progress[Loaded]]:
    """Take the images and kernels that a bundle has, a file or at an address, all verified or none; what is here already stays."""
    return daemon.bundles.load(file=file, sha256=sha256, unverified=unverified, force=force)
