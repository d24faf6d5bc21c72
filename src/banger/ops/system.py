"""What takes space on this host, and how to have it back."""

from __future__ import annotations

from banger.ops import op

TYPE_CHECKING = False
if TYPE_CHECKING:
    from banger.daemon import Daemon
    from banger.model.usage import Freed, Usage


@op("GET /usage")
async def df(daemon: Daemon) -> list[Usage]:
    """Show what takes space on disk, and how much of it prune would free."""
    return await daemon.housekeeping.usage()


@op("POST /usage/prune")
async def prune(daemon: Daemon, *, keep: list[str] | None = None, newest: int = 0, dry_run: bool = False) -> list[Freed]:
    """Remove images and kernels that nothing uses and that can be had again, and what is in the cache; machines and files of yours stay."""
    return await daemon.housekeeping.prune(keep=tuple(keep or ()), newest=newest, dry=dry_run)
