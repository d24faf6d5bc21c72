"""A registry that lies in any field that says what something is or how large: nothing of the lie is kept, no image is made of it, and as soon as it
tells the truth the same pull succeeds. Client, cache and writer of root file systems are the real ones; so is the connection."""

from __future__ import annotations

import asyncio
import dataclasses
import gzip
import hashlib
import json
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest

from banger.host.proc import RealProc
from banger.host.rootfs import RealRootFs
from banger.model import oci
from banger.model.catalog import Wish
from banger.model.errors import BangerError, Corrupt, DownloadFailed, NotFound
from banger.testing import FakeHost
from tests.arrivals import Ground, result, state, unsound
from tests.place import SETTINGS
from tests.pulling import client
from tests.registry import GZIP, PLAIN, sha256, tar

pytestmark = pytest.mark.usefixtures("nothing_of_this_machines")
LAYERS = [tar({"etc/hostname": b"here\n"}), tar({"data": b"x" * 5000})]


class Liar(ThreadingHTTPServer):
    """What is at each path: type, content and headers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pages: dict[str, tuple[str, bytes, dict[str, str]]] = {}
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Liar

    def do_GET(self) -> None:
        kind, data, headers = self.server.pages.get(self.path, ("text/plain", b"", {}))
        self.send_response(200 if self.path in self.server.pages else 404)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


Record = dict[str, object]


class Said:
    """What the registry says: records that a lie changes before those above are made of them, and contents that it changes after."""

    def __init__(self) -> None:
        self.blobs = [gzip.compress(layer, 1, mtime=0) for layer in LAYERS]
        self.layers: list[Record] = [{"mediaType": GZIP, "digest": sha256(blob), "size": len(blob)} for blob in self.blobs]
        self.diff_ids = [sha256(layer) for layer in LAYERS]
        self.platform: Record = {"os": "linux", "architecture": "amd64"}
        #: Changes of what names the configuration, and the manifest.
        self.config: Record = {}
        self.manifest: Record = {}
        #: What is sent instead, by what it should be.
        self.instead: dict[str, bytes] = {}
        self.kinds = {"index": oci.OCI_INDEX, "manifest": oci.OCI_MANIFEST}
        self.headers: dict[str, str] = {}

    def publish(self, liar: Liar) -> None:
        """As image `box:1`."""
        settings = json.dumps({**self.platform, "config": {}, "rootfs": {"type": "layers", "diff_ids": self.diff_ids}}).encode()
        named = {"mediaType": oci.OCI_CONFIG, "digest": sha256(settings), "size": len(settings)} | self.config
        manifest = json.dumps({"schemaVersion": 2, "mediaType": oci.OCI_MANIFEST, "config": named, "layers": self.layers}).encode()
        image = {"mediaType": oci.OCI_MANIFEST, "digest": sha256(manifest), "size": len(manifest)} | self.manifest
        image |= {"platform": {"os": "linux", "architecture": "amd64"}}
        index = json.dumps({"schemaVersion": 2, "mediaType": oci.OCI_INDEX, "manifests": [image]}).encode()
        contents = {str(named["digest"]): self.instead.get("config", settings)}
        for at, (layer, blob) in enumerate(zip(self.layers, self.blobs, strict=True)):
            contents[str(layer["digest"])] = self.instead.get(f"layer {at}", blob)
        liar.pages = {f"/v2/box/blobs/{digest}": ("application/octet-stream", data, {}) for digest, data in contents.items()}
        liar.pages["/v2/box/manifests/1"] = (self.kinds["index"], self.instead.get("index", index), self.headers)
        liar.pages[f"/v2/box/manifests/{image['digest']}"] = (self.kinds["manifest"], self.instead.get("manifest", manifest), {})


@pytest.fixture
def liar() -> Iterator[Liar]:
    made = Liar()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Ground]:
    (tmp_path / "logins").mkdir()
    settings = msgspec.structs.replace(SETTINGS, default_kernel="debian-6.1")
    async with asyncio.timeout(60), FakeHost(tmp_path / "place", settings) as fake, AsyncExitStack() as stack:
        made = Ground(fake, stack)
        made.host = dataclasses.replace(made.host, registry=client(tmp_path / "logins"), rootfs=RealRootFs(RealProc(os.environ["PATH"])))
        yield made


def lie(**changes: object) -> Callable[[Said], None]:
    """Set these of its fields; of a record only those keys."""

    def tell(said: Said) -> None:
        for name, value in changes.items():
            former = getattr(said, name)
            if isinstance(former, dict) and isinstance(value, dict):
                former.update(value)
            else:
                setattr(said, name, value)

    return tell


def of_layer(at: int, **changes: object) -> Callable[[Said], None]:
    """What the manifest says of a layer."""

    def tell(said: Said) -> None:
        said.layers[at] = said.layers[at] | {key: value(said.layers[at][key]) if callable(value) else value for key, value in changes.items()}

    return tell


def longer(size: object) -> object:
    return int(str(size)) + 1


def shorter(size: object) -> object:
    return int(str(size)) - 1


OTHER = sha256(b"something else")
LIES: dict[str, Callable[[Said], None]] = {
    "the index names a manifest that is longer": lie(manifest={"size": 4000}),
    "the index names a manifest that is shorter": lie(manifest={"size": 20}),
    "the index names a manifest of no length": lie(manifest={"size": 0}),
    "the index names another manifest": lie(manifest={"digest": OTHER}),
    "the manifest is another one": lie(instead={"manifest": b'{"schemaVersion": 2, "layers": []}'}),
    "the manifest is an index by its type": lie(kinds={"manifest": oci.OCI_INDEX}),
    "the index is a manifest by its type": lie(kinds={"index": oci.OCI_MANIFEST}),
    "the index has another digest by its header": lie(headers={"Docker-Content-Digest": OTHER}),
    "the configuration is longer": lie(config={"size": 4000}),
    "the configuration is shorter": lie(config={"size": 20}),
    "the configuration has no length": lie(config={"size": 0}),
    "the configuration has another digest": lie(config={"digest": OTHER}),
    "the configuration is another one": lie(instead={"config": b"{}"}),
    "the configuration is for another processor": lie(platform={"architecture": "arm64"}),
    "the configuration is for another system": lie(platform={"os": "windows"}),
    "a layer is longer": of_layer(1, size=longer),
    "a layer is shorter": of_layer(1, size=shorter),
    "a layer has no length": of_layer(0, size=0),
    "a layer is much longer": of_layer(0, size=1 << 24),
    "a layer is larger than any may be": of_layer(0, size=1 << 40),
    "a layer has another digest": of_layer(0, digest=OTHER),
    "a layer is another one": lie(instead={"layer 0": gzip.compress(LAYERS[1], 1, mtime=0)}),
    "a layer is not packed, as it says": of_layer(0, mediaType=PLAIN),
    "a layer is packed otherwise": of_layer(0, mediaType="application/vnd.oci.image.layer.v1.tar+zstd"),
    "a layer unpacks to something else": lie(diff_ids=[sha256(LAYERS[0]), OTHER]),
    "the layers unpack in another order": lie(diff_ids=[sha256(LAYERS[1]), sha256(LAYERS[0])]),
    "one layer is not unpacked at all": lie(diff_ids=[sha256(LAYERS[0])]),
    "one more layer is unpacked": lie(diff_ids=[sha256(LAYERS[0]), sha256(LAYERS[1]), OTHER]),
}
#: How the files in a layer are packed their bytes tell, and what a document is that another names by its digest these two tell; what else they are
#: called makes no difference to what comes out.
HARMLESS = ("a layer is not packed, as it says", "a layer is packed otherwise", "the manifest is an index by its type")


@pytest.mark.parametrize("what", LIES)
async def test_no_image_is_made_of_a_lie_and_the_truth_is_taken_afterwards(place: Ground, liar: Liar, what: str) -> None:
    daemon = await place.daemon()
    said = Said()
    LIES[what](said)
    said.publish(liar)
    reference = f"{liar.host}/box:1"
    caught: BangerError | None = None
    try:
        await result(daemon.images.pull(reference, Wish(plain_http=True), force=False))
    except BangerError as error:
        caught = error
    assert isinstance(caught, (Corrupt, NotFound, DownloadFailed)) or what in HARMLESS, repr(caught)
    assert (unsound(place), state(place)) == ([], {}) if caught else True
    lied = {hashlib.sha256(data).hexdigest() for data in said.instead.values()}
    assert not lied & {path.name for path in place.fake.paths.blobs.glob("blobs/sha256/*")}
    Said().publish(liar)
    await result(daemon.images.pull(reference, Wish(plain_http=True), force=True))
    assert (unsound(place), sorted(state(place))) == ([], ["images/box-1", "kernels/debian-6.1"])
