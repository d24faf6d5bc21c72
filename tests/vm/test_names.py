"""A machine's name leads to it, in a network namespace of the test's own: from its start to its end, whatever becomes of the daemon."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.asker import asked
from tests.world import World

PORT = 5354

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="root is needed for network namespaces of one's own")


@pytest.fixture
def bridged(short_path: Path) -> Iterator[World]:
    """A banger alone in its namespace, whose machines are behind the bridge."""
    name = f"bt{os.getpid()}v"
    subprocess.run(["ip", "netns", "add", name], check=True, timeout=20)
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True, timeout=20)
    world = World(short_path, prefix=("ip", "netns", "exec", name), network="bridge", dns_port=str(PORT), vmm="qemu")
    try:
        yield world
        world.close()
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True, timeout=20)


def resolve(world: World, name: str, kind: str = "A", transport: str = "udp") -> list[str]:
    return asked(world.prefix, PORT, name, kind, transport=transport)


def test_a_name_leads_to_its_machine_as_long_as_that_runs_whatever_becomes_of_the_daemon(bridged: World) -> None:
    bridged.ok("vm", "create", "--name", "otter")
    address = str(bridged.row("otter")["address"]).partition("/")[0]
    backwards = ".".join([*reversed(address.split(".")), "in-addr.arpa"])
    for transport in ("udp", "tcp"):
        assert resolve(bridged, "otter.vm", transport=transport) == ["NOERROR", address]
        assert resolve(bridged, backwards, "PTR", transport=transport) == ["NOERROR", "otter.vm."]
    assert resolve(bridged, "badger.vm") == ["NXDOMAIN"]
    assert resolve(bridged, "otter.vm", "AAAA") == ["NOERROR"]
    reach = f"import socket; raise SystemExit(socket.socket().connect_ex(('{address}', 9)))"
    assert subprocess.run([*bridged.prefix, sys.executable, "-c", reach], timeout=20, check=False).returncode == errno.ECONNREFUSED  # by the guest

    bridged.kill_daemon()
    bridged.ok("vm", "list")
    assert resolve(bridged, "otter.vm") == ["NOERROR", address]
    bridged.ok("vm", "stop", "otter")
    assert resolve(bridged, "otter.vm") == ["NXDOMAIN"]
    bridged.ok("vm", "start", "otter")
    assert resolve(bridged, "otter.vm") == ["NOERROR", address]
    bridged.ok("vm", "kill", "otter")
    assert resolve(bridged, "otter.vm") == ["NXDOMAIN"]


def test_a_port_that_another_has_keeps_no_machine_from_starting_and_is_had_with_the_next_once_it_is_free(bridged: World) -> None:
    hold = f"import socket; s = socket.socket(); s.bind(('127.0.0.1', {PORT})); s.listen(); print('taken', flush=True); input()"
    with subprocess.Popen([*bridged.prefix, sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"taken\n"
        bridged.ok("vm", "create", "--name", "otter")
        assert bridged.ok("vm", "exec", "otter", "--", "echo", "here") == "here\n"
        assert f"port {PORT} of 127.0.0.1 is taken" in bridged.ok("daemon", "status")
        other.communicate(b"\n", timeout=20)
    bridged.ok("vm", "stop", "otter")
    bridged.ok("vm", "start", "otter")
    assert resolve(bridged, "otter.vm") == ["NOERROR", str(bridged.row("otter")["address"]).partition("/")[0]]
