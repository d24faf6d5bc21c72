"""The daemon itself, and the operations that are under way in it."""

from __future__ import annotations

from banger.ops import op

TYPE_CHECKING = False
if TYPE_CHECKING:
    from banger.daemon import Daemon
    from banger.model.operation import DaemonStatus, Operation


@op("GET /daemon")
def status(daemon: Daemon) -> DaemonStatus:
    """Show the daemon's process, version, files and load."""
    return daemon.status()


@op("POST /daemon/stop")
async def stop(daemon: Daemon, *, force: bool = False) -> None:
    """Stop the daemon; machines go on running. Refused while an operation is under way, but with `force` those are cancelled."""
    await daemon.stop(force=force)


@op("GET /operations")
def operations(daemon: Daemon) -> list[Operation]:
    """List operations: those under way, and those that ended lately."""
    return daemon.operations.rows()


@op("GET /operations/{operation}")
def operation(daemon: Daemon, *, operation: str) -> Operation:
    """Show how an operation stands."""
    return daemon.operations.show(operation)


@op("DELETE /operations/{operation}")
async def cancel(daemon: Daemon, *, operation: str) -> Operation:
    """Cancel an operation and wait until it has cleaned up."""
    return await daemon.operations.cancel(operation)
