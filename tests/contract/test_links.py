"""Interfaces: the same tests on pretended ones and on real ones in a network namespace of their own, and what only real ones can show."""

from __future__ import annotations

import fcntl
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger.host.links import Link, Links, RealLinks, Route, parse_routes, unfinished
from banger.model.errors import BadRequest, HostLacks
from banger.testing.links import FakeLinks
from tests.namespace import missing, private_network

needs_root = pytest.mark.skipif(bool(missing()), reason=missing())
BRIDGE, ALIAS = "br-banger", "banger at /somewhere"


@pytest.fixture
def real() -> Iterator[RealLinks]:
    with private_network():
        yield RealLinks()


@pytest.fixture(params=["fake", pytest.param("real", marks=needs_root)])
def links(request: pytest.FixtureRequest) -> Links:
    if request.param == "fake":
        return FakeLinks()
    found: Links = request.getfixturevalue("real")
    return found


def command(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


async def make_bridge(links: Links, alias: str = ALIAS) -> None:
    await links.bridge(BRIDGE, address="172.30.0.1/24", mac="52:42:ac:1e:00:01", alias=alias)


async def make_tap(links: Links, number: int = 2, uid: int = 0) -> None:
    await links.tap(f"bgr-{number}", bridge=BRIDGE, uid=uid, mac=f"52:42:ac:1e:00:{number:02x}", address=f"172.30.0.{number}")


async def test_a_bridge_made_twice_is_there_once(links: Links) -> None:
    assert (await links.find(BRIDGE), links.exists(BRIDGE)) == (None, False)
    await make_bridge(links)
    await make_bridge(links)
    assert await links.find(BRIDGE) == Link(name=BRIDGE, kind="bridge", up=True, alias=ALIAS)
    assert links.mtu(BRIDGE) == 1500
    assert links.names().count(BRIDGE) == 1


async def test_a_bridge_of_somebody_else_is_left_alone(links: Links) -> None:
    await make_bridge(links, alias="another banger")
    with pytest.raises(HostLacks, match="another banger"):
        await make_bridge(links)
    found = await links.find(BRIDGE)
    assert found is not None
    assert found.alias == "another banger"


@needs_root
@pytest.mark.parametrize("then", ["make", "remove"])
async def test_a_bridge_that_was_only_begun_is_in_nobodys_way_and_does_not_stay(real: RealLinks, then: str) -> None:
    command("ip", "link", "add", unfinished(BRIDGE), "type", "bridge")
    if then == "make":
        await make_bridge(real)
        assert await real.find(BRIDGE) == Link(name=BRIDGE, kind="bridge", up=True, alias=ALIAS)
    else:
        await real.remove(BRIDGE)
    assert not real.exists(unfinished(BRIDGE))


async def test_a_tap_is_the_users_up_and_isolated_on_the_bridge(links: Links) -> None:
    await make_bridge(links)
    await make_tap(links, uid=1234)
    await make_tap(links, uid=1234)
    wanted = Link(name="bgr-2", kind="tun", up=True, master=BRIDGE, isolated=True, owner=1234)
    assert await links.find("bgr-2") == wanted


async def test_a_tap_that_is_off_its_bridge_or_another_users_is_put_right(links: Links) -> None:
    await make_bridge(links)
    await make_tap(links, uid=1234)
    await links.remove(BRIDGE)
    left = await links.find("bgr-2")
    assert left is not None
    assert left.master == ""
    await make_bridge(links)
    await make_tap(links, uid=1234)
    assert await links.find("bgr-2") == Link(name="bgr-2", kind="tun", up=True, master=BRIDGE, isolated=True, owner=1234)
    await make_tap(links, uid=1235)
    assert await links.find("bgr-2") == Link(name="bgr-2", kind="tun", up=True, master=BRIDGE, isolated=True, owner=1235)


@needs_root
async def test_a_tap_changes_hands_without_being_made_anew_and_not_while_somebody_has_it_open(real: RealLinks) -> None:
    await make_bridge(real)
    await make_tap(real, uid=1234)
    first = socket.if_nametoindex("bgr-2")
    await make_tap(real, uid=1235)
    assert socket.if_nametoindex("bgr-2") == first
    with Path("/dev/net/tun").open("r+b", buffering=0) as device:  # noqa: ASYNC230 (a device)
        fcntl.ioctl(device, 0x400454CA, struct.pack("16sH22x", b"bgr-2", 0x1002))  # TUNSETIFF, a TAP without packet information
        await make_tap(real, uid=1236)
    assert socket.if_nametoindex("bgr-2") == first
    assert await real.find("bgr-2") == Link(name="bgr-2", kind="tun", up=True, master=BRIDGE, isolated=True, owner=1235)


async def test_a_tap_without_its_bridge_cannot_be(links: Links) -> None:
    with pytest.raises(HostLacks, match="bgr-2"):
        await make_tap(links)


async def test_removing_what_is_missing_is_success(links: Links) -> None:
    await make_bridge(links)
    await make_tap(links)
    for name in ("bgr-2", BRIDGE, BRIDGE, "bgr-2", "bgr-77"):
        await links.remove(name)
    assert not {"bgr-2", BRIDGE} & set(links.names())


@pytest.mark.parametrize("name", ["br-banger-too-long", "", "a b", "a/b"])
async def test_a_name_that_no_interface_can_have_is_refused(links: Links, name: str) -> None:
    with pytest.raises(BadRequest, match="name"):
        await links.bridge(name, address="172.30.0.1/24", mac="52:42:ac:1e:00:01", alias=ALIAS)


async def test_forwarding_is_turned_on(links: Links) -> None:
    await links.forward()
    assert links.forwarding() is True


def test_a_routing_table_is_read() -> None:
    text = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
"""
    assert parse_routes(text) == [
        Route(destination="0.0.0.0/0", link="eth0", metric=100),
        Route(destination="172.17.0.0/16", link="docker0"),
    ]


@needs_root
async def test_real_routes_are_seen(real: RealLinks) -> None:
    assert real.routes() == []
    await make_bridge(real)
    assert real.routes() == [Route(destination="172.30.0.0/24", link=BRIDGE)]
    assert await real.usable() == ""


@needs_root
async def test_a_port_takes_frames_from_its_own_guest_only_and_ipv6_is_off(real: RealLinks) -> None:
    await make_bridge(real)
    await make_tap(real)

    port = command("bridge", "-d", "link", "show", "dev", "bgr-2")
    assert "isolated on" in port
    assert "locked on" in port
    assert "learning off" in port
    assert "52:42:ac:1e:00:02 master br-banger static" in command("bridge", "fdb", "show", "dev", "bgr-2")
    assert "52:42:ac:1e:00:02 PERMANENT" in command("ip", "neigh", "show", "172.30.0.2")
    for name in (BRIDGE, "bgr-2"):
        assert Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").read_text() == "1\n"
        assert "inet6" not in command("ip", "addr", "show", "dev", name)


@needs_root
async def test_what_is_no_tap_is_left_alone(real: RealLinks) -> None:
    await make_bridge(real)
    command("ip", "link", "add", "bgr-2", "type", "veth", "peer", "name", "other")
    with pytest.raises(HostLacks, match="bgr-2 is no TAP"):
        await make_tap(real)
    assert real.exists("bgr-2")
