"""Logging in by ssh, as far as it is not about one machine."""

from __future__ import annotations

from banger.ops import op

TYPE_CHECKING = False
if TYPE_CHECKING:
    from banger.daemon import Daemon
    from banger.model.ssh import SshAccess


@op("POST /ssh")
async def access(daemon: Daemon) -> SshAccess:
    """Make the key that this installation logs in to machines with, unless it is there, and say where it is."""
    return await daemon.ssh.access()
