"""What registries say of images: indexes, manifests, configurations (OCI image specification 1.1, Docker's image manifest version 2, schema 2).

Documents come from strangers: unknown fields are allowed, as the specifications want it; what we read is typed, and counts and sizes are bounded.
Which of an index's images is wanted is decided here, too. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeVar

import msgspec

from banger.model.errors import BadRequest, Corrupt, NotFound
from banger.model.reference import DIGEST

#: Bytes of a manifest or index (registries take no more than 4 MiB), and of a configuration.
LARGEST_MANIFEST, LARGEST_CONFIG = 4 << 20, 8 << 20
#: Docker makes at most 127 layers; a layer of more than 64 GiB is nobody's.
MOST_LAYERS, MOST_IMAGES, LARGEST_LAYER = 512, 1024, 64 << 30

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
INDEXES, MANIFESTS = frozenset({OCI_INDEX, DOCKER_INDEX}), frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
#: What a registry is asked for.
ACCEPTED = (OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST)
#: How a layer is packed, by its media type; `tar` is not packed at all.
LAYERS = {
    "application/vnd.oci.image.layer.v1.tar": "tar",
    "application/vnd.oci.image.layer.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd": "zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar": "tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": "zstd",
    "application/vnd.docker.image.rootfs.diff.tar": "tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": "zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": "gzip",
}
#: The kernel's names for processors, and common slips, to those of Go, which images use.
ARCHITECTURES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386", "i686": "386", "armhf": "arm", "armv7l": "arm"}

T = TypeVar("T", bound=msgspec.Struct)
Digest = Annotated[str, msgspec.Meta(pattern=rf"\A(?:{DIGEST.pattern})\Z")]
Word = Annotated[str, msgspec.Meta(max_length=256)]


class Platform(msgspec.Struct, frozen=True, kw_only=True, rename={"os_version": "os.version"}):
    """For which machine an image is: `linux/amd64`, `linux/arm/v7`."""

    os: Word = ""
    architecture: Word = ""
    variant: Word = ""
    os_version: Word = ""

    def __str__(self) -> str:
        """As people write it."""
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def serves(self, wanted: Platform) -> bool:
        """Whether this is what is wanted. A variant that is not said counts as the usual one: v8 of arm64, any of all else."""
        usual = "v8" if self.architecture == "arm64" else ""
        mine, theirs = self.variant or usual, wanted.variant or usual
        return (self.os, self.architecture) == (wanted.os, wanted.architecture) and (not theirs or mine == theirs)


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A blob that a document names: what it is, its digest and its exact size in bytes."""

    media_type: Word
    digest: Digest
    size: Annotated[int, msgspec.Meta(ge=0, le=LARGEST_LAYER)]
    platform: Platform | None = None
    annotations: dict[str, str] | None = None


