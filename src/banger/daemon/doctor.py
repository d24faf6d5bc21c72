"""Doctor: the sum of every backend's `check()`, and of what the daemon itself stands on. Reads only; makes nothing, migrates nothing."""

from __future__ import annotations

from pathlib import Path

from banger.backends import load, names
from banger.backends.disk import Disk
from banger.backends.image import ImageSource
from banger.backends.kernel import KernelSource
from banger.backends.network import Network
from banger.backends.vmm import Vmm
from banger.daemon import naming, ssh, tuning
from banger.daemon.offers import Kept, base
from banger.daemon.store import MIGRATIONS
from banger.host import Host
from banger.host.privilege import Means
from banger.host.sqlite import Databases
from banger.model.build import build_id
from banger.model.errors import BangerError, HostLacks
from banger.model.finding import Finding, Level
from banger.model.packages import with_fix
from banger.model.published import merged
from banger.model.sizes import show_size

WANTED_BYTES = 4 << 30


async def diagnose(host: Host, databases: Databases, catalogs: Path) -> list[Finding]:
    """Every finding, in the order: host, what the user set up, state, then each backend; `catalogs` is the folder of the shipped ones."""
    found = [
        _architecture(host),
        _settings(host),
        _catalogs(host, catalogs),
        _folders(host),
        _database(host, databases),
        _space(host),
        await _privilege(host),
    ]
    found += tuning.findings(host.facts.kernel(), kvm=host.facts.kvm().usable)
    for backend in _local(host):
        found += backend.check()
    for privileged in _privileged(host):
        found += await privileged.check()
    found += [*naming.findings(host), ssh.finding(host)]
    distribution = host.facts.distribution()
    return list(dict.fromkeys(with_fix(finding, distribution) for finding in found))


def _local(host: Host) -> list[Vmm | ImageSource | KernelSource]:
    return [
        *(load("vmm", name, host) for name in names("vmm")),
        *(load("image", name, host) for name in names("image")),
        *(load("kernel", name, host) for name in names("kernel")),
    ]


def _privileged(host: Host) -> list[Disk | Network]:
    """What may have to ask the helper."""
    return [*(load("disk", name, host) for name in names("disk")), *(load("network", name, host) for name in names("network"))]


def _architecture(host: Host) -> Finding:
    machine = host.facts.architecture()
    if machine == "x86_64":
        return Finding(level=Level.PASS, subject="architecture", message=machine)
    return Finding(level=Level.FAIL, subject="architecture", message=f"{machine} is not supported yet", fix="use an x86-64 host")


def unreadable_settings(error: Exception) -> Finding:
    """The one finding when the settings cannot be read: nothing else can be looked at without them."""
    return Finding(level=Level.FAIL, subject="settings", message=str(error), fix="correct it; the guide's page on settings lists them all")


def _settings(host: Host) -> Finding:
    there = "is sound" if host.paths.settings.exists() else "is not there: the defaults hold"
    return Finding(level=Level.PASS, subject="settings", message=f"{host.paths.settings} {there}")


def _catalogs(host: Host, shipped: Path) -> Finding:
    try:
        kept = Kept(host)
        images, kernels = merged([*base(host, shipped), *kept.layers()])
    except (BangerError, OSError) as error:
        return Finding(level=Level.FAIL, subject="catalogs", message=str(error), fix="correct that file, or move it away")
    if kept.broken:
        name, why = next(iter(kept.broken.items()))
        return Finding(level=Level.WARN, subject="catalogs", message=why, fix=f"run: banger catalog remove {name}, and add it again")
    count = len(images.entries) + len(kernels.entries)
    return Finding(level=Level.PASS, subject="catalogs", message=f"{count} images and kernels are on offer")


def _folders(host: Host) -> Finding:
    paths = host.paths
    for folder in (paths.state, paths.run, paths.cache, paths.images, paths.kernels):
        trouble = host.files.refusal(folder)
        if trouble:
            return Finding(level=Level.FAIL, subject="folders", message=trouble, fix="remove it, or set the XDG variables to folders of your own")
    return Finding(level=Level.PASS, subject="folders", message=f"{paths.run} and the others are private, or are not there yet")


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


async def _privilege(host: Host) -> Finding:
    """By what right networks and disks that need root can be had. That there is none is no fault: the defaults need none."""
    try:
        found = await host.privilege.standing()
    except HostLacks as error:
        absent = "not installed" in error.message
        said = "no root and no privileged helper: not needed, but for networks and disks that need root" if absent else error.message
        return Finding(level=Level.PASS if absent else Level.WARN, subject="privilege", message=said, fix=error.hint)
    except (BangerError, OSError) as error:
        return Finding(level=Level.WARN, subject="privilege", message=str(error), fix="as root: banger system status")
    if found.means is Means.ROOT:
        return Finding(level=Level.PASS, subject="privilege", message="banger is root itself")
    again = "as root: banger system install --owner USER"
    outside = [path for path in (host.paths.state, host.paths.images) if not any(path.is_relative_to(root) for root in found.roots)]
    if outside:
        return Finding(level=Level.WARN, subject="privilege", message=f"the helper takes no file in {outside[0]}", fix=f"{again} --root {outside[0]}")
    if found.build != build_id():
        return Finding(level=Level.WARN, subject="privilege", message="the privileged helper is of another build than this", fix=again)
    return Finding(level=Level.PASS, subject="privilege", message="the privileged helper serves this user")
