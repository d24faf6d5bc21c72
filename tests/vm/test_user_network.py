"""Networks, seen from inside a guest: a host and an internet in network namespaces, real machines. Each VMM has to pass."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.internet import FAR, HOST, LOOPBACK, NAME, NEAR, WEB, Internet, missing
from tests.world import World

pytestmark = [pytest.mark.skipif(bool(missing()), reason=missing()), pytest.mark.conformance]

GATEWAY = "10.0.2.2"


@pytest.fixture(params=["203.0.113.53", "127.0.0.53"], ids=["a resolver on the internet", "a resolver on the host's loopback"])
def internet(request: pytest.FixtureRequest) -> Iterator[Internet]:
    with Internet(nameserver=request.param) as made:
        yield made


@pytest.fixture
def placed(internet: Internet, short_path: Path) -> Iterator[World]:
    """A banger on that host."""
    made = World(short_path, internet.prefix, network="user")
    yield made
    made.close()


def page(address: str, port: int) -> str:
    """A command that prints the last line of a page, or fails within 5 s."""
    return f"timeout 5 bash -c 'exec 3<>/dev/tcp/{address}/{port}; printf \"GET / HTTP/1.0\\r\\n\\r\\n\" >&3; tail -n 1 <&3'"


def test_a_guest_reaches_the_internet_and_names_but_not_the_hosts_loopback(placed: World) -> None:
    placed.ok("vm", "create", "--name", "otter")

    def inside(command: str) -> tuple[int, str]:
        done = placed.banger("vm", "exec", "otter", "--", "sh", "-c", command)
        return done.returncode, done.stdout.decode().strip()

    assert inside(page(WEB, 8000)) == (0, FAR)
    assert inside(page(NAME, 8000)) == (0, FAR)
    assert inside(f"getent ahostsv4 {NAME}")[1].startswith(WEB)
    assert inside(page(HOST, 8081)) == (0, NEAR)
    status, text = inside(page(GATEWAY, 8080))
    assert status != 0
    assert LOOPBACK not in text


def test_with_access_the_gateway_is_the_hosts_loopback(placed: World) -> None:
    assert placed.ok("vm", "run", "--rm", "--host-access", "--", "sh", "-c", page(GATEWAY, 8080)).strip() == LOOPBACK


def test_a_guest_without_a_network_has_no_network_device(world: World) -> None:
    assert world.ok("vm", "run", "--rm", "--network", "none", "--", "ls", "/sys/class/net").split() == ["lo"]