class Index(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Several images under one name, one a platform."""

    schema_version: int
    media_type: str = ""
    manifests: Annotated[tuple[Descriptor, ...], msgspec.Meta(max_length=MOST_IMAGES)] | None = None


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One image: its configuration and its layers, the lowest first."""

    schema_version: int
    media_type: str = ""
    config: Descriptor
    layers: Annotated[tuple[Descriptor, ...], msgspec.Meta(max_length=MOST_LAYERS)] | None = None


class Execution(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """How the image's program is run. Go writes what is empty as null."""

    user: str | None = None
    env: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    working_dir: str | None = None
    labels: dict[str, str] | None = None
    stop_signal: str | None = None
    shell: tuple[str, ...] | None = None


class RootFs(msgspec.Struct, frozen=True, kw_only=True):
    """The digests of the layers once they are unpacked, the lowest first."""

    type: str = "layers"
    diff_ids: tuple[Digest, ...] = ()


class Pruned(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was removed from the cache of blobs, or would be: how many, unfinished ones too, and their bytes; and what stays."""

    removed: int
    removed_bytes: int
    kept: int
    kept_bytes: int


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """An image's configuration."""

    architecture: Word = ""
    os: Word = ""
    variant: Word = ""
    config: Execution | None = None
    rootfs: RootFs = RootFs()

    @property
    def platform(self) -> Platform:
        """For which machine it is."""
        return Platform(os=self.os, architecture=self.architecture, variant=self.variant)


class _Claim(msgspec.Struct, frozen=True, rename="camel"):
    """What a document says of itself."""

    schema_version: int = 0
    media_type: str = ""
    manifests: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    layers: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    fs_layers: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def parse_platform(text: str) -> Platform:
    """`linux/arm64`, `arm64`, `linux/arm/v7`; BadRequest for anything else. Only Linux runs in a machine."""
    parts = text.lower().split("/")
    if len(parts) == 1:
        parts = ["linux", *parts]
    if not 2 <= len(parts) <= 3 or not all(part.isascii() and part.replace("-", "").replace("_", "").isalnum() for part in parts):
        raise BadRequest(f"{text[:100]!r} is not a platform", hint="write linux/amd64 or linux/arm64")
    if parts[0] != "linux":
        raise BadRequest(f"an image for {parts[0]} cannot be booted", hint="banger's machines run Linux: write linux/amd64 or linux/arm64")
    return Platform(os="linux", architecture=ARCHITECTURES.get(parts[1], parts[1]), variant=parts[2] if len(parts) == 3 else "")


def host_platform(machine: str) -> Platform:
    """The platform of a host, from what `uname -m` prints."""
    return Platform(os="linux", architecture=ARCHITECTURES.get(machine, machine))


def machine_of(platform: Platform) -> str:
    """What `uname -m` prints on such a machine."""
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.architecture, platform.architecture)


def parse_document(data: bytes, media_type: str, *, what: str) -> Index | Manifest:
    """An index or a manifest. `media_type` is what the registry calls it (without parameters), or empty.

    Corrupt for what is none, or for one that registry and document call differently; BadRequest for Docker's schema 1 and for what is no image.
    """
    claim = _decode(data, _Claim, what)
    if claim.schema_version == 1 or claim.fs_layers is not msgspec.UNSET:
        hint = "push it again with a registry and a Docker of the last years"
        raise BadRequest(f"{what} is in Docker's schema 1, which is not supported", hint=hint)
    if claim.schema_version != 2:
        raise Corrupt(f"{what} has the schema version {claim.schema_version} instead of 2")
    if claim.manifests is not msgspec.UNSET and claim.layers is not msgspec.UNSET:
        raise Corrupt(f"{what} is an index and a manifest at once")
    kind = _kind(claim, media_type, what)
    if kind in INDEXES:
        return _decode(data, Index, what)
    return _sound(_decode(data, Manifest, what), what)


def _kind(claim: _Claim, media_type: str, what: str) -> str:
    """What it is, by what it says itself, else by what the registry says, else by its fields."""
    known = INDEXES | MANIFESTS
    if claim.media_type and media_type in known and claim.media_type != media_type:
        raise Corrupt(f"{what} is a {claim.media_type} by itself, and a {media_type} by the registry")
    kind = claim.media_type or (media_type if media_type in known else "") or (OCI_MANIFEST if claim.manifests is msgspec.UNSET else OCI_INDEX)
    if kind not in known:
        raise BadRequest(f"{what} is no image, but {kind[:200]!r}")
    if (kind in INDEXES) != (claim.manifests is not msgspec.UNSET):
        raise Corrupt(f"{what} is not the {kind} that it says it is")
    return kind


def _sound(manifest: Manifest, what: str) -> Manifest:
    if manifest.config.media_type not in (OCI_CONFIG, DOCKER_CONFIG):
        raise BadRequest(f"{what} is no image, but an artefact of type {manifest.config.media_type!r}")
    if manifest.config.size > LARGEST_CONFIG:
        raise Corrupt(f"{what} has a configuration of {manifest.config.size} bytes")
    if not manifest.layers:
        raise BadRequest(f"{what} has no layers: there is nothing to boot")
    sizes: dict[str, int] = {}
    for layer in manifest.layers:
        packing(layer, what)
        if sizes.setdefault(layer.digest, layer.size) != layer.size:
            raise Corrupt(f"{what} names {layer.digest} with two sizes")
    return manifest


def packing(layer: Descriptor, what: str) -> str:
    """How a layer is packed: tar, gzip or zstd; BadRequest for what is none of these."""
    kind = LAYERS.get(layer.media_type)
    if kind is None:
        raise BadRequest(f"{what} has a layer of type {layer.media_type!r}, which is not supported", hint="layers are tar, with gzip, zstd or neither")
    return kind


def parse_config(data: bytes, manifest: Manifest, *, what: str) -> Configuration:
    """The configuration of an image; Corrupt when it has not one diff_id for each layer."""
    config = _decode(data, Configuration, what)
    if len(config.rootfs.diff_ids) != len(manifest.layers or ()):
        raise Corrupt(f"{what} has {len(manifest.layers or ())} layers, but its configuration names {len(config.rootfs.diff_ids)}")
    return config


def choose(index: Index, wanted: Platform, *, what: str) -> Descriptor:
    """The image for a platform; NotFound lists those that there are."""
    images = [one for one in index.manifests or () if one.media_type in INDEXES | MANIFESTS]
    for image in images:
        if image.platform is not None and image.platform.serves(wanted):
            return _bounded(image, what)
    if len(images) == 1 and images[0].platform is None:
        return _bounded(images[0], what)  # its configuration says for what it is
    raise missing(what, wanted, [str(one.platform) for one in images if one.platform is not None and one.platform.os != "unknown"])


def _bounded(image: Descriptor, what: str) -> Descriptor:
    if image.size > LARGEST_MANIFEST:
        raise Corrupt(f"{what} names a manifest of {image.size} bytes")
    return image


def missing(what: str, wanted: Platform, there: Sequence[str]) -> NotFound:
    """The error for a platform that an image is not made for."""
    offers = ", ".join(sorted(set(there))[:40]) or "no platform at all"
    return NotFound(
        f"{what} is not there for {wanted}: it is made for {offers}", hint="choose one with --platform; a machine boots only its host's own"
    )


def _decode(data: bytes, kind: type[T], what: str) -> T:
    """Deep nesting is an error of its own in msgspec's decoder."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Corrupt(f"{what} cannot be read: {error}") from error
