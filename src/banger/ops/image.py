"""What can be done with images."""

from __future__ import annotations

from banger.ops import op

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from banger.daemon import Daemon
    from banger.daemon.artefacts import Listed
    from banger.daemon.operations import Progress
    from banger.model.catalog import ImageManifest


@op("GET /images")
def list_(daemon: Daemon, *, available: bool = False) -> list[Listed]:
    """List images: the local ones, or with `available` also those that a catalog offers."""
    return daemon.images.rows(available=available)


@op("GET /images/{name}")
def show(daemon: Daemon, *, name: str) -> ImageManifest:
    """Show all that is known of a local image."""
    return daemon.images.show(name)


@op("POST /images/{name}/pull")
def pull(daemon: Daemon, *, name: str, force: bool = False) -> AsyncIterator[Progress[ImageManifest]]:
    """Get an image (and its kernel) from the catalog; with `force` again, though it is there."""
    return daemon.images.pull(name, force=force)


@op("DELETE /images/{name}")
async def delete(daemon: Daemon, *, name: str) -> None:
    """Delete a local image that no machine uses."""
    await daemon.images.delete(name)
