"""Images from registries: the blobs that a reference stands for, verified in the cache, and out of their layers the root file system.

Nothing of the image is run or changed, and no file of ours is written into it. What is downloaded stays in the cache, for the next image that shares
it and for a pull that was cut off; the part's folder is owned here while it is made, and removed when that fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec

from banger.backends.sources import ImageMaker
from banger.host import Host
from banger.host.blobs import digest_of
from banger.host.rootfs import Layer, limits_of
from banger.host.web.registry import Repository
from banger.model import oci
from banger.model.catalog import ImageConfig, ImageEntry, ImageManifest, ImagePart
from banger.model.errors import BadRequest, Corrupt, NoSpace
from banger.model.event import report, step
from banger.model.finding import Finding, Level
from banger.model.inits import LOOK, init_of
from banger.model.oci import Configuration, Descriptor, Index, Manifest, Platform
from banger.model.reference import Reference, parse_reference
from banger.model.sizes import show_size

MIB = 1 << 20
#: Layers that are downloaded at the same time.
AT_ONCE = 4
#: An index may name indexes, so deep.
DEEPEST = 3
#: Seconds between two events of one layer.
QUIET = 0.25
#: What is left free on a disk that is downloaded to.
SPARE = 64 * MIB


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """An image of a registry's, with all that is needed but its layers."""

    reference: Reference
    descriptor: Descriptor
    manifest: Manifest
    configuration: Configuration

    @property
    def layers(self) -> dict[str, Descriptor]:
        """Each layer once, by its digest."""
        return {layer.digest: layer for layer in self.manifest.layers or ()}


