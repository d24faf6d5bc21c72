"""What can be done with virtual machines. A machine is named by its name, its id, or a unique beginning of the id."""

from __future__ import annotations

from banger.ops import op

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from banger.daemon import Daemon
    from banger.daemon.duplex import Duplex
    from banger.daemon.operations import Progress
    from banger.model.metrics import Metrics
    from banger.model.operation import TargetResult, Text
    from banger.model.ssh import SshLogin
    from banger.model.vm import VmStatus


@op("POST /vms")
async def create(
    daemon: Daemon,
    *,
    name: str | None = None,
    image: str | None = None,
    vcpu: int | None = None,
    memory_mib: int | None = None,
    disk: str | None = None,
    disk_bytes: int | None = None,
    network: str | None = None,
    host_access: bool = False,
    nat: bool | None = None,
    vmm: str | None = None,
    rm: bool = False,
    entrypoint: bool = True,
    env: dict[str, str] | None = None,
    cwd: str | None = None,
    user: str | None = None,
    start: bool = True,
    attended: bool = False,
    wait: str = "agent",
) -> AsyncIterator[Progress[VmStatus]]:
    """Create a machine, and start it.

    With `entrypoint` what the image runs by itself is started with the machine, each time; `attended`: but for the first time, when the caller runs it.
    `env`, `cwd` and `user` hold for all that is run in the machine, over what the image says.

    A machine with `rm` lives as long as the caller holds this stream open. `wait` is `agent` (the guest answers) or `boot` (its init has settled).
    """
    from banger.model.vm import VmSpec

    spec = VmSpec(
        name=name,
        image=image,
        vcpu=vcpu,
        memory_mib=memory_mib,
        disk=disk,
        disk_bytes=disk_bytes,
        network=network,
        host_access=host_access,
        nat=nat,
        vmm=vmm,
        rm=rm,
        entrypoint=entrypoint,
        attended=attended,
        env=env or {},
        cwd=cwd,
        user=user,
    )
    return await daemon.vms.create(spec, start=start, wait=wait)


@op("POST /vms/{vm}/start")
def start(daemon: Daemon, *, vm: str, wait: str = "agent") -> AsyncIterator[Progress[VmStatus]]:
    """Start a stopped machine; its files are as they were."""
    return daemon.vms.start(vm, wait=wait)


@op("POST /vms/{vm}/stop")
async def stop(daemon: Daemon, *, vm: str, force: bool = False) -> VmStatus:
    """Stop a machine: what the guest has written is synced first; after the time limit it is forced."""
    return await daemon.vms.stop(vm, force=force)


@op("POST /vms/{vm}/restart")
def restart(daemon: Daemon, *, vm: str, wait: str = "agent") -> AsyncIterator[Progress[VmStatus]]:
    """Stop a machine and start it again."""
    return daemon.vms.restart(vm, wait=wait)


@op("PATCH /vms/{vm}")
async def set_(daemon: Daemon, *, vm: str, nat: bool | None = None) -> VmStatus:
    """Change a machine, running or not."""
    return await daemon.vms.change(vm, nat=nat)


@op("POST /vms/{vm}/kill")
async def kill(daemon: Daemon, *, vm: str, signal: str = "KILL") -> VmStatus:
    """Send a signal to a machine's VMM process, whatever the guest says; KILL is like pulling the plug."""
    return await daemon.vms.kill(vm, signal=signal)


@op("DELETE /vms/{vm}")
async def delete(daemon: Daemon, *, vm: str) -> None:
    """Delete a machine and all it has written, running or not."""
    await daemon.vms.delete(vm)


@op("GET /vms")
def list_(daemon: Daemon) -> list[VmStatus]:
    """List machines; no guest is asked anything."""
    return daemon.vms.rows()


@op("GET /vms/{vm}")
def show(daemon: Daemon, *, vm: str) -> VmStatus:
    """Show all that is known of a machine."""
    return daemon.vms.show(vm)


@op("GET /vms/{vm}/logs")
def logs(daemon: Daemon, *, vm: str, follow: bool = False) -> AsyncIterator[Text]:
    """Show a machine's console."""
    return daemon.vms.logs(vm, follow=follow)


@op("GET /vms/{vm}/metrics")
async def metrics(daemon: Daemon, *, vm: str) -> Metrics:
    """Show what a running machine's VMM has counted since the machine was started: bytes of disk and network, failures."""
    return await daemon.vms.metrics(vm)


@op("POST /vms/{vm}/exec")
async def exec_(
    daemon: Daemon,
    *,
    vm: str,
    argv: list[str],
    entrypoint: bool = False,
    env: dict[str, str] | None = None,
    cwd: str | None = None,
    user: str | None = None,
    rows: int = 0,
    cols: int = 0,
    term: str = "",
    stdin: bool = True,
) -> Duplex:
    """Run a command in a machine; with `rows` and `cols` on a terminal. An empty `argv` is the user's login shell.

    With `entrypoint` the image's entrypoint comes before `argv`; without `argv` then the image's own cmd follows it.
    """
    from banger.model.commands import Asked

    tty = {"rows": rows, "cols": cols, "term": term or "xterm"} if rows or cols else None
    asked = Asked(argv=argv, entrypoint=entrypoint, env=env or {}, cwd=cwd, user=user, tty=tty, stdin=stdin)
    return await daemon.vms.execute(vm, asked)


@op("POST /vms/{vm}/dial")
async def dial(daemon: Daemon, *, vm: str, port: int, host: str = "127.0.0.1") -> Duplex:
    """Connect to a TCP port inside a machine, in any network mode."""
    return await daemon.vms.open(vm, {"op": "dial", "host": host, "port": port})


@op("POST /vms/{vm}/ssh")
async def ssh(daemon: Daemon, *, vm: str, user: str = "root") -> SshLogin:
    """Make sure that a running machine can be logged in to by ssh, in any network mode, and say as what."""
    return await daemon.ssh.login(vm, user)


@op("POST /vms/{vm}/sshd")
async def sshd(daemon: Daemon, *, vm: str, user: str = "root") -> Duplex:
    """Connect to an ssh server inside a machine, started for this connection: what ssh needs as its ProxyCommand."""
    return await daemon.ssh.connect(vm, user)


@op("POST /vms/prune")
async def prune(daemon: Daemon) -> list[TargetResult]:
    """Delete all machines that are not running."""
    return await daemon.vms.prune()
