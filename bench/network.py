"""What a machine's network costs on the way to its start: the bridge with a TAP that is ready, against the same by commands as scripts do it.

Each in a network namespace of its own, so that none changes what the other has seen; root is needed, and `python -m bench` takes the figure in the lab
machine. Both sides connect to a bridge and a table that are there, and at the end a machine has the same: a TAP of its user's, without IPv6, on the
bridge, isolated, locked to the one MAC, with its entries among the bridge's addresses and the host's neighbours, up; and its elements in two sets, in
one transaction.
"""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from banger.backends.network.bridge import Bridge
from banger.bangerd import real_host
from banger.model.ids import VmId
from banger.model.parts import NicPart
from bench.measure import Figure, in_turn, seconds
from tests.namespace import HERE, missing, network_of, private_network

TABLE = """add table inet other
add set inet other guests { type ether_addr . ipv4_addr; }
add set inet other nat { type ipv4_addr; }
"""
#: For a while after a TAP was made the kernel holds its lock on all interfaces (RTNL), which whoever asks for one waits for; ready ones are older.
QUIET_SECONDS = 1.0
RUNS = 15
SETTINGS = {"BANGER_TAP_POOL": str(RUNS + 1)}


def connecting() -> Iterator[Figure]:
    """One figure."""
    assert not missing(), f"the network cannot be measured: {missing()}"
    with elsewhere() as script, private_network(), tempfile.TemporaryDirectory() as folder, asyncio.Runner() as loop:
        bridge = Bridge(real_host({"HOME": folder, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"} | SETTINGS))
        parts = planned(bridge, RUNS + 1)
        loop.run(bridge.settle([], parts))
        waiting = iter(parts)

        async def timed() -> float:
            begin = time.perf_counter()
            await bridge.ensure(next(waiting))
            return time.perf_counter() - begin

        def connect() -> float:
            time.sleep(QUIET_SECONDS)
            return loop.run(timed())

        ours, theirs = in_turn(connect, script, runs=RUNS)
    yield Figure(
        name="network set-up, TAP ready",
        ours=ours * 1e3,
        baseline=theirs * 1e3,
        unit="ms",
        against="ip, bridge and nft, 7 processes",
        bound=0.1,
        runs=RUNS,
    )


def planned(bridge: Bridge, count: int) -> list[NicPart]:
    """The parts of so many machines."""
    found = list[NicPart]()
    for number in range(count):
        taken = frozenset(part.address for part in found)
        found.append(bridge.plan(VmId(f"{number:012x}"), host_access=False, taken=taken))
    return found


@contextmanager
def elsewhere() -> Iterator[Callable[[], float]]:
    """What scripts do for one more machine each time it is called, in a namespace with a bridge and a table."""
    with private_network():
        run("ip", "link", "add", "br-other", "type", "bridge")
        run("ip", "link", "set", "br-other", "up")
        run("nft", "-f", "-", text=TABLE)
        with open(HERE, "rb") as place:
            once = scripted()

            def there() -> float:
                with network_of(place):
                    return seconds(once)

            yield there


def scripted() -> Callable[[], None]:
    """The same as ours for one more machine, in as few commands as do it."""
    numbers = iter(range(2, 200))

    def once() -> None:
        number = next(numbers)
        tap, mac, address = f"tap{number}", f"52:42:00:00:00:{number:02x}", f"172.29.0.{number}"
        run("ip", "tuntap", "add", tap, "mode", "tap", "user", str(100000 + number))
        Path(f"/proc/sys/net/ipv6/conf/{tap}/disable_ipv6").write_text("1")
        run("ip", "link", "set", tap, "master", "br-other")
        run("bridge", "link", "set", "dev", tap, "isolated", "on", "learning", "off", "locked", "on")
        run("bridge", "fdb", "replace", mac, "dev", tap, "master", "static")
        run("ip", "neigh", "replace", address, "lladdr", mac, "dev", "br-other", "nud", "permanent")
        run("ip", "link", "set", tap, "up")
        run("nft", "-f", "-", text=f"add element inet other guests {{ {mac} . {address} }}\nadd element inet other nat {{ {address} }}")

    return once


def run(*command: str, text: str = "") -> None:
    """A command that must succeed."""
    subprocess.run(command, input=text, text=True, capture_output=True, check=True)
