"""The network `bridge` with Firecracker behind its jailer: that this VMM opens its TAP. What the bridge promises is in tests/vm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.internet import FAR, HOST, NEAR, Internet
from tests.vm.test_bridge_network import OTTER, SERVE, Neighbourhood, place
from tests.world import until


@pytest.fixture
def alone() -> Iterator[Neighbourhood]:
    with Internet() as internet:
        yield from place(internet, tap_pool="1")


def test_a_jailed_machine_is_on_the_bridge_and_leaves_it_whole(alone: Neighbourhood) -> None:
    world = alone.world
    world.ok("vm", "list")
    until(lambda: "bgr-2" in alone.host("ip", "link"), "the TAP that is kept ready")
    index = alone.host("cat", "/sys/class/net/bgr-2/ifindex")
    world.ok("vm", "create", "--name", "otter")
    row = world.row("otter")
    assert (row["vmm"], row["network"], row["address"], row["nat"]) == ("firecracker", "bridge", f"{OTTER}/24", True)
    assert alone.host("cat", "/sys/class/net/bgr-2/ifindex") == index
    assert (alone.reaches("otter"), alone.reaches("otter", HOST, 8081)) == (FAR, NEAR)
    alone.inside("otter", f"{SERVE} >/dev/null 2>&1 &")
    until(lambda: alone.greeting(alone.internet.host, OTTER) == b"guest", "otter's server")
    world.ok("vm", "set", "--no-nat", "otter")
    assert (alone.reaches("otter"), alone.reaches("otter", HOST, 8081)) == ("", NEAR)
    world.kill_daemon()
    world.ok("vm", "list")
    assert alone.greeting(alone.internet.host, OTTER) == b"guest"
    world.ok("vm", "delete", "otter")
    assert alone.host("cat", "/sys/class/net/bgr-2/ifindex") == index
    assert OTTER not in alone.rules()
