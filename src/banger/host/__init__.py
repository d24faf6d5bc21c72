"""Touch: one file for one kernel or tool interface, free of policy. `Host` is the frozen record of all of them; everything above gets it passed in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from banger.model.config import Settings
from banger.model.paths import Paths

if TYPE_CHECKING:
    from banger.host.archive import Archive
    from banger.host.blobs import Blobs
    from banger.host.bundle import Bundles
    from banger.host.cgroup import Cgroups
    from banger.host.clock import Clock
    from banger.host.console import Consoles
    from banger.host.cpio import Cpio
    from banger.host.dm import Dm
    from banger.host.ext4 import Ext4
    from banger.host.facts import Facts
    from banger.host.files import Files
    from banger.host.jail import Jails
    from banger.host.kmod import Kmod
    from banger.host.links import Links
    from banger.host.meters import Meters
    from banger.host.nameserver import NameServers
    from banger.host.nft import Nft
    from banger.host.privilege import Privilege
    from banger.host.proc import Proc
    from banger.host.qmp import Qmp
    from banger.host.resolver import Resolver
    from banger.host.rootfs import RootFs
    from banger.host.stream import Dialer
    from banger.host.web import Web
    from banger.host.web.registry import Registry


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """Every interface to the machine, as Protocols, with the paths and settings they work by."""

    paths: Paths
    settings: Settings
    archive: Archive
    blobs: Blobs
    bundles: Bundles
    cgroups: Cgroups
    clock: Clock
    consoles: Consoles
    cpio: Cpio
    dialer: Dialer
    dm: Dm
    ext4: Ext4
    facts: Facts
    files: Files
    jails: Jails
    kmod: Kmod
    links: Links
    meters: Meters
    nameservers: NameServers
    nft: Nft
    privilege: Privilege
    proc: Proc
    qmp: Qmp
    registry: Registry
    resolver: Resolver
    rootfs: RootFs
    web: Web
