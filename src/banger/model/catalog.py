"""Images and kernels: catalog entries (where one can be had), manifests (what was made of it).

A catalog file is `{"version": 1, "entries": [...]}`; unknown fields are refused. A user's own file extends and overrides the shipped one.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from banger.model.errors import BadRequest


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every catalog entry has: `source` names the backend that makes it (`backends/image/NAME.py` or `backends/kernel/NAME.py`)."""

    name: str
    source: str
    description: str = ""


class ImageEntry(Entry, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A root file system: `kernel` is the name of the kernel it boots with; suite, variant and packages are for source `debian`.

    `size_mib` is the size of the file system (sparse); it must hold the content, what the machine writes goes elsewhere.
    `file` and `managed` are for source `rootfs`: a file on this host, and whether it is copied or used where it is.
    `reference`, `platform` and `plain_http` are for source `oci`: an image in a registry, which of its platforms (empty: the host's), and whether it
    may be asked without TLS. There a `size_mib` of 0 is what the content needs.
    `url` and `sha256` (hex) are for source `bundle`.
    """

    kernel: str
    suite: str = ""
    variant: str = ""
    packages: tuple[str, ...] = ()
    size_mib: int = 2048
    file: str = ""
    managed: bool = True
    reference: str = ""
    platform: str = ""
    plain_http: bool = False
    url: str = ""
    sha256: str = ""


class KernelEntry(Entry, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A kernel: suite and package are for source `debian`; url and sha256 (hex) for `tarball` and `bundle`; file (a file or a folder) for `folder`."""

    suite: str = ""
    package: str = ""
    url: str = ""
    sha256: str = ""
    file: str = ""


class ImageCatalog(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A catalog file of images."""

    version: int
    entries: tuple[ImageEntry, ...]


class KernelCatalog(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A catalog file of kernels."""

    version: int
    entries: tuple[KernelEntry, ...]


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every manifest has: where it came from, the digest (`sha256:…`) and apparent size of its main file, and when it was made."""

    version: int = 1
    name: str
    source: str
    digest: str
    size_bytes: int
    built: datetime


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an image wants its commands run: what counts of a container image's configuration (OCI image specification, "Image Configuration").

    `env` are variables; `workdir` is absolute, or empty; `user` is empty (root) or `name`, `uid`, either with `:group` or `:gid`; `entrypoint` and
    `cmd` together are what the image runs; `stop_signal` is a name such as SIGTERM; `shell` is what builds run
    their lines with. All empty: it says nothing.
    """

    env: dict[str, str] = {}
    workdir: str = ""
    user: str = ""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    stop_signal: str = ""
    shell: tuple[str, ...] = ()


class ImageManifest(Manifest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`images/NAME/manifest.json`: written last, so that a folder with one is a whole image. `digest` is `sha256:…` of `rootfs.ext4`; of a registry's
    image, which is as large as one likes, of what it was made of: manifest, name and size.

    `init` is what `model/inits.py` makes of its files: a name, empty for none, or `unknown`. `architecture` is uname's word (`x86_64`), or empty: that
    of the host.
    `file` is set where the root file system is a file of the user's own (unmanaged): never written, never removed, and known again by its `stamp`,
    when it was last changed (ns) and its length. `reference` is where a registry's image came from, `resolved` the digest of its manifest, which the
    cache of blobs goes by. `recipe` is the key of the build that made it (`model/recipe.py`). `filesystem` is what the guest's kernel has to know:
    ext4, erofs or squashfs.
    """

    kernel: str
    used_bytes: int
    packages: int
    init: str
    architecture: str = ""
    config: ImageConfig = ImageConfig()
    filesystem: str = "ext4"
    file: str = ""
    stamp: tuple[int, int] = (0, 0)
    reference: str = ""
    resolved: str = ""
    recipe: str = ""


class KernelManifest(Manifest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`kernels/NAME/manifest.json`, beside `vmlinux` and `modules/`. `release` is what `uname -r` prints; `digest` that of `vmlinux`.

    `lacks` is what was found missing of what machines need, and what does not work without it; `builtin` names modules that are known to be part of it
    though no list beside it says so (`model/kernels.py`).
    """

    release: str
    architecture: str
    lacks: dict[str, str] = {}
    builtin: tuple[str, ...] = ()


class ImagePart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="part", tag="image"):
    """An image to make in the folder `into` (absolute); whoever asked renames the folder to its place once `ensure` is through."""

    entry: ImageEntry
    into: str


class KernelPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="part", tag="kernel"):
    """A kernel to make in the folder `into` (absolute); published like an image."""

    entry: KernelEntry
    into: str


class Wish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked for beside the image itself; what is empty or 0 is left to banger."""

    local: str = ""
    kernel: str = ""
    platform: str = ""
    size_mib: int = 0
    plain_http: bool = False


def whole_mib(size: int) -> int:
    """A size in bytes as that of a file system; BadRequest for one that cannot be meant."""
    if not 1 << 20 <= size <= 1 << 40:
        raise BadRequest(f"an image of {size} bytes cannot be meant", hint="give --size 2G; or leave it out: then it is what the content needs")
    return -(-size // (1 << 20))
