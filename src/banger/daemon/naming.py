"""How names stand: the daemon that lives writes it down, doctor reads it, which needs no daemon and asks nobody."""

from __future__ import annotations

import os

import msgspec

from banger.host import Host
from banger.host.proc import Life, ProcessId
from banger.model.codec import decode, encode
from banger.model.errors import BangerError
from banger.model.finding import Finding, Level
from banger.model.names import server

GUIDE = "the guide's page on names has recipes for this and other resolvers"


class Naming(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`trouble`: why the port is not ours; `routing`: why the resolver could not be told of it; `routed`: it was."""

    version: int = 1
    port: int
    trouble: str = ""
    routing: str = ""
    routed: bool = False


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file: how it stands with the daemon that is this process."""

    process: ProcessId
    naming: Naming


def write_naming(host: Host, naming: Naming) -> None:
    """Write it down for as long as this process lives."""
    me = host.proc.identify(os.getpid())
    assert me is not None, "a process finds itself"
    host.files.write_atomic(host.paths.names, encode(Record(process=me, naming=naming)), durable=False)


def read_naming(host: Host) -> Naming | None:
    """How it stands with the daemon; None when none lives, or none says so."""
    try:
        text = host.files.read(host.paths.names)
        record = decode(text, Record, what=str(host.paths.names)) if text else None
    except (BangerError, OSError):  # another banger's, or no file: doctor has a row for such folders
        return None
    return record.naming if record is not None and host.proc.look(record.process) is not Life.GONE else None


def findings(host: Host) -> list[Finding]:
    """Whether names are answered, and whether the host's programs get to hear of it."""
    port = host.settings.dns_port
    if not port:
        return [Finding(level=Level.PASS, subject="names", message="off: the setting dns_port is 0")]
    naming = read_naming(host)
    if naming is not None and naming.port != port:
        naming = None  # the daemon was started with another setting
    return [_port(host, port, naming), _resolver(host, port, naming)]


def _port(host: Host, port: int, naming: Naming | None) -> Finding:
    trouble = naming.trouble if naming is not None else f"port {port} of 127.0.0.1 is taken by another process" if host.facts.taken(port) else ""
    if trouble:
        fix = "end what has it, or set dns_port to another port or 0; it is tried again whenever a machine starts"
        return Finding(level=Level.WARN, subject="names", message=f"NAME.vm is not answered: {trouble}", fix=fix)
    state = "is answered" if naming is not None else "will be answered, once a daemon runs,"
    return Finding(level=Level.PASS, subject="names", message=f"NAME.vm {state} at {server(port)}")


def _resolver(host: Host, port: int, naming: Naming | None) -> Finding:
    lack = host.resolver.lacks()
    if lack:
        message = f"{lack}, so nothing on this host asks {server(port)} by itself; {GUIDE}"
        return Finding(level=Level.PASS, subject="resolver", message=message)
    if naming is not None and naming.routing:
        fix = f"run the daemon as root, or as a user whom polkit lets configure systemd-resolved; {GUIDE}"
        return Finding(level=Level.WARN, subject="resolver", message=f"systemd-resolved was not told: {naming.routing}", fix=fix)
    if not host.resolver.asked():
        message = "systemd-resolved runs, but neither /etc/resolv.conf nor /etc/nsswitch.conf leads to it"
        fix = "as root: ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf"
        return Finding(level=Level.WARN, subject="resolver", message=message, fix=fix)
    if naming is not None and naming.routed:
        return Finding(level=Level.PASS, subject="resolver", message=f"systemd-resolved asks {server(port)} for vm, on {host.settings.bridge}")
    return Finding(level=Level.PASS, subject="resolver", message=f"systemd-resolved will be told once a machine is behind {host.settings.bridge}")
