"""Pretend: an in-memory host, shipped so that whoever builds on banger can test without machines.

Processes, sockets, consoles, time and facts are made up; files are real ones below a folder of the test's. Contract tests run the same body on a fake
and on the real thing.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Sequence
from pathlib import Path

from banger.host import Host
from banger.host.archive import RealArchive
from banger.host.blobs import RealBlobs
from banger.host.bundle import RealBundles
from banger.host.cpio import RealCpio
from banger.host.files import RealFiles
from banger.host.kmod import RealKmod
from banger.host.meters import RealMeters
from banger.host.qmp import RealQmp
from banger.model.config import Settings
from banger.model.paths import Paths
from banger.testing.clock import FakeClock
from banger.testing.console import FakeConsoles
from banger.testing.dm import FakeDm
from banger.testing.ext4 import FakeExt4
from banger.testing.facts import FakeFacts
from banger.testing.guest import FakeGuest, Mood
from banger.testing.jail import FakeCgroups, FakeJails
from banger.testing.links import FakeLinks
from banger.testing.names import FakeNameServers, FakeResolver
from banger.testing.nft import FakeNft
from banger.testing.privilege import FakePrivilege
from banger.testing.proc import FakeProc
from banger.testing.qemu import FakeQemu
from banger.testing.registry import FakeRegistry
from banger.testing.rootfs import FakeRootFs
from banger.testing.stream import FakeDialer
from banger.testing.web import FakeWeb

__all__ = ["FakeGuest", "FakeHost", "Mood"]


class FakeHost:
    """All fakes, and in `host` the record that is passed in. `async with` it, so that whoever answers on a socket ends with the test.

    QEMU, passt, mkfs.ext4 and ssh-keygen count as installed.
    """

    def __init__(self, root: Path, settings: Settings | None = None) -> None:
        self.paths = Paths(
            state=root / "state",
            run=root / "run",
            cache=root / "cache",
            config=root / "config",
            images=root / "state" / "images",
            kernels=root / "state" / "kernels",
        )
        self.clock, self.consoles, self.dialer, self.ext4, self.facts = FakeClock(), FakeConsoles(), FakeDialer(), FakeExt4(), FakeFacts()
        self.dm, self.rootfs, self.registry = FakeDm(), FakeRootFs(), FakeRegistry()
        self.jails, self.cgroups = FakeJails(), FakeCgroups()
        self.links, self.nft = FakeLinks(), FakeNft()
        self.proc, self.qemu, self.web = FakeProc(self.dialer), FakeQemu(), FakeWeb()
        self.privilege = FakePrivilege()
        self.nameservers, self.resolver = FakeNameServers(), FakeResolver()
        self.proc.programs["qemu-system-x86_64"] = self.qemu
        self.proc.commands |= {Path(sys.executable).name: self._sieve, "passt": self._nothing, "mkfs.ext4": self._nothing, "ssh-keygen": self._keygen}
        self.host = Host(
            paths=self.paths,
            settings=settings or Settings(),
            archive=RealArchive(),
            blobs=RealBlobs(self.paths.blobs, RealFiles()),
            bundles=RealBundles(),
            cgroups=self.cgroups,
            clock=self.clock,
            consoles=self.consoles,
            cpio=RealCpio(),
            dialer=self.dialer,
            dm=self.dm,
            ext4=self.ext4,
            facts=self.facts,
            files=RealFiles(),
            jails=self.jails,
            kmod=RealKmod(),
            links=self.links,
            meters=RealMeters(self.paths, RealFiles(), self.clock),
            nameservers=self.nameservers,
            nft=self.nft,
            privilege=self.privilege,
            proc=self.proc,
            qmp=RealQmp(self.dialer),
            registry=self.registry,
            resolver=self.resolver,
            rootfs=self.rootfs,
            web=self.web,
        )

    async def _sieve(self, argv: Sequence[str], cwd: Path | None) -> bytes:
        """The one Python program that banger runs on a host goes to the background and prints its pid."""
        return str(self.proc.begin(argv, cwd or Path()).id.pid).encode()

    async def _keygen(self, argv: Sequence[str], cwd: Path | None) -> bytes:
        """A key that is the number of keys made so far."""
        path = Path(argv[-1])
        blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + sum(words[0] == "ssh-keygen" for words in self.proc.log).to_bytes(32, "big")
        path.write_text("private\n")
        path.with_suffix(".pub").write_text(f"ssh-ed25519 {base64.b64encode(blob).decode()} banger\n")
        return b""

    async def _nothing(self, argv: Sequence[str], cwd: Path | None) -> bytes:
        return b""

    async def __aenter__(self) -> FakeHost:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.dialer.aclose()
