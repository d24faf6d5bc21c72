"""The composition root: reads the environment, joins the real host, the backends, the daemon and the HTTP server. The one file that knows all.

`bangerd` serves until it is told to stop; machines go on running without it. `bangerd replace` does so in place of one that serves
already. `bangerd doctor` prints findings as JSON and needs no daemon.
`BANGER_READY_FD` names an inherited descriptor that gets one line: `ready`, or the failure as JSON.
"""

from __future__ import annotations

import asyncio
import logging
import logging.handlers
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from banger.daemon import Daemon, compose
from banger.daemon.doctor import diagnose, unreadable_settings
from banger.daemon.operations import failure_of
from banger.frontends.http.server import Service, serving
from banger.host import Host
from banger.host.archive import RealArchive
from banger.host.blobs import RealBlobs
from banger.host.bundle import RealBundles
from banger.host.calls import SOCKET
from banger.host.cgroup import RealCgroups
from banger.host.clock import RealClock
from banger.host.console import RealConsoles
from banger.host.cpio import RealCpio
from banger.host.dm import Dm, RealDm
from banger.host.ext4 import RealExt4
from banger.host.facts import RealFacts
from banger.host.files import RealFiles
from banger.host.jail import RealJails
from banger.host.kmod import RealKmod
from banger.host.links import Links, RealLinks
from banger.host.meters import RealMeters
from banger.host.nameserver import RealNameServers
from banger.host.nft import Nft, RealNft
from banger.host.privilege import Held, Means, Privilege, Standing
from banger.host.proc import RealProc
from banger.host.qmp import RealQmp
from banger.host.remote import Line, remote
from banger.host.resolver import RealResolver, Resolver
from banger.host.rootfs import RealRootFs
from banger.host.seat import STEP_DOWN, listening_at, take_seat
from banger.host.sqlite import RealDatabases
from banger.host.stream import RealDialer
from banger.host.web import RealWeb
from banger.host.web.logins import Logins
from banger.host.web.registry import RealRegistry
from banger.model import codec
from banger.model.build import build_id
from banger.model.config import Settings, load_settings
from banger.model.errors import BangerError
from banger.model.finding import Finding
from banger.model.paths import Paths
from banger.model.registry import parse_mirrors
from banger.ops import every_op

log = logging.getLogger(__name__)
PACKAGE = Path(__file__).parent
CATALOGS = PACKAGE / "catalog"


def xdg(environment: Mapping[str, str], name: str) -> str:
    """An XDG base directory; one that is not absolute counts as not set (XDG base directory specification, version 0.8)."""
    value = environment.get(f"XDG_{name}", "")
    return value if value.startswith("/") else ""


def find_paths(environment: Mapping[str, str], home: Path, uid: int, settings: Settings) -> Paths:
    """The four roots; without XDG_RUNTIME_DIR the volatile one is below /tmp."""
    state = Path(xdg(environment, "STATE_HOME") or home / ".local/state") / "banger"
    runtime = xdg(environment, "RUNTIME_DIR")
    return Paths(
        state=state,
        run=Path(runtime) / "banger" if runtime else Path(f"/tmp/banger-runtime-{uid}"),
        cache=Path(xdg(environment, "CACHE_HOME") or home / ".cache") / "banger",
        config=config_folder(environment, home),
        images=Path(settings.images_dir).expanduser() if settings.images_dir else state / "images",
        kernels=Path(settings.kernels_dir).expanduser() if settings.kernels_dir else state / "kernels",
    )


def config_folder(environment: Mapping[str, str], home: Path) -> Path:
    """Where the user's settings and catalogs are."""
    return Path(xdg(environment, "CONFIG_HOME") or home / ".config") / "banger"


def real_host(environment: Mapping[str, str]) -> Host:
    """Every interface, for real. Makes no folder and no file."""
    home = Path(environment.get("HOME") or Path.home())
    files = RealFiles()
    file = config_folder(environment, home) / "config.toml"
    text = files.read(file) or b""
    settings = load_settings(text.decode("utf-8", "replace"), environment, file=str(file))
    paths = find_paths(environment, home, os.geteuid(), settings)
    proc = RealProc(environment.get("PATH", ""))
    line = None if os.geteuid() == 0 else Line(Path(settings.helper or SOCKET))
    return Host(
        paths=paths,
        settings=settings,
        archive=RealArchive(),
        blobs=RealBlobs(paths.blobs, files),
        bundles=RealBundles(),
        cgroups=RealCgroups(),
        clock=RealClock(),
        consoles=RealConsoles(paths, settings.console_bytes),
        cpio=RealCpio(),
        dialer=RealDialer(),
        dm=RealDm(os.geteuid()) if line is None else remote(Dm, "dm", line),
        ext4=RealExt4(proc),
        facts=RealFacts(),
        files=files,
        jails=RealJails(),
        kmod=RealKmod(),
        links=RealLinks() if line is None else remote(Links, "links", line, here=RealLinks()),
        meters=RealMeters(paths, files, RealClock()),
        nameservers=RealNameServers(),
        nft=RealNft() if line is None else remote(Nft, "nft", line),
        privilege=real_privilege(line),
        proc=proc,
        qmp=RealQmp(RealDialer()),
        registry=real_registry(environment, home, proc, paths, settings),
        resolver=real_resolver(RealResolver(files), line),
        rootfs=RealRootFs(proc),
        web=RealWeb(),
    )


