"""nftables: the same tests on a pretended table and on a real one in a network namespace of its own; other tables' refusals; what cannot be named."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from banger.host.generation import following, generation
from banger.host.nft import Guest, Nft, RealNft
from banger.model.errors import BadRequest
from banger.testing.nft import FakeNft
from tests.namespace import missing, private_network

needs_root = pytest.mark.skipif(bool(missing()), reason=missing())
BRIDGE = "br-banger"
OTTER = Guest(mac="52:42:ac:1e:00:02", address="172.30.0.2", nat=True)
WREN = Guest(mac="52:42:ac:1e:00:03", address="172.30.0.3", nat=False)


@pytest.fixture
def real() -> Iterator[RealNft]:
    with private_network():
        yield RealNft()


@pytest.fixture(params=["fake", pytest.param("real", marks=needs_root)])
def nft(request: pytest.FixtureRequest) -> Nft:
    if request.param == "fake":
        return FakeNft()
    found: Nft = request.getfixturevalue("real")
    return found


def nft_command(text: str) -> str:
    done = subprocess.run(["nft", "-f", "-"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def seen(nft: Nft) -> list[Guest]:
    return sorted(await nft.guests(BRIDGE) or [], key=lambda guest: guest.address)


async def test_a_table_has_just_the_guests_it_was_made_for(nft: Nft) -> None:
    assert await nft.guests(BRIDGE) is None
    await nft.renew(BRIDGE, [OTTER, WREN])
    assert await seen(nft) == [OTTER, WREN]
    await nft.renew(BRIDGE, [WREN])
    assert await seen(nft) == [WREN]
    await nft.renew(BRIDGE, [])
    assert await nft.guests(BRIDGE) == []


async def test_guests_come_change_and_go(nft: Nft) -> None:
    await nft.renew(BRIDGE, [])
    for _ in range(2):
        assert await nft.guest(BRIDGE, OTTER)
        assert await nft.guest(BRIDGE, WREN)
    assert await seen(nft) == [OTTER, WREN]
    inside = Guest(mac=OTTER.mac, address=OTTER.address, nat=False)
    assert await nft.guest(BRIDGE, inside)
    assert await seen(nft) == [inside, WREN]
    for _ in range(2):
        await nft.forget(BRIDGE, OTTER)
    assert await seen(nft) == [WREN]


async def test_without_its_table_a_guest_is_not_let_in(nft: Nft) -> None:
    assert not await nft.guest(BRIDGE, OTTER)
    await nft.forget(BRIDGE, OTTER)
    await nft.remove(BRIDGE)
    assert await nft.guests(BRIDGE) is None


async def test_each_bridge_has_a_table_of_its_own(nft: Nft) -> None:
    await nft.renew(BRIDGE, [OTTER])
    await nft.renew("br-banger-x", [WREN])
    await nft.remove("br-banger-x")
    assert (await seen(nft), await nft.guests("br-banger-x")) == ([OTTER], None)


@pytest.mark.parametrize("bridge", ["docker0", "br-banger; flush ruleset", "br-banger-", "br-banger\n", "banger"])
async def test_a_bridge_that_is_not_ours_by_its_name_is_refused(nft: Nft, bridge: str) -> None:
    with pytest.raises(BadRequest):
        await nft.renew(bridge, [])
    with pytest.raises(BadRequest):
        await nft.guest(bridge, OTTER)


@pytest.mark.parametrize(
    "guest", [Guest(mac="52:42:ac:1e:00:02 } ; flush ruleset", address="172.30.0.2", nat=True), Guest(mac=OTTER.mac, address="x }", nat=True)]
)
async def test_what_is_no_address_is_refused(nft: Nft, guest: Guest) -> None:
    await nft.renew(BRIDGE, [])
    with pytest.raises((BadRequest, ValueError)):
        await nft.guest(BRIDGE, guest)


@needs_root
async def test_a_table_whose_rules_were_flushed_counts_as_not_there(real: RealNft) -> None:
    await real.renew(BRIDGE, [OTTER])
    nft_command("flush chain inet banger forward")
    assert await real.guests(BRIDGE) is None
    assert not await real.guest(BRIDGE, WREN)


@needs_root
async def test_who_is_in_already_costs_no_transaction_and_who_was_put_out_by_another_is_let_in_again(real: RealNft) -> None:
    await real.renew(BRIDGE, [OTTER])
    before = generation()
    assert await real.guest(BRIDGE, OTTER)
    assert await real.refusals(BRIDGE) == []
    await real.forget(BRIDGE, WREN)
    assert generation() == before
    nft_command(f"delete element inet banger guests {{ {OTTER.mac} . {OTTER.address} }}")
    assert await real.guests(BRIDGE) == []
    assert await real.guest(BRIDGE, OTTER)
    assert (await seen(real), await seen(RealNft())) == ([OTTER], [OTTER])


@needs_root
async def test_what_is_remembered_is_what_the_kernel_has(real: RealNft) -> None:
    elsewhere = Guest(mac=OTTER.mac, address="172.30.0.9", nat=False)
    await real.renew(BRIDGE, [OTTER])
    await real.renew("br-banger-x", [WREN])
    for step in (
        real.guest(BRIDGE, WREN),
        real.guest(BRIDGE, elsewhere),
        real.forget(BRIDGE, OTTER),
        real.remove("br-banger-x"),
        real.renew(BRIDGE, [WREN]),
    ):
        await step
        fresh = RealNft()
        assert (await seen(real), await real.guests("br-banger-x")) == (await seen(fresh), await fresh.guests("br-banger-x"))


@needs_root
async def test_a_table_that_is_removed_and_made_by_others_is_looked_at_each_time(real: RealNft) -> None:
    await real.renew(BRIDGE, [OTTER])
    nft_command("delete table inet banger")
    assert not await real.guest(BRIDGE, OTTER)
    await RealNft().renew(BRIDGE, [])
    assert await real.guest(BRIDGE, OTTER)
    assert await seen(real) == [OTTER]


def test_generations_follow_each_other_and_none_is_the_unknown() -> None:
    assert (following(7), following(0xFFFFFFFF)) == (8, 1)


@needs_root
async def test_other_tables_are_left_as_they_are(real: RealNft) -> None:
    nft_command("add table ip filter\nadd chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }\nadd table inet mine\n")
    before = nft_command("list ruleset")
    await real.renew(BRIDGE, [OTTER])
    await real.guest(BRIDGE, WREN)
    await real.remove(BRIDGE)
    assert nft_command("list ruleset") == before


DOCKER = """
add table ip filter
add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }
add chain ip filter DOCKER-USER
add rule ip filter FORWARD jump DOCKER-USER
"""
UFW = """
add table ip filter
add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }
add chain ip filter ufw-user-forward
"""
PLAIN = """
add table inet mine
add chain inet mine passing { type filter hook forward priority 10; policy accept; }
add rule inet mine passing ct state established accept
add rule inet mine passing reject with icmpx type admin-prohibited
"""
FIREWALLD = """
add table inet firewalld
add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; policy accept; }
add rule inet firewalld filter_FORWARD ct state invalid drop
add rule inet firewalld filter_FORWARD reject
"""


@needs_root
@pytest.mark.parametrize(
    ("rules", "chain", "words"),
    [
        (DOCKER, "ip filter FORWARD", "iptables -I DOCKER-USER -i br-banger -j ACCEPT"),
        (UFW, "ip filter FORWARD", "ufw route allow in on br-banger"),
        (PLAIN, "inet mine passing", "nft insert rule inet mine passing iifname br-banger accept"),
        (FIREWALLD, "inet firewalld filter_FORWARD", "--zone=trusted --add-interface=br-banger"),
    ],
    ids=["docker", "ufw", "plain", "firewalld"],
)
async def test_a_foreign_refusal_is_named_with_its_remedy(real: RealNft, rules: str, chain: str, words: str) -> None:
    await real.renew(BRIDGE, [])
    assert await real.refusals(BRIDGE) == []
    nft_command(rules)
    (found,) = await real.refusals(BRIDGE)
    assert found.chain == chain
    assert words in found.fix


@needs_root
async def test_the_remedy_is_one(real: RealNft) -> None:
    nft_command(PLAIN)
    (found,) = await real.refusals(BRIDGE)
    for line in found.fix.split(" && "):
        nft_command(line.removeprefix("nft "))
    assert await real.refusals(BRIDGE) == []
    assert len(await real.refusals("br-banger-x")) == 1


@needs_root
async def test_a_chain_that_lets_all_pass_is_no_trouble(real: RealNft) -> None:
    nft_command(
        "add table ip filter\nadd chain ip filter FORWARD { type filter hook forward priority 0; policy accept; }\n"
        "add rule ip filter FORWARD iifname eth0 drop\nadd table ip6 filter\n"
        "add chain ip6 filter FORWARD { type filter hook forward priority 0; policy drop; }\n"
    )
    assert await real.refusals(BRIDGE) == []
