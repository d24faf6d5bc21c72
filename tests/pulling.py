"""A small image, and pulls of it by the client of registries, as the tests of that client begin."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import os
import random
from pathlib import Path

from banger.host.proc import RealProc
from banger.host.web.logins import Logins
from banger.host.web.registry import RealRegistry
from banger.model.oci import Descriptor, Manifest, parse_document
from banger.model.reference import parse_reference
from banger.model.registry import parse_mirrors
from tests.registry import sha256, tar

LAYER = tar({"data": random.Random(1).randbytes(700_000)})
PACKED = gzip.compress(LAYER, 1, mtime=0)
BLOB = Descriptor(media_type="", digest=sha256(PACKED), size=len(PACKED))
SECRET = "pa:ss wörd"


def client(folder: Path, *, mirrors: str = "", config: dict[str, object] | None = None, path: str = "") -> RealRegistry:
    """A client whose logins and certificates are in `folder`."""
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    logins = Logins(RealProc(f"{path}:{os.environ['PATH']}"), [folder / "config.json"])
    return RealRegistry(logins, mirrors=parse_mirrors(mirrors), certificates=[folder / "certs.d"], pause=0.01)


async def pull(made: RealRegistry, host: str, folder: Path, *, name: str = "team/box:1", plain: bool = True) -> bytes:
    """The image's only layer."""
    reference = parse_reference(f"{host}/{name}")
    told: list[int] = []
    async with asyncio.timeout(60), made.open(reference, plain_http=plain) as repository:
        found = await repository.document(reference.target)
        manifest = parse_document(found.data, found.media_type, what=str(reference))
        assert isinstance(manifest, Manifest)
        assert manifest.layers
        await repository.blob(manifest.layers[0], folder / "part", told=told.append)
        assert told[-1] == manifest.layers[0].size
    return (folder / "part").read_bytes()


async def fetch(made: RealRegistry, host: str, folder: Path, *, plain: bool = True) -> bytes:
    """The blob alone."""
    async with asyncio.timeout(60), made.open(parse_reference(f"{host}/team/box:1"), plain_http=plain) as repository:
        await repository.blob(BLOB, folder / "part", told=lambda _: None)
    return (folder / "part").read_bytes()


def auth(user: str, secret: str) -> dict[str, str]:
    """An entry of Docker's configuration."""
    return {"auth": base64.b64encode(f"{user}:{secret}".encode()).decode()}


def trust(folder: Path, host: str, certificate: Path) -> None:
    """Believe the authority of a certificate at a host."""
    (folder / "certs.d" / host).mkdir(parents=True)
    (folder / "certs.d" / host / "ca.crt").write_bytes(certificate.with_name("ca.crt").read_bytes())
