"""Registries of a few images in memory; whoever asks for anything else is told that it is not there."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from banger.host.web.growing import Told
from banger.host.web.registry import Document
from banger.model import oci
from banger.model.errors import DownloadFailed, NotFound
from banger.model.oci import Descriptor
from banger.model.reference import Reference

LAYER = "application/vnd.oci.image.layer.v1.tar"


class FakeRegistry:
    """`contents` are documents and blobs by digest, `tags` the digests that names stand for (`host/name:tag`), `types` those of documents.

    `asked` is what was asked for, in order. `go` holds blobs up until it is set; each of `failures` is raised once instead of a blob.
    """

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.tags: dict[str, str] = {}
        self.types: dict[str, str] = {}
        self.asked: list[str] = []
        self.plain: list[bool] = []
        self.begun, self.go = asyncio.Event(), asyncio.Event()
        self.go.set()
        self.failures: list[Exception] = []

    def put(self, data: bytes, media_type: str = "") -> Descriptor:
        """Keep something; how a document names it."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.contents[digest], self.types[digest] = data, media_type
        return Descriptor(media_type=media_type, digest=digest, size=len(data))

    def image(
        self, name: str, layers: Sequence[bytes], *, config: Mapping[str, object] | None = None, architecture: str = "amd64", diff_ids: bool = True
    ) -> Descriptor:
        """An image of plain layers under `name` (`host/name:tag`, or empty for none)."""
        ids = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers] if diff_ids else []
        settings = {"os": "linux", "architecture": architecture, "config": dict(config or {}), "rootfs": {"type": "layers", "diff_ids": ids}}
        document = {
            "schemaVersion": 2,
            "mediaType": oci.OCI_MANIFEST,
            "config": _named(self.put(msgspec.json.encode(settings), oci.OCI_CONFIG)),
            "layers": [_named(self.put(layer, LAYER)) for layer in layers],
        }
        return self._tagged(name, self.put(msgspec.json.encode(document), oci.OCI_MANIFEST))

    def index(self, name: str, images: Mapping[str, Descriptor]) -> Descriptor:
        """An index of images by platform (`linux/amd64`)."""
        rows = [
            _named(image) | {"platform": dict(zip(("os", "architecture", "variant"), key.split("/"), strict=False))} for key, image in images.items()
        ]
        document = {"schemaVersion": 2, "mediaType": oci.OCI_INDEX, "manifests": rows}
        return self._tagged(name, self.put(msgspec.json.encode(document), oci.OCI_INDEX))

    def _tagged(self, name: str, made: Descriptor) -> Descriptor:
        if name:
            self.tags[name] = made.digest
        return made

    @asynccontextmanager
    async def open(self, reference: Reference, *, plain_http: bool = False) -> AsyncIterator[FakeRepository]:
        """See Registry."""
        self.plain.append(plain_http)
        yield FakeRepository(self, reference)


class FakeRepository:
    """One name in it."""

    def __init__(self, registry: FakeRegistry, reference: Reference) -> None:
        self.registry, self.reference = registry, reference

    async def document(self, target: str) -> Document:
        """See Repository."""
        self.registry.asked.append(target)
        name = f"{self.reference.registry}/{self.reference.repository}:{target}"
        digest = target if ":" in target else self.registry.tags.get(name, "")
        if digest not in self.registry.contents:
            raise NotFound(f"{self.reference.registry} has no {self.reference.repository} of this tag or digest")
        return Document(data=self.registry.contents[digest], media_type=self.registry.types[digest], digest=digest)

    async def blob(self, wanted: Descriptor, into: Path, *, told: Told) -> None:
        """See Repository."""
        self.registry.asked.append(wanted.digest)
        self.registry.begun.set()
        await self.registry.go.wait()
        if self.registry.failures:
            raise self.registry.failures.pop()
        data = self.registry.contents.get(wanted.digest)
        if data is None:
            raise DownloadFailed(f"{wanted.digest} does not come")
        into.write_bytes(data)
        told(len(data))


def _named(descriptor: Descriptor) -> dict[str, object]:
    return {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size}
