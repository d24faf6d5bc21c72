"""Images from the Debian archive: mmdebstrap fills a folder, a few settings for life in a microVM are laid over it, mkfs.ext4 makes the file.

Owns the part's folder while it is being made; whatever goes wrong, `ensure` removes it. An ordinary user's build sees itself as root (host/unshare.py).
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from importlib.resources import files as resources
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath

from banger.backends.sources import ImageMaker
from banger.host import Host
from banger.host.mmdebstrap import Request, bootstrap, check_room, findings, require, validate
from banger.host.unshare import mapped
from banger.model.catalog import ImageEntry, ImageManifest, ImagePart
from banger.model.errors import BadRequest, Corrupt
from banger.model.event import report, step
from banger.model.finding import Finding
from banger.model.inits import init_of

MIB = 1 << 20
#: The folder in the part's folder for all that does not stay.
BUILD = ".build"
#: Room beside the content: a tenth for ext4's own tables, and a little that guests without an overlay may need.
HEADROOM = 32 * MIB
#: What a machine has no use for: documentation in pages, and translations. dpkg goes on leaving them out in the machine.
OPTIONS = (
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/info/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-include=/usr/share/locale/locale.alias",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
)
#: Units that cost time at each boot and do nothing in a microVM: housekeeping by timer, consoles nobody logs in at, what the agent does itself.
MASKED = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer"),
    *("getty@tty1.service", "serial-getty@ttyS0.service", "serial-getty@hvc0.service", "console-getty.service"),
    *("systemd-firstboot.service", "systemd-machine-id-commit.service", "systemd-networkd-wait-online.service"),
    *("systemd-fsck-root.service", "systemd-remount-fs.service", "systemd-pstore.service", "systemd-hwdb-update.service"),
    *("modprobe@configfs.service", "modprobe@drm.service", "modprobe@efi_pstore.service", "modprobe@fuse.service"),
    *("sys-kernel-config.mount", "sys-kernel-debug.mount", "sys-fs-fuse-connections.mount"),
)
UNITS = "etc/systemd/system"


class DebianImage(ImageMaker):
    """Source `debian`: suite, variant and packages say what to install; size_mib is a floor, more is taken if the content needs it."""

    def plan(self, entry: ImageEntry, into: Path) -> ImagePart:
        """See ImageSource."""
        if not entry.suite or not entry.variant or not entry.kernel:
            raise BadRequest(f"image {entry.name}: a catalog entry of source debian needs suite, variant and kernel")
        if not 0 < entry.size_mib <= 1 << 20:
            raise BadRequest(f"image {entry.name}: a size of {entry.size_mib} MiB cannot be meant")
        validate(request(entry))
        return ImagePart(entry=entry, into=str(into))

    async def make(self, part: ImagePart) -> ImageManifest:
        """See Source."""
        require(self.check(), self.host.facts.distribution())
        async with step("make image", f"making {part.entry.name}"):
            return await self._make(part)

    async def _make(self, part: ImagePart) -> ImageManifest:
        what = f"image {part.entry.name}"
        into = self.host.files.private_folder(Path(part.into))
        check_room(self.host.files, into, 2 * part.entry.size_mib * MIB, what)
        build = self.host.files.private_folder(into / BUILD)
        temporary = self.host.files.private_folder(build / "tmp")
        tree = build / "tree"
        root = self.host.facts.root()
        await bootstrap(self.host.proc, self.host.files, root=root, request=request(part.entry), target=tree, temporary=temporary, what=what)
        report("configure the system for banger")
        await self._settle(tree)
        report("make file system")
        rootfs = into / "rootfs.ext4"
        content = await self._measure(tree)
        size = image_size(content, part.entry.size_mib * MIB)
        await self.host.ext4.make_root(rootfs, size, folder=tree, label=part.entry.name, prefix=mapped(root))
        packages, init = installed(tree), init_of(Tree(tree))
        report("remove temporary files")
        await self._remove(build)
        report("compute digest")
        return ImageManifest(
            name=part.entry.name,
            kernel=part.entry.kernel,
            source=part.entry.source,
            digest=await self.host.archive.sha256(rootfs),
            size_bytes=size,
            used_bytes=self.host.files.used_bytes(rootfs),
            packages=packages,
            init=init,
            built=self.host.clock.now(),
        )

    async def _settle(self, tree: Path) -> None:
        """Remove what must not be shared by all machines of the image or has no use in one, then lay the settings over it."""
        for command in cleaning(tree):
            if Path(command[2]).exists():  # a variant that configures nothing lacks some of them
                await self._as_root(command)
        layer = settings_tar(systemd=init_of(Tree(tree)) == "systemd", sshd=(tree / "usr/sbin/sshd").exists())
        await self._as_root(["tar", f"--directory={tree}", "--extract", "--file=-"], data=layer)

    async def _measure(self, tree: Path) -> int:
        """Bytes the content takes in whole blocks."""
        said = await self._as_root(["du", "--summarize", "--one-file-system", "--block-size=1", "--", str(tree)])
        try:
            return int(said.split(None, 1)[0])
        except (IndexError, ValueError) as error:
            raise Corrupt(f"du said {said!r} instead of a size") from error

    async def _as_root(self, command: list[str], *, data: bytes = b"") -> bytes:
        return await self.host.proc.run([*mapped(self.host.facts.root()), *command], timeout=300, data=data)

    async def remove(self, part: ImagePart) -> None:
        """See ImageSource."""
        await self._remove(Path(part.into))

    async def _remove(self, path: Path) -> None:
        if path.exists():
            await self._as_root(["rm", "-rf", "--one-file-system", "--", str(path)])

    def check(self) -> list[Finding]:
        """See ImageSource."""
        return findings(self.host.proc, self.host.files, root=self.host.facts.root())


def request(entry: ImageEntry) -> Request:
    """What the entry asks of mmdebstrap."""
    return Request(suite=entry.suite, variant=entry.variant, packages=entry.packages, options=OPTIONS)


def image_size(content: int, floor: int) -> int:
    """The file system's size: the floor, or the content with its head-room in whole MiB if that is more."""
    need = content + content // 10 + HEADROOM
    return max(floor, -(-need // MIB) * MIB)


def cleaning(tree: Path) -> list[list[str]]:
    """Device nodes (the guest has its own /dev), host keys, ssh's start at boot (ssh.path starts it), logs and caches of the build."""
    find = ["find", "-P"]
    inside = ["-xdev", "-mindepth", "1"]
    return [
        [*find, str(tree / "dev"), *inside, "-delete"],
        [*find, str(tree / "etc"), "-xdev", "-name", "ssh_host_*_key*", "-delete"],
        [*find, str(tree / "etc"), "-xdev", "-type", "l", "(", "-name", "ssh.service", "-o", "-name", "sshd.service", ")", "-delete"],
        [*find, str(tree / "var/log"), "-xdev", "-type", "f", "-delete"],
        [*find, str(tree / "var/cache/apt"), "-xdev", "-type", "f", "-delete"],
        [*find, str(tree / "var/cache/debconf"), "-xdev", "-name", "*-old", "-delete"],
        [*find, str(tree / "var/lib/apt/lists"), *inside, "-type", "f", "-delete"],
        [*find, str(tree / "usr"), "-xdev", "-type", "d", "-name", "__pycache__", "-prune", "-exec", "rm", "-rf", "{}", "+"],
    ]


def settings_tar(*, systemd: bool, sshd: bool) -> bytes:
    """The files shipped beside the catalog, owned by root, as a tar to unpack over the tree; with systemd also its masked units."""
    made: set[str] = set()
    layers = ["any", *(["systemd"] if systemd else []), *(["sshd"] if sshd else [])]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for layer in layers:
            for path, content in _files(resources("banger") / "catalog" / "debian" / layer, ""):
                _add(archive, made, path, content=content)
        if systemd:
            for unit in MASKED:
                _add(archive, made, f"{UNITS}/{unit}", link="/dev/null")
        if systemd and sshd:
            _add(archive, made, f"{UNITS}/multi-user.target.wants/ssh.path", link=f"/{UNITS}/ssh.path")
            _add(archive, made, f"{UNITS}/sshd.service", link="/lib/systemd/system/ssh.service")
    return buffer.getvalue()


def _files(folder: Traversable, prefix: str) -> Iterator[tuple[str, bytes]]:
    for child in sorted(folder.iterdir(), key=lambda found: found.name):
        path = f"{prefix}{child.name}"
        if child.is_dir():
            yield from _files(child, f"{path}/")
        else:
            yield path, child.read_bytes()


def _add(archive: tarfile.TarFile, made: set[str], path: str, *, content: bytes = b"", link: str = "") -> None:
    """A file or symbolic link, after the folders it is in: left to tar, they would get the permissions that our umask allows."""
    for parent in reversed(PurePosixPath(path).parents[:-1]):
        if str(parent) not in made:
            made.add(str(parent))
            member = tarfile.TarInfo(str(parent))
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(member)
    member = tarfile.TarInfo(path)
    member.mode = 0o777 if link else 0o644
    member.type, member.linkname = (tarfile.SYMTYPE, link) if link else (tarfile.REGTYPE, "")
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def installed(tree: Path) -> int:
    """How many packages dpkg has in the tree."""
    try:
        with (tree / "var/lib/dpkg/status").open("rb") as status:
            return sum(line == b"Status: install ok installed\n" for line in status)
    except FileNotFoundError:
        return 0


class Tree:
    """What is in a folder, by paths from there; links are in it whatever they lead to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and os.path.lexists(self.folder / path)


def backend(host: Host) -> DebianImage:
    """Source `debian`."""
    return DebianImage(host)
