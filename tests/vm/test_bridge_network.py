"""The bridge, seen from guests, from the host and from an internet: namespaces for host and internet, real links and rules, real machines.

Machines are made once for all tests that leave them as they were.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.internet import FAR, HOST, LOOPBACK, NAME, NEAR, WEB, Internet, ip, missing
from tests.world import World, until

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

GATEWAY, OTTER, WREN = "172.30.0.1", "172.30.0.2", "172.30.0.3"
OTTER_MAC, WREN_MAC = "52:42:ac:1e:00:02", "52:42:ac:1e:00:03"
#: A server that says a word to whoever connects.
SERVE = "perl -MIO::Socket::INET -e '$s=IO::Socket::INET->new(LocalPort=>9000,Listen=>5,ReuseAddr=>1);while($c=$s->accept){print $c qq(guest\\n)}'"


class Neighbourhood:
    """A host, an internet, and a banger on the host."""

    def __init__(self, internet: Internet, world: World) -> None:
        self.internet, self.world = internet, world

    def host(self, *words: str) -> str:
        """A command on the host."""
        return subprocess.run([*self.internet.prefix, *words], capture_output=True, text=True, timeout=20, check=True).stdout

    def inventory(self) -> tuple[str, ...]:
        """Everything that a network can leave behind."""
        return tuple(self.host(*words.split()) for words in ("ip -brief link", "ip -brief address", "ip route", "nft list ruleset"))

    def inside(self, name: str, command: str) -> tuple[int, str]:
        """A command in a guest."""
        done = self.world.banger("vm", "exec", name, "--", "sh", "-c", command)
        return done.returncode, done.stdout.decode().strip()

    def reaches(self, name: str, address: str = WEB, port: int = 8000) -> str:
        """What a guest reads from a web server; empty when it cannot."""
        return self.inside(name, f"timeout 2 bash -c 'exec 3<>/dev/tcp/{address}/{port}; printf \"GET / HTTP/1.0\\r\\n\\r\\n\" >&3; tail -n 1 <&3'")[1]

    def greeting(self, namespace: str, address: str) -> bytes:
        """What a guest's own server says to a caller in a namespace; empty when it cannot be reached."""
        script = "import socket, sys\nwith socket.create_connection((sys.argv[1], 9000), 2) as s: print(s.recv(9).decode())"
        command = ["ip", "netns", "exec", namespace, sys.executable, "-c", script, address]
        return subprocess.run(command, capture_output=True, timeout=20, check=False).stdout.strip()

    def rules(self) -> str:
        """Our table, empty if there is none."""
        return self.host("nft", "list", "ruleset")


def settle(neighbourhood: Neighbourhood) -> tuple[str, ...]:
    """The inventory once the host's own link is up, which takes a moment of the kernel's."""
    until(lambda: "tentative" not in neighbourhood.host("ip", "address") and "LOWERLAYERDOWN" not in neighbourhood.host("ip", "link"), "the link")
    return neighbourhood.inventory()


def place(internet: Internet, **settings: str) -> Iterator[Neighbourhood]:
    """A banger on that host; at its end the host is as it was."""
    folder = Path(tempfile.mkdtemp(prefix="banger-test-", dir="/tmp"))
    world = World(folder, internet.prefix, **({"network": "bridge"} | settings))
    neighbourhood = Neighbourhood(internet, world)
    before = settle(neighbourhood)
    try:
        yield neighbourhood
    finally:
        world.close()
        shutil.rmtree(folder)
    if settings.get("tap_pool", "0") == "0":
        assert [line for line in neighbourhood.inventory() if line not in before] == []


@pytest.fixture(scope="module")
def two() -> Iterator[Neighbourhood]:
    """With two machines: otter has NAT, as is usual; wren has none."""
    with Internet() as internet:
        ip("-n", internet.net, "route", "add", "172.30.0.0/24", "via", HOST)
        for made in place(internet):
            for words in (("--name", "otter"), ("--name", "wren", "--no-nat")):
                made.world.ok("vm", "create", *words)
                made.inside(words[1], f"{SERVE} >/dev/null 2>&1 &")
            yield made


@pytest.fixture
def alone() -> Iterator[Neighbourhood]:
    with Internet() as internet:
        yield from place(internet)


def test_a_guest_with_nat_reaches_the_internet_and_names_and_one_without_does_not(two: Neighbourhood) -> None:
    assert (two.reaches("otter"), two.reaches("otter", NAME), two.reaches("wren")) == (FAR, FAR, "")
    rows = {str(row["name"]): (row["address"], row["nat"], row["network"]) for row in two.world.rows()}
    assert rows == {"otter": (f"{OTTER}/24", True, "bridge"), "wren": (f"{WREN}/24", False, "bridge")}


def test_nat_is_switched_while_the_guest_runs(two: Neighbourhood) -> None:
    boot = two.world.row("wren")["boot_id"]
    two.world.ok("vm", "set", "--nat", "wren")
    assert two.reaches("wren") == FAR
    two.world.ok("vm", "set", "--no-nat", "wren")
    assert two.reaches("wren") == ""
    assert two.world.row("wren")["boot_id"] == boot


def test_the_host_reaches_guests_and_nobody_beyond_it_does(two: Neighbourhood) -> None:
    until(lambda: two.greeting(two.internet.host, OTTER) == b"guest", "otter's server")
    assert two.greeting(two.internet.host, WREN) == b"guest"
    assert two.greeting(two.internet.net, OTTER) == b""


def test_guests_do_not_reach_each_other_also_not_by_way_of_the_host(two: Neighbourhood) -> None:
    call = f"timeout 2 bash -c 'head -c 5 </dev/tcp/{WREN}/9000'"
    assert two.inside("otter", call)[1] == ""
    status, _ = two.inside("otter", f"ip route add {WREN}/32 via {GATEWAY}")
    assert status == 0
    assert two.inside("otter", call)[1] == ""
    two.inside("otter", f"ip route del {WREN}/32 via {GATEWAY}")


def become(neighbourhood: Neighbourhood, name: str, *, address: str, mac: str) -> None:
    """A guest gives its card another address and another MAC."""
    card = f"ip link set eth0 down; ip addr flush dev eth0; ip link set eth0 address {mac}; ip link set eth0 up"
    status, said = neighbourhood.inside(name, f"{card}; ip addr add {address}/24 dev eth0 && ip route replace default via {GATEWAY} dev eth0 2>&1")
    assert status == 0, said


@pytest.mark.parametrize(("address", "mac"), [(OTTER, WREN_MAC), (WREN, OTTER_MAC), (OTTER, OTTER_MAC)], ids=["address", "mac", "both"])
def test_a_guest_that_pretends_to_be_another_is_not_heard(two: Neighbourhood, address: str, mac: str) -> None:
    become(two, "wren", address=address, mac=mac)
    assert two.reaches("wren", HOST, 8081) == ""
    assert two.greeting(two.internet.host, OTTER) == b"guest"
    become(two, "wren", address=WREN, mac=WREN_MAC)
    assert two.reaches("wren", HOST, 8081) == NEAR


def test_the_hosts_loopback_is_out_of_reach(two: Neighbourhood) -> None:
    assert two.reaches("otter", GATEWAY, 8081) == ""  # that server listens at another address
    assert LOOPBACK not in two.reaches("otter", GATEWAY, 8080)
    two.inside("otter", f"ip route add 127.0.0.53/32 via {GATEWAY} dev eth0")
    assert LOOPBACK not in two.reaches("otter", "127.0.0.53", 8080)


def test_what_others_remove_comes_back_with_the_next_change(two: Neighbourhood) -> None:
    two.host("ip", "link", "del", "br-banger")
    two.host("nft", "delete", "table", "inet", "banger")
    two.world.ok("vm", "set", "--no-nat", "wren")
    until(lambda: two.greeting(two.internet.host, OTTER) == b"guest", "otter on the new bridge")
    assert (two.reaches("otter"), two.reaches("wren")) == (FAR, "")


