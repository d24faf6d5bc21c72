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
    from banger.model.oci import Pruned


@op("GET /images")
def list_(daemon: Daemon, *, available: bool = False) -> list[Listed]:
    """List images: the local ones, or with `available` also those that a catalog offers."""
    return daemon.images.rows(available=available)


@op("GET /images/{name}")
def show(daemon: Daemon, *, name: str) -> ImageManifest:
    """Show all that is known of a local image."""
    return daemon.images.show(name)


@op("POST /images/{name}/pull")
def pull(
    daemon: Daemon,
    *,
    name: str,
    local: str | None = None,
    kernel: str | None = None,
    platform: str | None = None,
    size_bytes: int | None = None,
    plain_http: bool = False,
    force: bool = False,
) -> AsyncIterator[Progress[ImageManifest]]:
    """Get an image (and its kernel) from the catalog or a registry; with `force` again, though it is there.

    A name with '/', ':' or '@' is a reference to a registry: alpine:3.20, HOST:PORT/NAME:TAG, NAME@sha256:DIGEST. One that is here is pulled anew
    when its tag has moved on.
    """
    from banger.model.catalog import Wish, whole_mib

    size = whole_mib(size_bytes) if size_bytes is not None else 0
    wish = Wish(local=local or "", kernel=kernel or "", platform=platform or "", size_mib=size, plain_http=plain_http)
    return daemon.images.pull(name, wish, force=force)


@op("POST /images/cache/prune")
def cache_prune(daemon: Daemon, *, dry_run: bool = False) -> Pruned:
    """Remove what was downloaded from registries and no local image was made of, and the steps of builds."""
    return daemon.builds.prune_cache(dry=dry_run)


@op("POST /images/{name}/build")
def build(
    daemon: Daemon,
    *,
    name: str,
    context: str,
    file: str | None = None,
    build_args: dict[str, str] | None = None,
    cache: bool = True,
    network: str | None = None,
    vcpu: int | None = None,
    memory_mib: int | None = None,
    force: bool = False,
) -> AsyncIterator[Progress[ImageManifest]]:
    """Make an image as a Dockerfile says, with the files of a folder, in a machine of its own; what earlier builds did is not done again."""
    from banger.model.recipe import BuildSpec

    asked = BuildSpec(
        name=name,
        file=file or "",
        context=context,
        args=build_args or {},
        cache=cache,
        force=force,
        network=network,
        vcpu=vcpu,
        memory_mib=memory_mib,
    )
    return daemon.builds.build(asked)


@op("POST /images/{name}/commit")
def commit(daemon: Daemon, *, vm: str, name: str, force: bool = False) -> AsyncIterator[Progress[ImageManifest]]:
    """Make an image of what a stopped machine's disk holds; the machine stays as it is."""
    return daemon.builds.commit(vm, name, force=force)


@op("POST /images/{name}/register")
def register(daemon: Daemon, *, name: str, rootfs: str, kernel: str | None = None, force: bool = False) -> AsyncIterator[Progress[ImageManifest]]:
    """Make an image of a root file system in a file: a raw one is used where it is and never written, a qcow2 one is unfolded into a copy."""
    return daemon.images.register(name, rootfs=rootfs, kernel=kernel, force=force)


@op("POST /images/{name}/promote")
def promote(daemon: Daemon, *, name: str) -> AsyncIterator[Progress[ImageManifest]]:
    """Take a copy of a registered file among banger's own images, sharing its blocks where the file system can."""
    return daemon.images.promote(name)


@op("POST /images/{name}/tag")
async def tag(daemon: Daemon, *, name: str, new: str) -> ImageManifest:
    """Give a local image a second name; nothing is copied."""
    return await daemon.images.tag(name, new)


@op("DELETE /images/{name}")
async def delete(daemon: Daemon, *, name: str, force: bool = False) -> None:
    """Delete a local image that no machine uses; with `force` its stopped machines, too. A registered file stays where it is."""
    await daemon.images.delete(name, force=force)