def real_registry(environment: Mapping[str, str], home: Path, proc: RealProc, paths: Paths, settings: Settings) -> RealRegistry:
    """With the logins of Docker and Podman, and the certificates that are trusted for single registries: ours, Docker's and Podman's."""
    docker = Path(environment.get("DOCKER_CONFIG") or home / ".docker") / "config.json"
    podman = Path(xdg(environment, "RUNTIME_DIR") or paths.run) / "containers" / "auth.json"
    certificates = [paths.config / "certs.d", Path("/etc/docker/certs.d"), Path("/etc/containers/certs.d")]
    return RealRegistry(Logins(proc, [docker, podman]), mirrors=parse_mirrors(settings.registry_mirrors), certificates=certificates)


def real_privilege(line: Line | None) -> Privilege:
    """Ours if we are root, which needs no helper; else the helper's at the other end of `line`, if there is one when it is called."""
    if line is None:
        return Held(Standing(means=Means.ROOT, pid=os.getpid(), build=build_id(), owner=0))
    return remote(Privilege, "privilege", line)


def real_resolver(here: RealResolver, line: Line | None) -> Resolver:
    """Through the helper where there is one; else polkit may let us do it ourselves."""
    return here if line is None or not line.path.exists() else remote(Resolver, "resolver", line, here=here)


def make_folders(host: Host) -> None:
    """Our own folders, private; refuses those that are not ours."""
    paths = host.paths
    for folder in (paths.state, paths.run, paths.cache, paths.machines, paths.images, paths.kernels):
        host.files.private_folder(folder)


def forget_former_boot(host: Host) -> None:
    """What the machines' processes of a former boot of the host have left: sockets, and records whose pids mean nothing any more."""
    paths, boot = host.paths, host.facts.boot_id().encode()
    if host.files.read(paths.boot) != boot:
        host.files.remove_tree(paths.running)
        host.files.write_atomic(paths.boot, boot)
    host.files.private_folder(paths.running)


def start_log(host: Host) -> None:
    """A log of at most two files of 1 MiB."""
    handler = logging.handlers.RotatingFileHandler(host.paths.log, maxBytes=1 << 20, backupCount=1)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=host.settings.log_level.upper(), handlers=[handler])


def tell(line: str) -> None:
    """Tell whoever started us how it went; once."""
    descriptor = os.environ.pop("BANGER_READY_FD", "")
    if descriptor:
        with suppress(OSError), os.fdopen(int(descriptor), "w") as pipe:
            pipe.write(line + "\n")


class _Stopped(Exception):
    """Ends the daemon's task group, and with it the watches; no failure."""


async def run(host: Host, build: str) -> None:
    """Serve until told to stop."""
    try:
        async with asyncio.TaskGroup() as tasks:
            await _serve(host, build, tasks)
            raise _Stopped
    except* _Stopped:
        log.info("stopped")


async def _serve(host: Host, build: str, tasks: asyncio.TaskGroup) -> None:
    agent = PACKAGE / "agent" / "banger-agent"
    daemon = compose(host, databases=RealDatabases(), build=build, agent=agent, catalogs=CATALOGS, tasks=tasks)
    service = Service(every_op(), daemon, build, stale=lambda: daemon.step_down(service.calls))
    asyncio.get_running_loop().add_signal_handler(STEP_DOWN, lambda: daemon.step_down(service.calls))
    try:
        await daemon.images.shelf.clean()
        await daemon.kernels.shelf.clean()
        daemon.releases.clean()
        daemon.catalogs.clean()
        await daemon.names.open()
        await daemon.vms.adopt()
        with listening_at(host.paths.socket) as listener:
            async with serving(service, listener):
                await _until_stopped(daemon)
                host.paths.socket.unlink(missing_ok=True)
    finally:
        await daemon.names.close()
        daemon.vms.store.database.close()


async def _until_stopped(daemon: Daemon) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.stopping.set)
    log.info("pid %d listens at %s", os.getpid(), daemon.host.paths.socket)
    tell("ready")
    await daemon.stopping.wait()
    log.info("stopping")
    await daemon.stop(force=True)


def doctor(environment: Mapping[str, str]) -> list[Finding]:
    """What `bangerd doctor` prints; makes no folder and no file."""
    try:
        host = real_host(environment)
    except (BangerError, OSError) as error:
        return [unreadable_settings(error)]
    return asyncio.run(diagnose(host, RealDatabases(), CATALOGS))


def main() -> int:
    """The command `bangerd`."""
    try:
        if sys.argv[1:] == ["doctor"]:
            sys.stdout.buffer.write(codec.encode(doctor(os.environ)) + b"\n")
            return 0
        host = real_host(os.environ)
        make_folders(host)
        start_log(host)
        if take_seat(host.paths, host.proc, replace=sys.argv[1:] == ["replace"]) is not None:
            forget_former_boot(host)
            asyncio.run(run(host, build_id()))
        tell("ready")
    except* (BangerError, OSError) as group:
        _refuse(group)
        raise SystemExit(1) from None
    return 0


def _refuse(group: BaseExceptionGroup[BaseException]) -> None:
    """Tell the log and whoever started us why there is no daemon."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    log.error("cannot serve: %s", error)
    tell(codec.encode(failure_of(error)).decode())


if __name__ == "__main__":
    raise SystemExit(main())
