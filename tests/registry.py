"""Registries on loopback: Debian's docker-registry as it is, and a front before it that does what networks, token services and liars do.

`image` makes an image by hand and pushes it over HTTP. Nothing here, and nothing that uses it, asks any host but this one.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.client
import io
import json
import re
import shutil
import ssl
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from banger.host.web.session import LEAST
from banger.model import oci
from tests.world import until

GZIP, PLAIN = "application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.oci.image.layer.v1.tar"


class Daemon:
    """A docker-registry that listens on loopback. `host` is its HOST:PORT."""

    def __init__(self, folder: Path, *, users: Mapping[str, str] | None = None, certificate: Path | None = None) -> None:
        assert shutil.which("docker-registry"), "docker-registry is missing: python3 packaging/bootstrap.py dev"
        folder.mkdir()
        settings: dict[str, object] = {
            "version": "0.1",
            "log": {"level": "info", "formatter": "json"},
            "storage": {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": True}},
            "http": {
                "addr": "127.0.0.1:0",
                **({"tls": {"certificate": str(certificate), "key": str(certificate.with_suffix(".key"))}} if certificate else {}),
            },
        }
        self.users, self.certificate = dict(users or {}), certificate
        if users:
            lines = [self._hashed(user, secret) for user, secret in users.items()]
            (folder / "users").write_text("\n".join(lines) + "\n")
            settings["auth"] = {"htpasswd": {"realm": "here", "path": str(folder / "users")}}
        (folder / "config.yml").write_text(json.dumps(settings))  # JSON is YAML
        self.process = subprocess.Popen(
            ["docker-registry", "serve", str(folder / "config.yml")], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        self.host = self._listening()
        threading.Thread(target=self._drain, daemon=True).start()

    @staticmethod
    def _hashed(user: str, secret: str) -> str:
        return subprocess.run(["htpasswd", "-Bbn", "-C", "4", user, secret], check=True, capture_output=True, text=True).stdout.strip()

    def _listening(self) -> str:
        assert self.process.stderr is not None
        said = []
        for line in self.process.stderr:
            said.append(line.decode())
            if found := re.search(r"listening on (127\.0\.0\.1:\d+)", said[-1]):
                return found[1]
        raise AssertionError(f"docker-registry does not listen: {said}")

    def _drain(self) -> None:
        assert self.process.stderr is not None
        for _ in self.process.stderr:
            pass

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()

    def send(self, method: str, path: str, data: bytes = b"", **headers: str) -> http.client.HTTPResponse:
        """One request, logged in; the answer, which must be a good one."""
        if self.certificate:
            context = ssl.create_default_context(cafile=str(self.certificate.with_name("ca.crt")))
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(self.host, context=context, timeout=30)
        else:
            connection = http.client.HTTPConnection(self.host, timeout=30)
        if self.users:
            user, secret = next(iter(self.users.items()))
            headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{secret}".encode()).decode()
        connection.request(method, path, data, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status < 300, (method, path, answer.status, body)
        return answer

    def push_blob(self, repository: str, data: bytes) -> dict[str, object]:
        """Keep a blob; its digest and size."""
        digest = sha256(data)
        place = self.send("POST", f"/v2/{repository}/blobs/uploads/").headers["Location"]
        place = place[place.index("/v2/") :]
        self.send("PUT", f"{place}{'&' if '?' in place else '?'}digest={digest}", data, Content_Type="application/octet-stream")
        return {"digest": digest, "size": len(data)}

    def push_document(self, repository: str, tag: str, document: Mapping[str, object], kind: str) -> dict[str, object]:
        """Keep a manifest or index under a tag."""
        data = json.dumps(document).encode()
        self.send("PUT", f"/v2/{repository}/manifests/{tag}", data, Content_Type=kind)
        return {"mediaType": kind, "digest": sha256(data), "size": len(data)}

    def image(
        self, repository: str, tag: str, layers: Sequence[bytes], *, architecture: str = "amd64", config: Mapping[str, object] | None = None
    ) -> dict[str, object]:
        """Push an image whose layers are these tars, packed with gzip; its descriptor."""
        rows = [{"mediaType": GZIP, **self.push_blob(repository, gzip.compress(layer, 1, mtime=0))} for layer in layers]
        settings = {
            "os": "linux",
            "architecture": architecture,
            "config": dict(config or {}),
            "rootfs": {"type": "layers", "diff_ids": [sha256(layer) for layer in layers]},
        }
        described = {"mediaType": oci.OCI_CONFIG, **self.push_blob(repository, json.dumps(settings).encode())}
        document = {"schemaVersion": 2, "mediaType": oci.OCI_MANIFEST, "config": described, "layers": rows}
        return self.push_document(repository, tag, document, oci.OCI_MANIFEST)

    def index(self, repository: str, tag: str, images: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
        """Push an index of images by platform."""
        rows = [{**image, "platform": dict(zip(("os", "architecture", "variant"), key.split("/"), strict=False))} for key, image in images.items()]
        return self.push_document(repository, tag, {"schemaVersion": 2, "mediaType": oci.OCI_INDEX, "manifests": rows}, oci.OCI_INDEX)


def sha256(data: bytes) -> str:
    """As registries write it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def tar(files: Mapping[str, bytes]) -> bytes:
    """A layer of regular files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def certificates(folder: Path) -> Path:
    """An authority (`ca.crt`) and a server's certificate for loopback that it signed; the latter's path, with its key beside it."""
    folder.mkdir()

    def run(*words: str) -> None:
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=folder)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    run("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.crt", "-days", "30", "-subj", "/CN=test authority")
    run("req", *new, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    run("x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-out", "server.crt", "-days", "30", "-extfile", "names")
    return folder / "server.crt"


class Asked:
    """One request as it came."""

    def __init__(self, path: str, headers: Mapping[str, str]) -> None:
        self.path, self.headers = path, dict(headers)

    @property
    def authorization(self) -> str:
        """What it said of who asks."""
        return self.headers.get("Authorization", "")

    @property
    def range(self) -> str:
        """The range it asked for."""
        return self.headers.get("Range", "")


class Front(ThreadingHTTPServer):
    """Passes requests on to a registry, but for what `faults` says: words by a part of the path, one used up by each request that it fits.

    `cut N`, `drop`, `garble`, `longer`, `shorter`, `announce N`, `status N [SECONDS]`, `stall N`, `other-part`, `no-range`, `no-part`, `to URL`;
    `pass` is none. With `into`, the file that a blob goes to, a cut comes only once all that was sent is there, but for the last piece.
    `after` is called after each fault, before its connection ends.
    With `token` only who carries that one is let in, and `/token` gives it to who logs in as `login` (anybody when that is empty).
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, upstream: str, *, certificate: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream, self.secure = upstream, certificate is not None
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, certificate.with_suffix(".key"))
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.faults: dict[str, list[str]] = {}
        self.asked: list[Asked] = []
        self.token = self.login = self.realm = ""
        self.into: Path | None = None
        self.after: Callable[[], None] | None = None
        self.held, self.go = threading.Event(), threading.Event()
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def host(self) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self.server_address[1]}"

    @property
    def url(self) -> str:
        """With its scheme."""
        return f"{'https' if self.secure else 'http'}://{self.host}"

    def fault(self, path: str) -> str:
        """What is to happen to this request."""
        with self.lock:
            for part, words in self.faults.items():
                if part in path and words:
                    return words.pop(0)
        return "pass"

    def blobs(self) -> list[Asked]:
        """The requests for blobs."""
        return [one for one in self.asked if "/blobs/" in one.path]

    def handle_error(self, request: object, client_address: object) -> None:
        """Who breaks off is no news here."""

    def close(self) -> None:
        """End it."""
        self.go.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Front

    def do_GET(self) -> None:
        front = self.server
        front.asked.append(Asked(self.path, dict(self.headers.items())))
        if self.path.startswith("/token"):
            return self._token()
        if front.token and self.headers.get("Authorization") != f"Bearer {front.token}":
            realm = front.realm or f"{front.url}/token"
            return self._say(
                401, b'{"errors":[{"code":"UNAUTHORIZED","message":"log in"}]}', {"WWW-Authenticate": f'Bearer realm="{realm}",service="here"'}
            )
        word, *more = front.fault(self.path).split()
        if word == "status":
            return self._say(int(more[0]), b'{"errors":[{"code":"NO","message":"as told"}]}', {"Retry-After": more[1]} if more[1:] else {})
        if word == "to":
            return self._say(307, b"", {"Location": more[0]})
        if word == "drop":
            self.close_connection = True
            return None
        return self._pass(word, more)

    def do_POST(self) -> None:
        """A refresh token is traded in."""
        form = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.asked.append(Asked(f"{self.path}?{form}", dict(self.headers.items())))
        self._say(200, json.dumps({"access_token": self.server.token}).encode())

    def _token(self) -> None:
        wanted = f"Basic {base64.b64encode(self.server.login.encode()).decode()}" if self.server.login else ""
        if self.headers.get("Authorization", "") != wanted:
            return self._say(401, b"{}")
        return self._say(200, json.dumps({"token": self.server.token}).encode())

    def _pass(self, word: str, more: list[str]) -> None:
        names = ("Accept", "Range", "If-Range") if word not in ("no-range", "other-part") else ("Accept",)
        connection = http.client.HTTPConnection(self.server.upstream, timeout=30)
        connection.request("GET", self.path, headers={name: self.headers[name] for name in names if name in self.headers})
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        kept = {name: value for name in ("Content-Type", "Docker-Content-Digest", "Content-Range", "ETag") if (value := answer.headers[name])}
        if answer.status >= 300 and answer.status != 416:
            return self._say(answer.status, data, kept)
        self._do(word, more, answer.status, data, kept)
        front = self.server
        if word != "pass" and front.after is not None:
            front.after()
        return None

    def _do(self, word: str, more: list[str], status: int, data: bytes, headers: dict[str, str]) -> None:
        number = int(more[0]) if more else 0
        if word == "garble":
            data = bytes([data[0] ^ 1]) + data[1:]
        elif word == "longer":
            return self._say(status, data + b"more", headers, length=None)
        elif word == "shorter":
            return self._say(status, data[:-5], headers, length=None)
        elif word == "announce":
            return self._say(status, data[:number], headers, length=number)
        elif word == "cut":
            return self._cut(status, data, number, headers)
        elif word == "other-part":
            return self._say(206, data[7:], headers | {"Content-Range": f"bytes 7-{len(data) - 1}/{len(data)}"})
        elif word == "no-part":
            return self._say(416, b"", headers)
        elif word == "stall":
            return self._stall(status, data, number, headers)
        return self._say(status, data, headers)

    def _cut(self, status: int, data: bytes, number: int, headers: dict[str, str]) -> None:
        self._say(status, data[:number], headers, length=len(data))
        self.wfile.flush()
        into, start = self.server.into, int(self.headers.get("Range", "bytes=0-")[6:-1])
        if into is not None:
            until(lambda: into.stat().st_size > start + number - LEAST, "what was sent")

    def _stall(self, status: int, data: bytes, number: int, headers: dict[str, str]) -> None:
        self._head(status, headers, len(data))
        self.wfile.write(data[:number])
        self.wfile.flush()
        self.server.held.set()
        self.server.go.wait(60)
        self.wfile.write(data[number:])

    def _head(self, status: int, headers: Mapping[str, str], length: int | None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if length is None:
            self.close_connection = True
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _say(self, status: int, data: bytes, headers: Mapping[str, str] | None = None, *, length: int | None = -1) -> None:
        length = len(data) if length == -1 else length
        self._head(status, headers or {}, length)
        self.wfile.write(data)
        if length is not None and length != len(data):
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextmanager
def registry(folder: Path, **options: object) -> Iterator[Daemon]:
    """A docker-registry for a while."""
    made = Daemon(folder, **options)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        made.close()