class OciImage(ImageMaker):
    """Source `oci`: reference says which image, platform which of several; size_mib is the file system's size, 0 what the content needs."""

    def plan(self, entry: ImageEntry, into: Path) -> ImagePart:
        """See ImageSource."""
        if not entry.reference or not entry.kernel:
            raise BadRequest(f"image {entry.name}: a catalog entry of source oci needs reference and kernel")
        parse_reference(entry.reference)
        if entry.platform:
            oci.parse_platform(entry.platform)
        if not 0 <= entry.size_mib <= 1 << 20:
            raise BadRequest(f"image {entry.name}: a size of {entry.size_mib} MiB cannot be meant")
        return ImagePart(entry=entry, into=str(into))

    async def make(self, part: ImagePart) -> ImageManifest:
        """See Source."""
        with self.host.blobs.using():
            return await self._make(part)

    async def _make(self, part: ImagePart) -> ImageManifest:
        entry = part.entry
        reference = parse_reference(entry.reference)
        wanted = self._wanted(entry)
        async with self.host.registry.open(reference, plain_http=entry.plain_http) as repository:
            async with step("look up", str(reference)):
                found = await self._look_up(repository, reference, wanted)
            async with step("download", str(reference)):
                self._check_room(found, Path(part.into))
                await self._download(repository, found)
        self.host.blobs.name(str(reference), found.descriptor)
        async with step("make image", f"making {entry.name}"):
            return await self._write(part, found)

    async def current(self, entry: ImageEntry) -> str:
        """See Moving. No configuration and no layer is asked for."""
        reference = parse_reference(entry.reference)
        wanted = self._wanted(entry)
        with self.host.blobs.using():
            async with self.host.registry.open(reference, plain_http=entry.plain_http) as repository:
                return (await self._chosen(repository, reference, wanted))[0].digest

    # -- which image ------------------------------------------------------------------------------------------------------------------------------

    def _wanted(self, entry: ImageEntry) -> Platform:
        return oci.parse_platform(entry.platform) if entry.platform else oci.host_platform(self.host.facts.architecture())

    async def _look_up(self, repository: Repository, reference: Reference, wanted: Platform) -> Found:
        what = str(reference)
        descriptor, document = await self._chosen(repository, reference, wanted)
        configuration = await self._configuration(repository, document, what)
        if not configuration.platform.serves(wanted):
            raise oci.missing(what, wanted, [str(configuration.platform)])
        described = msgspec.structs.replace(descriptor, platform=configuration.platform, annotations=None)
        return Found(reference=reference, descriptor=described, manifest=document, configuration=configuration)

    async def _chosen(self, repository: Repository, reference: Reference, wanted: Platform) -> tuple[Descriptor, Manifest]:
        """The manifest for a platform, through indexes."""
        descriptor, document = await self._target(repository, reference)
        for _ in range(DEEPEST):
            if isinstance(document, Manifest):
                return descriptor, document
            descriptor = oci.choose(document, wanted, what=str(reference))
            document = await self._named(repository, descriptor, str(reference))
        if isinstance(document, Manifest):
            return descriptor, document
        raise Corrupt(f"{reference} is an index of indexes of indexes")

    async def _target(self, repository: Repository, reference: Reference) -> tuple[Descriptor, Index | Manifest]:
        """What the reference stands for now: of a tag only the registry knows that."""
        data = self.host.files.read(self.host.blobs.path(reference.digest)) if reference.digest else None
        if data is not None and digest_of(data, reference.digest) == reference.digest:
            return self._kept(data, "", reference.digest, str(reference))
        came = await repository.document(reference.target)
        return self._kept(came.data, came.media_type, came.digest, str(reference))

    async def _named(self, repository: Repository, wanted: Descriptor, what: str) -> Index | Manifest:
        """A document that an index names."""
        data = self.host.blobs.read(wanted)
        if data is None:
            data = (await repository.document(wanted.digest)).data
            if len(data) != wanted.size:
                raise Corrupt(f"{what}: its index names {wanted.size} bytes for {wanted.digest}, which has {len(data)}")
        return self._kept(data, wanted.media_type, wanted.digest, what)[1]

    def _kept(self, data: bytes, media_type: str, digest: str, what: str) -> tuple[Descriptor, Index | Manifest]:
        document = oci.parse_document(data, media_type, what=what)
        kind = document.media_type or media_type or (oci.OCI_MANIFEST if isinstance(document, Manifest) else oci.OCI_INDEX)
        descriptor = Descriptor(media_type=kind, digest=digest, size=len(data))
        if not self.host.blobs.has(descriptor):
            self.host.blobs.add(data, digest)
        return descriptor, document

    async def _configuration(self, repository: Repository, manifest: Manifest, what: str) -> Configuration:
        await self._blob(repository, manifest.config, lambda _: None)
        data = self.host.blobs.read(manifest.config)
        if data is None:
            raise Corrupt(f"the configuration of {what} in the cache is not sound", hint="run: banger image cache prune")
        return oci.parse_config(data, manifest, what=what)

    # -- its layers -------------------------------------------------------------------------------------------------------------------------------

    def _check_room(self, found: Found, into: Path) -> None:
        """NoSpace unless what is missing fits in the cache, and beside it at least as much again where the image is made."""
        missing = sum(layer.size - self.host.blobs.have(layer) for layer in found.layers.values())
        content = sum(layer.size for layer in found.layers.values())
        for folder, need in ((self.host.paths.blobs, missing), (into, content)):
            free = self.host.files.free_bytes(folder)
            if free < need + SPARE:
                hint = "free some space: banger image cache prune; banger vm prune"
                raise NoSpace(f"{found.reference} needs {show_size(need + SPARE)} at {folder}, and {show_size(free)} are free", hint=hint)

    async def _download(self, repository: Repository, found: Found) -> None:
        turns = asyncio.Semaphore(AT_ONCE)
        layers = list(found.layers.values())

        async def one(number: int, layer: Descriptor) -> None:
            async with turns:
                await self._blob(repository, layer, told_of(f"layer {number} of {len(layers)}", layer.size))

        try:
            async with asyncio.TaskGroup() as tasks:
                for number, layer in enumerate(layers, 1):
                    tasks.create_task(one(number, layer), name=f"download {layer.digest}")
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _blob(self, repository: Repository, wanted: Descriptor, told: Callable[[int], None]) -> None:
        """Have the blob in the cache; one that somebody else is fetching is waited for."""
        if self.host.blobs.has(wanted):
            return
        async with self.host.blobs.filling(wanted) as place:
            if self.host.blobs.has(wanted):
                return
            await repository.blob(wanted, place, told=told)
            self.host.blobs.finish(place, wanted)

    # -- the image --------------------------------------------------------------------------------------------------------------------------------

    async def _write(self, part: ImagePart, found: Found) -> ImageManifest:
        entry, rootfs = part.entry, Path(part.into) / "rootfs.ext4"
        self.host.files.private_folder(Path(part.into))
        packed = zip(found.manifest.layers or (), found.configuration.rootfs.diff_ids, strict=True)
        blobs = self.host.blobs
        layers = [Layer(path=str(blobs.path(layer.digest)), diff_id=identity, memory=str(blobs.memory(layer.digest))) for layer, identity in packed]
        limits = limits_of(self.host.settings)
        written = await self.host.rootfs.write(rootfs, layers, label=entry.name, size=entry.size_mib * MIB, limits=limits, look=LOOK)
        return ImageManifest(
            name=entry.name,
            kernel=entry.kernel,
            source=entry.source,
            digest=digest_of("\n".join([found.descriptor.digest, entry.name, str(written.size)]).encode(), "sha256:"),
            size_bytes=written.size,
            used_bytes=self.host.files.used_bytes(rootfs),
            packages=0,
            init=init_of(written.found),
            built=self.host.clock.now(),
            architecture=oci.machine_of(found.configuration.platform),
            config=image_config(found.configuration, str(found.reference)),
            reference=str(found.reference),
            resolved=found.descriptor.digest,
        )

    def check(self) -> list[Finding]:
        """See ImageSource."""
        if self.host.proc.which("mkfs.ext4") is None:
            return [Finding(level=Level.FAIL, subject="images of registries", message="mkfs.ext4 is not installed", packages=("e2fsprogs",))]
        return []


def told_of(what: str, size: int) -> Callable[[int], None]:
    """Reports how far a download is, now and then and at its end."""
    loop = asyncio.get_running_loop()
    said = float("-inf")

    def told(done: int) -> None:
        nonlocal said
        if done == size or loop.time() - said >= QUIET:
            said = loop.time()
            report(what, done=done, total=size, unit="bytes")

    return told


def image_config(configuration: Configuration, what: str) -> ImageConfig:
    """How the image wants its commands run. Corrupt for what no system could run: a zero byte, a variable without a name."""
    given = configuration.config or oci.Execution()
    words = [*(given.env or ()), *(given.entrypoint or ()), *(given.cmd or ()), given.user or "", given.working_dir or "", given.stop_signal or ""]
    if any("\0" in word for word in words):
        raise Corrupt(f"{what}: its configuration has a zero byte in what is to be run")
    pairs = [word.partition("=") for word in given.env or ()]
    if any(not name for name, _, _ in pairs):
        raise Corrupt(f"{what}: its configuration has a variable without a name")
    workdir = given.working_dir or ""
    return ImageConfig(
        env={name: value for name, _, value in pairs},
        workdir=workdir if not workdir or workdir.startswith("/") else f"/{workdir}",
        user=given.user or "",
        entrypoint=given.entrypoint or (),
        cmd=given.cmd or (),
        stop_signal=given.stop_signal or "",
        shell=given.shell or (),
    )


def backend(host: Host) -> OciImage:
    """Source `oci`."""
    return OciImage(host)
