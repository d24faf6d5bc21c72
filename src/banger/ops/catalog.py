"""Catalogs of others, which offer images and kernels beside the shipped ones."""

from __future__ import annotations

from banger.ops import op

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from banger.daemon import Daemon
    from banger.daemon.operations import Progress
    from banger.model.published import CatalogRow


@op("GET /catalogs")
def list_(daemon: Daemon) -> list[CatalogRow]:
    """List the catalogs that were added, in the order in which they go; the shipped one and your own go before them."""
    return daemon.catalogs.rows()


@op("POST /catalogs")
def add(
    daemon: Daemon, *, location: str, name: str | None = None, key: str | None = None, unsigned: bool = False
) -> AsyncIterator[Progress[CatalogRow]]:
    """Add a catalog, from an https address or a file; nothing of it is read before its signature (beside it, .minisig) is right."""
    return daemon.catalogs.add(location, name=name, key=key, unsigned=unsigned)


@op("POST /catalogs/update")
def update(daemon: Daemon, *, names: list[str] | None = None) -> AsyncIterator[Progress[list[CatalogRow]]]:
    """Fetch catalogs again, all of them unless some are named; an older one, or one by another key, is refused."""
    return daemon.catalogs.update(names)


@op("DELETE /catalogs/{name}")
async def remove(daemon: Daemon, *, name: str) -> None:
    """Remove a catalog; what was made of its images and kernels stays."""
    await daemon.catalogs.remove(name)
