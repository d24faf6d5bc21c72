"""The real daemon answers for names, in a network namespace of the test's own: over datagrams and streams, beside whoever has the port, and as set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.asker import asked
from tests.cli.command import Banger
from tests.cli.test_cli_daemon import ended, pid_of

PORT = 42069
HOLD = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('127.0.0.1', {})); print(flush=True); input()"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="root is needed for network namespaces of one's own")


@pytest.fixture
def namespace() -> Iterator[tuple[str, ...]]:
    """What begins a command that is to run in a network namespace of its own; nothing is there but the loopback."""
    name = f"bt{os.getpid()}d"
    subprocess.run(["ip", "netns", "add", name], check=True, timeout=20)
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True, timeout=20)
    yield ("ip", "netns", "exec", name)
    subprocess.run(["ip", "netns", "del", name], check=True, timeout=20)


@pytest.fixture
def there(alone: Banger, namespace: tuple[str, ...]) -> Iterator[Banger]:
    """`banger` with no daemon yet; what it starts is in the namespace."""
    alone.command = [*namespace, *alone.command]
    yield alone
    pid = pid_of(alone)
    alone("daemon", "stop")
    assert ended(pid)


def rows(banger: Banger) -> dict[str, dict[str, str]]:
    return {row["subject"]: row for row in json.loads(banger("doctor", "--json").stdout)}


def names(banger: Banger) -> str:
    return str(json.loads(banger("daemon", "status", "--json").stdout)["names"])


def test_the_daemon_answers_over_datagrams_and_streams(there: Banger, namespace: tuple[str, ...]) -> None:
    assert "will be answered" in rows(there)["names"]["message"]
    assert names(there) == f"NAME.vm at 127.0.0.1:{PORT}"
    assert "is answered" in rows(there)["names"]["message"]
    for transport in ("udp", "tcp"):
        assert asked(namespace, PORT, "otter.vm", transport=transport) == ["NXDOMAIN"]
        assert asked(namespace, PORT, "vm", "NS", transport=transport) == ["NOERROR", "localhost."]
        assert asked(namespace, PORT, "example.org", transport=transport) == ["REFUSED"]


def test_the_library_of_names_is_there_before_the_first_query(there: Banger, namespace: tuple[str, ...]) -> None:
    pid = pid_of(there)

    def memory() -> int:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * 4096

    before = memory()
    asked(namespace, PORT, "otter.vm")
    assert memory() - before < 1 << 20
    code = "import sys, banger.bangerd, banger.daemon.names; raise SystemExit('dns' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0  # a daemon without names does not need it


def test_a_daemon_starts_where_another_has_the_port_and_says_so(there: Banger, namespace: tuple[str, ...]) -> None:
    with subprocess.Popen([*namespace, sys.executable, "-c", HOLD.format(PORT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        before = rows(there)["names"]
        assert "taken by another process" in names(there)
        for row in (before, rows(there)["names"]):
            assert (row["level"], "taken by another process" in row["message"], "dns_port" in row["fix"]) == ("WARN", True, True)
        assert there("vm", "list").returncode == 0
        holder.communicate(b"\n", timeout=20)


@pytest.mark.parametrize(("port", "says"), [("0", "off"), ("5399", "127.0.0.1:5399")])
def test_the_port_is_as_it_is_set(there: Banger, namespace: tuple[str, ...], port: str, says: str) -> None:
    there.environ["BANGER_DNS_PORT"] = port
    assert says in names(there)
    assert says in rows(there)["names"]["message"]
    if port != "0":
        assert asked(namespace, int(port), "otter.vm") == ["NXDOMAIN"]


def test_the_port_is_free_again_once_the_daemon_has_ended(there: Banger, namespace: tuple[str, ...]) -> None:
    first = pid_of(there)
    there("daemon", "stop")
    assert ended(first)
    assert "is answered" not in rows(there)["names"]["message"]
    assert names(there) == f"NAME.vm at 127.0.0.1:{PORT}"
