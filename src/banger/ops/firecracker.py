"""Firecracker itself: which there is, and banger's own installations of it."""

from __future__ import annotations

from banger.ops import op

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from banger.daemon import Daemon
    from banger.daemon.operations import Progress
    from banger.model.releases import Binary, Release


@op("GET /firecracker")
def list_(daemon: Daemon) -> list[Binary]:
    """List every Firecracker that could be used, and which one is."""
    return daemon.releases.rows()


@op("POST /firecracker")
def install(
    daemon: Daemon, *, version: str | None = None, file: str | None = None, sha256: str | None = None, force: bool = False
) -> AsyncIterator[Progress[Release]]:
    """Install Firecracker and its jailer from Firecracker's own releases, or from a file; nothing is used before its digest is right."""
    return daemon.releases.install(version=version, file=file, sha256=sha256, force=force)


@op("DELETE /firecracker/{version}")
async def uninstall(daemon: Daemon, *, version: str) -> None:
    """Remove a Firecracker that banger has installed; machines that run keep theirs."""
    await daemon.releases.uninstall(version)
