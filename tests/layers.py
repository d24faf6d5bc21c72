"""Layers made by hand, images of them that umoci reads, and what a mounted tree holds, to the last attribute."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import stat
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from banger.host import loop
from banger.host.rootfs import Layer
from banger.host.zstd import ZstdCompressor, ZstdDecompressor

#: A moment with a fraction.
TIME = 1_700_000_000.25
PLATFORM = {"architecture": "amd64", "os": "linux"}
Item = tuple[tarfile.TarInfo, bytes]


def item(name: str, kind: bytes, *, data: bytes = b"", link: str = "", mode: int = 0o644, owner: tuple[int, int] = (0, 0), **more: object) -> Item:
    """An entry; `xattrs` are a dict of text to bytes, `device` is major and minor."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.size = kind, link, mode, len(data)
    info.uid, info.gid = owner
    info.mtime = more.get("mtime", TIME)  # type: ignore[assignment]
    info.devmajor, info.devminor = more.get("device", (0, 0))  # type: ignore[misc]
    xattrs: dict[str, bytes] = more.get("xattrs", {})  # type: ignore[assignment]
    info.pax_headers = {f"SCHILY.xattr.{key}": value.decode("utf-8", "surrogateescape") for key, value in xattrs.items()}
    return info, data


def file(name: str, data: bytes = b"", **more: object) -> Item:
    """A regular file."""
    return item(name, tarfile.REGTYPE, data=data, **more)  # type: ignore[arg-type]


def folder(name: str, mode: int = 0o755, **more: object) -> Item:
    """A folder."""
    return item(name, tarfile.DIRTYPE, mode=mode, **more)  # type: ignore[arg-type]


def symlink(name: str, to: str, **more: object) -> Item:
    """A symbolic link."""
    return item(name, tarfile.SYMTYPE, link=to, mode=0o777, **more)  # type: ignore[arg-type]


def link(name: str, to: str) -> Item:
    """A hard link."""
    return item(name, tarfile.LNKTYPE, link=to)


def tar(items: Sequence[Item], *, form: int = tarfile.PAX_FORMAT) -> bytes:
    """As an archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, errors="surrogateescape") as archive:
        for info, data in items:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def packed(data: bytes, how: str) -> bytes:
    """By gzip, zstd, or not at all (`tar`)."""
    if how == "gzip":
        return gzip.compress(data, 1, mtime=0)
    return ZstdCompressor().compress(data, ZstdCompressor.FLUSH_FRAME) if how == "zstd" else data


def layer(place: Path, data: bytes, how: str = "tar") -> Layer:
    """A tar as a blob below `place`."""
    diff_id = f"sha256:{hashlib.sha256(data).hexdigest()}"
    path = place / f"{diff_id[7:27]}.{how}"
    path.write_bytes(packed(data, how))
    return Layer(path=str(path), diff_id=diff_id)


def _plain(each: Layer) -> bytes:
    data = Path(each.path).read_bytes()
    if each.path.endswith(".gzip"):
        return gzip.decompress(data)
    return ZstdDecompressor().decompress(data) if each.path.endswith(".zstd") else data


def layout(place: Path, layers: Sequence[Layer]) -> Path:
    """An image that umoci reads, with the tag `latest`; its layers are not packed, which any umoci understands."""
    folder = place / "blobs/sha256"
    folder.mkdir(parents=True)

    def put(data: bytes, media: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (folder / digest).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{media}", "digest": f"sha256:{digest}", "size": len(data)}

    config = {**PLATFORM, "config": {}, "rootfs": {"type": "layers", "diff_ids": [each.diff_id for each in layers]}, "history": []}
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put(json.dumps(config).encode(), "config.v1+json"),
        "layers": [put(_plain(each), "layer.v1.tar") for each in layers],
    }
    index = {**put(json.dumps(manifest).encode(), "manifest.v1+json"), "annotations": {"org.opencontainers.image.ref.name": "latest"}}
    (place / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [index]}))
    (place / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return place


def unpacked(image: Path, into: Path) -> Path:
    """What umoci makes of it."""
    done = subprocess.run(["umoci", "unpack", "--image", f"{image}:latest", into], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return into / "rootfs"


@contextmanager
def mounted(image: Path, at: Path) -> Iterator[Path]:
    """A file system, to be read."""
    at.mkdir()
    with loop.attached(image, name=f"banger-test-{os.getpid()}", read_only=True) as (_, minor):
        subprocess.run(["mount", "-t", "ext4", "-o", "ro,noload", f"/dev/loop{minor}", at], check=True)
        try:
            yield at
        finally:
            subprocess.run(["umount", at], check=True)


def held(root: Path) -> dict[bytes, tuple[object, ...]]:
    """Every path with its type, mode, owner, time, device, attributes and content; paths of one inode have the first of them in common."""
    found: dict[bytes, tuple[object, ...]] = {}
    firsts: dict[int, bytes] = {}
    top = os.fsencode(root)
    for place, folders, files in os.walk(top):
        for name in sorted([*folders, *files, *([b"."] if place == top else [])]):
            path = os.path.join(place, name)
            status = os.lstat(path)
            short = os.path.relpath(path, top)
            first = firsts.setdefault(status.st_ino, short) if not stat.S_ISDIR(status.st_mode) else short
            xattrs = tuple(sorted((key, os.getxattr(path, key, follow_symlinks=False)) for key in os.listxattr(path, follow_symlinks=False)))
            size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
            found[short] = (
                oct(status.st_mode),
                status.st_uid,
                status.st_gid,
                status.st_mtime_ns,
                size,
                status.st_rdev,
                first,
                xattrs,
                _content(path, status),
            )
    return {path: value for path, value in found.items() if path != b"lost+found"}


def _content(path: bytes, status: os.stat_result) -> bytes:
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(path)
    if not stat.S_ISREG(status.st_mode):
        return b""
    with open(path, "rb") as reader:
        return hashlib.file_digest(reader, "sha256").digest()


def sound(path: Path) -> str:
    """What e2fsck finds wrong; empty when nothing."""
    done = subprocess.run(["/usr/sbin/e2fsck", "-fn", path], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout
