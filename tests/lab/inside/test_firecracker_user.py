"""Firecracker with the network `user`: how its process is confined, what ends with what, and all of it as an ordinary user.

What the guest reaches and what it does not is in tests/vm/test_user_network.py.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.internet import FAR, HOST, LOOPBACK, NEAR, WEB, Internet
from tests.vm.test_user_network import page
from tests.world import KERNEL, SHELF, SLIM, World, alive, until


@pytest.fixture
def internet() -> Iterator[Internet]:
    with Internet() as made:
        yield made


@pytest.fixture
def placed(internet: Internet, short_path: Path) -> Iterator[World]:
    """A banger on that host, with its own defaults for VMM and network."""
    made = World(short_path, internet.prefix)
    for name in ("BANGER_VMM", "BANGER_NETWORK"):
        made.env.pop(name, None)
    yield made
    made.close()


def status(pid: int) -> dict[str, str]:
    """What /proc says of it."""
    return dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())


def confined(pid: int) -> None:
    """AssertionError unless the process has no capability and no way to one, in a user namespace that is not ours."""
    found = status(pid)
    assert [int(found[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [0, 0, 0, 0]
    assert found["NoNewPrivs"] == "1"
    assert found["Umask"] == "0077"
    assert found["Seccomp"] == "2"
    for kind in ("user", "net"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")


def running(world: World, word: str) -> list[int]:
    """The world's processes with that word."""
    return [pid for pid, words in world.processes().items() if word in words]


def test_the_default_network_is_firecrackers_too_behind_its_jailer(placed: World) -> None:
    placed.ok("vm", "create", "--name", "otter")
    row = placed.row("otter")
    assert (row["vmm"], row["network"], row["address"]) == ("firecracker", "user", "10.0.2.15/24")
    pid = int(str(row["pid"]))
    assert int(status(pid)["Uid"].split()[0]) > 0
    assert os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")
    assert placed.ok("vm", "exec", "otter", "--", "sh", "-c", page(WEB, 8000)).strip() == FAR


def test_without_the_jailer_its_process_is_confined(placed: World) -> None:
    placed.env["BANGER_JAILER"] = "no"
    placed.ok("vm", "create", "--name", "otter")
    confined(int(str(placed.row("otter")["pid"])))
    assert placed.ok("vm", "exec", "otter", "--", "sh", "-c", page(WEB, 8000)).strip() == FAR


def test_much_data_comes_through_whole_both_ways(placed: World, internet: Internet) -> None:
    """Firecracker's card hands over packets larger than the wire's, with their checksums still to be made."""
    script = (
        "import socket, sys; s = socket.create_server(('203.0.113.10', 9000)); print('ready', flush=True); c, _ = s.accept()\n"
        "while data := c.recv(65536): c.sendall(data)"
    )
    echo = ["ip", "netns", "exec", internet.net, sys.executable, "-c", script]
    command = (
        "head -c 4000000 /dev/urandom > /tmp/out; exec 3<>/dev/tcp/203.0.113.10/9000; head -c 4000000 <&3 > /tmp/in & "
        "cat /tmp/out >&3; wait; cmp /tmp/out /tmp/in && echo the same"
    )
    with subprocess.Popen(echo, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            assert placed.ok("vm", "run", "--rm", "--", "timeout", "60", "bash", "-c", command).strip() == "the same"
        finally:
            server.kill()


def test_the_network_ends_with_a_killed_machine_even_without_a_daemon(placed: World) -> None:
    placed.ok("vm", "create", "--name", "otter")
    pid = int(str(placed.row("otter")["pid"]))
    (sieve,) = running(placed, "sieve.py")
    placed.kill_daemon()
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(sieve), "the end of the sieve")
    placed.ok("vm", "start", "otter")
    assert placed.ok("vm", "exec", "otter", "--", "sh", "-c", page(WEB, 8000)).strip() == FAR


def test_another_daemon_takes_machine_and_network_over(placed: World) -> None:
    placed.ok("vm", "create", "--name", "otter")
    before = placed.row("otter")
    (sieve,) = running(placed, "sieve.py")
    placed.kill_daemon()
    assert placed.ok("vm", "exec", "otter", "--", "sh", "-c", page(HOST, 8081)).strip() == NEAR
    assert placed.row("otter")["pid"] == before["pid"]
    assert running(placed, "sieve.py") == [sieve]
    placed.ok("vm", "stop", "otter")
    assert running(placed, "sieve.py") == []


def test_with_access_the_gateway_leads_to_the_hosts_loopback_and_only_then(placed: World) -> None:
    assert placed.ok("vm", "run", "--rm", "--host-access", "--", "sh", "-c", page("10.0.2.2", 8080)).strip() == LOOPBACK
    assert placed.banger("vm", "run", "--rm", "--", "sh", "-c", page("10.0.2.2", 8080)).returncode != 0


@pytest.fixture
def ordinary(internet: Internet, short_path: Path) -> Iterator[World]:
    """A banger of an ordinary user's who may open /dev/kvm by a group, as on any distribution; Python and images are where that user may read them."""
    subprocess.run(["useradd", "--uid", "4321", "--no-create-home", "--groups", "kvm", "weasel"], check=True)
    try:
        shelves = {kind: short_path / kind for kind in ("images", "kernels")}
        for kind, name in (("images", SLIM), ("kernels", KERNEL)):
            shelves[kind].mkdir()
            subprocess.run(["cp", "-a", "--sparse=always", SHELF / kind / name, shelves[kind]], check=True)
        prefix = ("setpriv", "--reuid=4321", "--regid=4321", "--init-groups", "--inh-caps=-all", "env", "-C", "/")
        made = World(short_path, (*internet.prefix, *prefix), images_dir=str(shelves["images"]), kernels_dir=str(shelves["kernels"]))
        for name in ("BANGER_VMM", "BANGER_NETWORK"):
            made.env.pop(name, None)
        made.env |= {"HOME": str(short_path), "USER": "weasel"}
        for place in (short_path, *short_path.rglob("*")):
            os.chown(place, 4321, 4321, follow_symlinks=False)
        yield made
        made.ok("vm", "delete", "otter")
        made.ok("daemon", "stop")
        until(lambda: not made.processes(), "the daemon's end")
        assert made.machine_files() == []
    finally:
        subprocess.run(["pkill", "-KILL", "-u", "4321"], check=False)  # whatever a failure has left: nobody else is this user
        until(lambda: subprocess.run(["pgrep", "-u", "4321"], check=False, capture_output=True).returncode == 1, "the end of the user's processes")
        subprocess.run(["userdel", "weasel"], check=True)


def test_an_ordinary_user_has_all_of_it(ordinary: World) -> None:
    ordinary.ok("vm", "create", "--name", "otter")
    row = json.loads(ordinary.ok("vm", "show", "otter", "--json"))
    assert (row["vmm"], row["network"]) == ("firecracker", "user")
    pid = int(str(row["pid"]))
    confined(pid)
    assert set(status(pid)["Uid"].split()) == {"4321"}
    assert ordinary.ok("vm", "exec", "otter", "--", "sh", "-c", page(WEB, 8000)).strip() == FAR
    assert ordinary.banger("vm", "exec", "otter", "--", "sh", "-c", page("127.0.0.1", 8080)).returncode != 0
    ordinary.ok("vm", "stop", "otter")
