"""Doctor: the sum of every backend's `check()`, and of what the daemon itself stands on. Reads only; makes nothing, migrates nothing."""

from __future__ import annotations

from banger.backends import load, names
from banger.backends.disk import Disk
from banger.backends.image import ImageSource
from banger.backends.kernel import KernelSource
from banger.backends.network import Network
from banger.backends.vmm import Vmm
from banger.daemon.store import MIGRATIONS
from banger.host import Host
from banger.host.sqlite import Databases
from banger.model.finding import Finding, Level
from banger.model.sizes import show_size

WANTED_BYTES = 4 << 30


def diagnose(host: Host, databases: Databases) -> list[Finding]:
    """Every finding, in the order: host, state, then each backend."""
    found = [_architecture(host), _database(host, databases), _space(host)]
    for backend in _backends(host):
        found += backend.check()
    return list(dict.fromkeys(found))


def _backends(host: Host) -> list[Vmm | Disk | Network | ImageSource | KernelSource]:
    return [
        *(load("vmm", name, host) for name in names("vmm")),
        *(load("disk", name, host) for name in names("disk")),
        *(load("network", name, host) for name in names("network")),
        *(load("image", name, host) for name in names("image")),
        *(load("kernel", name, host) for name in names("kernel")),
    ]


def _architecture(host: Host) -> Finding:
    machine = host.facts.architecture()
    if machine == "x86_64":
        return Finding(level=Level.PASS, subject="architecture", message=machine)
    return Finding(level=Level.FAIL, subject="architecture", message=f"{machine} is not supported yet", fix="use an x86-64 host")


def _database(host: Host, databases: Databases) -> Finding:
    trouble = databases.probe(host.paths.database, MIGRATIONS)
    if trouble:
        fix = f"move {host.paths.database} away (its machines are then unknown to banger), or use the banger that wrote it"
        return Finding(level=Level.FAIL, subject="database", message=f"{host.paths.database}: {trouble}", fix=fix)
    state = "is sound" if host.paths.database.exists() else "is not there yet"
    return Finding(level=Level.PASS, subject="database", message=f"{host.paths.database} {state}")


def _space(host: Host) -> Finding:
    free = host.files.free_bytes(host.paths.state)
    level = Level.PASS if free >= WANTED_BYTES else Level.WARN
    fix = "" if level is Level.PASS else "free some space: the default image and a machine want about 4G"
    return Finding(level=level, subject="disk space", message=f"{show_size(free)} free for {host.paths.state}", fix=fix)
