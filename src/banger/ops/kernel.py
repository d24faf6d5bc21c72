"""What can be done with guest kernels."""

from __future__ import annotations

from banger.ops import op

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from banger.daemon import Daemon
    from banger.daemon.artefacts import Listed
    from banger.daemon.operations import Progress
    from banger.model.catalog import KernelManifest


@op("GET /kernels")
def list_(daemon: Daemon, *, available: bool = False) -> list[Listed]:
    """List kernels: the local ones, or with `available` also those that a catalog offers."""
    return daemon.kernels.rows(available=available)


@op("GET /kernels/{name}")
def show(daemon: Daemon, *, name: str) -> KernelManifest:
    """Show all that is known of a local kernel."""
    return daemon.kernels.show(name)


@op("POST /kernels/{name}/pull")
def pull(daemon: Daemon, *, name: str, force: bool = False) -> AsyncIterator[Progress[KernelManifest]]:
    """Get a kernel from the catalog; with `force` again, though it is there."""
    return daemon.kernels.pull(name, force=force)


@op("POST /kernels/{name}/import")
def import_(daemon: Daemon, *, name: str, file: str, force: bool = False) -> AsyncIterator[Progress[KernelManifest]]:
    """Take a kernel from a file (vmlinux, bzImage) or a folder with one, its modules and its configuration; what it lacks is said."""
    return daemon.kernels.take(name, file=file, force=force)


@op("DELETE /kernels/{name}")
async def delete(daemon: Daemon, *, name: str) -> None:
    """Delete a local kernel that no machine and no local image uses."""
    await daemon.kernels.delete(name)