def test_a_killed_daemons_successor_puts_everything_right(two: Neighbourhood) -> None:
    two.world.kill_daemon()
    two.host("nft", "delete", "table", "inet", "banger")
    two.host("ip", "tuntap", "add", "bgr-77", "mode", "tap")
    two.world.ok("vm", "list")
    assert "bgr-77" not in two.host("ip", "link")
    assert (two.reaches("otter"), two.reaches("wren")) == (FAR, "")
    assert two.world.ok("vm", "exec", "otter", "--", "echo", "here") == "here\n"


def test_making_a_machine_starts_its_vmm_and_no_other_process(two: Neighbourhood) -> None:
    at = len(two.world.log())
    two.world.ok("vm", "create", "--name", "lynx")
    commands = [line for line in two.world.log()[at:].splitlines() if " INFO banger.host.proc: " in line]
    assert len(commands) == 1
    assert "spawn in" in commands[0]
    assert "ifname=bgr-4" in commands[0]
    two.world.ok("vm", "delete", "lynx")
    assert "bgr-4" not in two.host("ip", "link")
    assert "172.30.0.4" not in two.rules()


def test_a_foreign_firewall_is_named_with_the_rule_to_add(two: Neighbourhood) -> None:
    two.host("nft", "add table inet mine; add chain inet mine passing { type filter hook forward priority 5; policy drop; }")
    try:
        (row,) = [row for row in json.loads(two.world.banger("doctor", "--json").stdout) if "inet mine passing" in row["message"]]
        assert (row["level"], row["subject"]) == ("WARN", "network bridge")
        assert two.reaches("otter") == ""
        for command in row["fix"].split(" && "):
            two.host(*command.split())
        assert two.reaches("otter") == FAR
        assert "inet mine passing" not in two.world.banger("doctor", "--json").stdout.decode()
    finally:
        two.host("nft", "delete", "table", "inet", "mine")


def test_a_clash_with_the_hosts_routes_is_named_and_leaves_nothing(alone: Neighbourhood) -> None:
    alone.host("ip", "route", "add", "172.16.0.0/12", "via", "198.51.100.1")
    done = alone.world.banger("vm", "create")
    assert done.returncode == 123, done.stderr.decode()
    assert b"172.30.0.0/24 overlaps the host's route to 172.16.0.0/12" in done.stderr
    assert "br-banger" not in alone.host("ip", "link")
    alone.host("ip", "route", "del", "172.16.0.0/12")


def test_a_daemon_killed_while_a_machine_is_made_leaves_nothing_of_it(alone: Neighbourhood) -> None:
    creating = alone.world.begin("vm", "create", "--name", "otter")
    until(lambda: "52:42:ac:1e:00:02" in alone.rules(), "the network")
    alone.world.kill_daemon()
    creating.communicate(timeout=60)
    assert json.loads(alone.world.ok("vm", "list", "--json")) == []
    assert not {"br-banger", "bgr-2"} & set(alone.host("ip", "-o", "link").replace(":", "").split())
    assert alone.rules() == ""


@pytest.fixture
def pooled() -> Iterator[Neighbourhood]:
    with Internet() as internet:
        yield from place(internet, tap_pool="2")


def test_taps_are_ready_before_machines_and_outlive_the_daemon(pooled: Neighbourhood) -> None:
    pooled.world.ok("vm", "list")
    until(lambda: "bgr-3" in pooled.host("ip", "link"), "two TAPs")
    first = pooled.host("cat", "/sys/class/net/bgr-2/ifindex")
    os.kill(pooled.world.daemon_pid(), signal.SIGTERM)
    pooled.world.ok("vm", "create", "--name", "otter")
    assert pooled.host("cat", "/sys/class/net/bgr-2/ifindex") == first
    assert pooled.reaches("otter") == FAR
    until(lambda: "bgr-4" in pooled.host("ip", "link"), "the next TAP")
    pooled.world.ok("vm", "delete", "otter")
    until(lambda: "bgr-4" not in pooled.host("ip", "link"), "two TAPs again")
