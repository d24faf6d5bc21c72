"""Whether this host is ready."""

from __future__ import annotations

from banger.ops import op

TYPE_CHECKING = False
if TYPE_CHECKING:
    from banger.daemon import Daemon
    from banger.model.finding import Finding


@op("GET /doctor")
async def doctor(daemon: Daemon) -> list[Finding]:
    """Check whether this host has what banger needs; changes nothing."""
    return await daemon.doctor()
