"""systemd-resolved, the real one: the host's programs find machines by their names, without having been told anything, and nothing of it stays."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.world import World, until

PORT = 42069


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    return f"{done.returncode}\n{done.stdout}{done.stderr}"


@pytest.fixture
def resolved() -> Iterator[None]:
    """It runs, and whoever asks the C library asks it."""
    assert run("systemctl", "start", "systemd-resolved").startswith("0"), run("systemctl", "status", "systemd-resolved")
    file = Path("/etc/resolv.conf")
    former = file.read_bytes() if file.exists() else b""
    file.unlink(missing_ok=True)
    file.symlink_to("/run/systemd/resolve/stub-resolv.conf")
    yield
    file.unlink()
    file.write_bytes(former)
    run("systemctl", "stop", "systemd-resolved")


@pytest.fixture
def bridged(resolved: None, short_path: Path) -> Iterator[World]:
    world = World(short_path, network="bridge", dns_port=str(PORT))
    yield world
    world.close()


def rows(world: World) -> dict[str, dict[str, str]]:
    return {row["subject"]: row for row in json.loads(world.banger("doctor", "--json").stdout)}


def addresses(name: str) -> set[str]:
    """What any program on this host gets for a name."""
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(name, 22, type=socket.SOCK_STREAM)}
    except socket.gaierror:
        return set()


def started_by(world: World) -> list[str]:
    """Every process that the daemon has started for a machine, as it is logged; the empty disk, of which each has a copy, is made once for all."""
    return [line for line in world.log().splitlines() if re.search(r"banger\.host\.proc: (run|spawn in .*?): (?!\S*mkfs)", line)]


def test_a_name_is_known_to_every_program_while_its_machine_runs_and_nothing_stays_on_the_link(bridged: World) -> None:
    bridged.ok("vm", "create", "--name", "otter")
    started = started_by(bridged)
    assert len(started) == 1, "\n".join(started)  # the bridge and its routing were made with this machine, and are no processes
    address = str(bridged.row("otter")["address"]).partition("/")[0]
    status = run("resolvectl", "status", "br-banger")
    assert f"127.0.0.1:{PORT}" in status, f"{status}\n{bridged.log()[-3000:]}"
    assert "~vm" in status
    until(lambda: addresses("otter.vm") == {address}, f"the name: {status} {run('resolvectl', 'query', 'otter.vm')}")
    assert socket.gethostbyaddr(address)[0] == "otter.vm"
    assert addresses("badger.vm") == set()
    assert "127.0.0.1:42069" in rows(bridged)["resolver"]["message"]
    assert rows(bridged)["resolver"]["level"] == "PASS"

    bridged.kill_daemon()
    bridged.ok("vm", "list")
    until(lambda: addresses("otter.vm") == {address}, "the name, from the next daemon")
    bridged.ok("daemon", "stop")
    until(lambda: f"127.0.0.1:{PORT}" not in run("resolvectl", "status", "br-banger"), "the end of what the link was told")
    bridged.ok("vm", "stop", "otter")
    assert addresses("otter.vm") == set()


def test_a_resolver_that_does_not_run_keeps_no_machine_from_starting(bridged: World) -> None:
    run("systemctl", "mask", "--runtime", "--now", "systemd-resolved")
    try:
        bridged.ok("vm", "create", "--name", "otter")
        assert bridged.row("otter")["state"] == "running"
        assert rows(bridged)["resolver"]["level"] in ("PASS", "WARN")
    finally:
        run("systemctl", "unmask", "--runtime", "systemd-resolved")
