"""Networks through the privileged helper: the same as with one's own privilege for what is the user's, and nothing at all for what is not."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger.host.calls import methods
from banger.host.links import Link, Links, RealLinks
from banger.host.nft import Guest, Nft, RealNft
from banger.host.remote import Line, remote, request
from banger.model.errors import BadRequest, HostLacks, NotFound
from tests.namespace import missing, private_network
from tests.privileged import OWNER, Privileged, as_user, exchange

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())
LAN = """
ip link add lan type veth peer name far
ip addr add 192.168.77.1/24 dev lan
ip link set lan up
"""
BRIDGE, MAC, GATEWAY = "br-banger-t", "52:42:ac:1e:00:02", "172.30.0.1/24"
GUEST = Guest(mac=MAC, address="172.30.0.2", nat=True)


def perform(lines: str) -> None:
    """Commands, one a line."""
    for line in lines.strip().split("\n"):
        subprocess.run(shlex.split(line), check=True)


class Network:
    """Links and nftables, and whose they are."""

    def __init__(self, links: Links, nft: Nft, root: Path) -> None:
        self.links, self.nft, self.alias = links, nft, f"banger at {root}"

    async def bridge(self, name: str = BRIDGE, *, alias: str = "") -> None:
        await self.links.bridge(name, address=GATEWAY, mac="52:42:ac:1e:00:01", alias=alias or self.alias)

    async def tap(self) -> None:
        await self.links.tap("bgr-t-2", bridge=BRIDGE, uid=0, mac=MAC, address="172.30.0.2")


@pytest.fixture
def away(short_path: Path) -> Iterator[tuple[Privileged, Network]]:
    """Through a helper that serves the user of the tests."""
    with private_network():
        helper = Privileged(short_path, owner=0)
        line = Line(helper.path)
        yield helper, Network(remote(Links, "links", line, here=RealLinks()), remote(Nft, "nft", line), helper.root)
        assert helper.close() == 0


@pytest.fixture(params=["in this process", "through the helper"])
def network(request: pytest.FixtureRequest, short_path: Path) -> Iterator[Network]:
    if request.param == "through the helper":
        yield request.getfixturevalue("away")[1]
        return
    with private_network():
        yield Network(RealLinks(), RealNft(), short_path)


async def test_a_bridge_and_a_tap_are_made_once_and_removed(network: Network) -> None:
    assert await network.links.usable() == ""
    for _ in range(2):
        await network.bridge()
        await network.tap()
    assert await network.links.find(BRIDGE) == Link(name=BRIDGE, kind="bridge", up=True, alias=network.alias)
    assert await network.links.find("bgr-t-2") == Link(name="bgr-t-2", kind="tun", up=True, master=BRIDGE, isolated=True, owner=0)
    for name in ("bgr-t-2", BRIDGE, BRIDGE):
        await network.links.remove(name)
    assert not network.links.exists(BRIDGE)


async def test_guests_come_change_and_go(network: Network) -> None:
    await network.bridge()
    assert await network.nft.usable() == ""
    assert await network.nft.guests(BRIDGE) is None
    assert not await network.nft.guest(BRIDGE, GUEST)
    await network.nft.renew(BRIDGE, [GUEST])
    assert await network.nft.guests(BRIDGE) == [GUEST]
    closed = Guest(mac=MAC, address="172.30.0.2", nat=False)
    assert await network.nft.guest(BRIDGE, closed)
    assert await network.nft.guests(BRIDGE) == [closed]
    await network.nft.forget(BRIDGE, GUEST)
    assert await network.nft.guests(BRIDGE) == []
    assert await network.nft.refusals(BRIDGE) == []
    await network.nft.remove(BRIDGE)
    assert await network.nft.guests(BRIDGE) is None


async def test_forwarding_is_turned_on(network: Network) -> None:
    await network.links.forward()
    assert network.links.forwarding()


async def test_a_full_bridge_fits_into_one_call(network: Network) -> None:
    await network.links.bridge(BRIDGE, address="172.30.0.1/16", mac="52:42:ac:1e:00:01", alias=network.alias)
    guests = [Guest(mac=f"52:42:ac:1e:{at >> 8:02x}:{at & 255:02x}", address=f"172.30.{at >> 8}.{at & 255}", nat=True) for at in range(2, 1022)]
    await network.nft.renew(BRIDGE, guests)
    assert len(await network.nft.guests(BRIDGE) or ()) == len(guests)


async def test_what_is_another_bangers_or_takes_from_the_host_is_refused(away: tuple[Privileged, Network]) -> None:
    network = away[1]
    real = Network(RealLinks(), RealNft(), Path("/root/other"))
    with pytest.raises(BadRequest, match="alias"):
        await network.bridge(alias="banger at /root/other")
    await real.bridge()
    await real.nft.renew(BRIDGE, [GUEST])
    for refused in (network.bridge(), network.tap(), network.links.remove(BRIDGE), network.nft.remove(BRIDGE), network.nft.renew(BRIDGE, [])):
        with pytest.raises(BadRequest, match="not the user's"):
            await refused
    await real.links.remove(BRIDGE)
    with pytest.raises(NotFound):
        await network.tap()
    perform(LAN.replace("192.168.77.1/24", "172.30.0.9/20"))
    with pytest.raises(HostLacks, match="overlaps the host's route"):
        await network.bridge()


async def test_without_a_helper_what_is_missing_is_told_where_it_is_asked_for(short_path: Path) -> None:
    links = remote(Links, "links", Line(short_path / "none"), here=RealLinks())
    assert "banger system install" in await links.usable()
    assert links.exists("lo")
    with pytest.raises(HostLacks, match="not installed"):
        await links.remove("bgr-2")


# -- hostile callers ----------------------------------------------------------------------------------------------------------------------------------

THEIRS = """
ip link add br-banger type bridge
ip link set br-banger alias "something else"
ip link add br-banger-r type bridge
ip link set br-banger-r alias "banger at /root/.local/state/banger"
ip addr add 172.31.0.1/24 dev br-banger-r
ip link set br-banger-r up
ip tuntap add bgr-7 mode tap user 4321
ip tuntap add bgr-8 mode tap
ip link add bgr-9 type veth peer name peer-9
nft add table inet banger
nft add table inet banger-r
nft add set inet banger-r nat { type ipv4_addr; }
nft add table ip filter
nft add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }
"""


def inventory() -> dict[str, str]:
    """All that there is of networks here, and what else the helper's privilege could change."""
    commands = (
        "ip -j link",
        "ip -j tuntap",
        "ip -4 -j addr",
        "ip -4 -j route show table all",
        "ip -4 -j neigh",
        "nft -j list ruleset",
        "losetup --json",
    )
    found = {command: subprocess.run(command.split(), capture_output=True, text=True, check=True).stdout for command in commands}
    for place in ("/proc/sys/net/ipv4/ip_forward", "/proc/mounts"):
        found[place] = Path(place).read_text()
    found["/dev"] = "\n".join(sorted(os.listdir("/dev")))
    return found


#: Those that could be meant, elsewhere.
IMPOSSIBLE = {
    "links: put a TAP on no bridge",
    "links: make a bridge over the host's subnet",
    "links: make a bridge around the host's subnet",
    "nft: make rules for no bridge",
}


def links_call(method: str, **arguments: object) -> bytes:
    return request("links", method, json.dumps(arguments).encode())


def nft_call(method: str, **arguments: object) -> bytes:
    return request("nft", method, json.dumps(arguments).encode())


def hostile_links(alias: str) -> dict[str, bytes]:
    """Calls that the owner has no right to, or that mean nothing."""
    bridge = {"name": "br-banger-t", "address": GATEWAY, "mac": "52:42:ac:1e:00:01", "alias": alias}
    tap = {"name": "bgr-t-2", "bridge": "br-banger-t", "uid": OWNER, "mac": MAC, "address": "172.30.0.2"}
    calls = {
        "remove the uplink": ("remove", {"name": "lan"}),
        "remove the loopback": ("remove", {"name": "lo"}),
        "remove another banger's bridge": ("remove", {"name": "br-banger-r"}),
        "remove a bridge without an owner": ("remove", {"name": "br-banger"}),
        "remove another user's TAP": ("remove", {"name": "bgr-7"}),
        "remove nobody's TAP": ("remove", {"name": "bgr-8"}),
        "remove what is no TAP": ("remove", {"name": "bgr-9"}),
        "remove nothing": ("remove", {"name": ""}),
        "remove by a pattern": ("remove", {"name": "bgr-*"}),
        "remove with a path": ("remove", {"name": "../lan"}),
        "remove two": ("remove", {"name": "bgr-2 lan"}),
        "remove with a NUL": ("remove", {"name": "bgr-2\0"}),
        "remove with a newline": ("remove", {"name": "bgr-2\n"}),
        "remove a long name": ("remove", {"name": "bgr-" + "2" * 20}),
        "remove by digits of another script": ("remove", {"name": "bgr-٢"}),
        "remove with force": ("remove", {"name": "bgr-2", "force": True}),
        "take over another banger's bridge": ("bridge", bridge | {"name": "br-banger-r"}),
        "take over another banger's bridge in its name": ("bridge", bridge | {"name": "br-banger-r", "alias": "banger at /root/.local/state/banger"}),
        "make a bridge of the uplink": ("bridge", bridge | {"name": "lan"}),
        "make a bridge over the host's subnet": ("bridge", bridge | {"address": "192.168.77.254/24"}),
        "make a bridge around the host's subnet": ("bridge", bridge | {"address": "192.168.0.1/16"}),
        "make a bridge with a public subnet": ("bridge", bridge | {"address": "8.8.8.1/24"}),
        "make a bridge with everything": ("bridge", bridge | {"address": "10.0.0.1/0"}),
        "make a bridge with the loopback's subnet": ("bridge", bridge | {"address": "127.0.0.1/16"}),
        "make a bridge with IPv6": ("bridge", bridge | {"address": "fd00::1/64"}),
        "make a bridge with a hardware MAC": ("bridge", bridge | {"mac": "00:1b:21:00:00:01"}),
        "make a bridge with a multicast MAC": ("bridge", bridge | {"mac": "53:42:ac:1e:00:01"}),
        "make a bridge in another's name": ("bridge", bridge | {"alias": "banger at /home/other"}),
        "make a TAP for another user": ("tap", tap | {"uid": 4321}),
        "make a TAP for root": ("tap", tap | {"uid": 0}),
        "make a TAP for a user of text": ("tap", tap | {"uid": "12345"}),
        "take over another user's TAP": ("tap", tap | {"name": "bgr-7"}),
        "put a TAP on the uplink": ("tap", tap | {"bridge": "lan"}),
        "put a TAP on another banger's bridge": ("tap", tap | {"bridge": "br-banger-r", "address": "172.31.0.2"}),
        "put a TAP on no bridge": ("tap", tap),
        "bind a public address": ("tap", tap | {"address": "1.1.1.1"}),
        "call what is not served": ("find", {"name": "lan"}),
        "call what is private": ("_clash", {}),
    }
    return {f"links: {what}": links_call(method, **arguments) for what, (method, arguments) in calls.items()}


def hostile_tables() -> dict[str, bytes]:
    """The same for nftables."""
    guest = {"mac": MAC, "address": "172.30.0.2", "nat": True}
    calls = {
        "remove another banger's table": ("remove", {"bridge": "br-banger-r"}),
        "remove the table of no owner": ("remove", {"bridge": "br-banger"}),
        "remove the host's table": ("remove", {"bridge": "br-filter"}),
        "add rules by the bridge's name": ("renew", {"bridge": 'br-banger"; flush ruleset; #', "guests": []}),
        "add rules by the MAC": ("guest", {"bridge": "br-banger-r", "guest": guest | {"mac": "52:42:ac:1e:00:02 } ; flush ruleset"}}),
        "add rules by the address": ("guest", {"bridge": "br-banger-r", "guest": guest | {"address": "172.31.0.2 }; flush ruleset"}}),
        "translate for the host's subnet": ("renew", {"bridge": "br-banger-r", "guests": [guest | {"address": "192.168.77.1"}]}),
        "make rules for no bridge": ("renew", {"bridge": "br-banger-t", "guests": [guest]}),
        "make rules for too many": ("renew", {"bridge": "br-banger-r", "guests": [guest] * 1500}),
        "a guest with more fields": ("guest", {"bridge": "br-banger-r", "guest": guest | {"rule": "accept"}}),
        "a guest that is none": ("guest", {"bridge": "br-banger-r", "guest": "all"}),
        "a document": ("_do", {"commands": "flush ruleset"}),
    }
    return {f"nft: {what}": nft_call(method, **arguments) for what, (method, arguments) in calls.items()}


def hostile_disks(root: Path) -> dict[str, bytes]:
    """The same for disks; what the paths lead to is made here, all of it by the owner but for `roots`."""
    good = {"name": "banger-0123456789ab", "base": str(root / "base"), "cow": str(root / "cow"), "size": 1 << 20}
    (root / "folder").mkdir()
    for name in ("base", "cow", "roots", "folder/file"):
        (root / name).touch()
    (root / "link").symlink_to(root / "roots")
    (root / "shadow").symlink_to("/etc/shadow")
    (root / "way").symlink_to(root / "folder")
    os.mkfifo(root / "fifo")
    for path in root.rglob("*"):
        if path.name != "roots":
            os.chown(path, OWNER, OWNER, follow_symlinks=False)
    paths = ("link", "shadow", "way/file", "fifo", "folder", "roots", "../state/roots", "folder/../roots", "base/x", "")
    calls = {f"map {path or 'the root'} as {what}": good | {what: f"{root}/{path}".rstrip("/")} for path in paths for what in ("base", "cow")}
    calls |= {f"map {path}": good | {"cow": path} for path in ("/etc/shadow", "/dev/loop0", "/proc/self/mem", "/dev/stdin", "base", "~/base")}
    calls |= {f"map {name!r}": good | {"name": name} for name in ("control", "../control", "banger-x", "vg-root", "banger-0123456789ab-base")}
    calls |= {f"map {size} bytes": good | {"size": size} for size in (-4096, 0, 4097, 1 << 62, "1G", 1.5)}
    makes = {what: request("dm", "make", json.dumps({"mapping": mapping}).encode()) for what, mapping in calls.items()}
    routing = {"link": "br-banger-r", "port": 5300, "domains": ["vm"]}
    routes = {
        "names of another banger's bridge": routing,
        "all names": routing | {"domains": ["."]},
        "a public zone": routing | {"domains": ["example.org"]},
        "names of the uplink": routing | {"link": "lan"},
        "the port of a service": routing | {"port": 53},
    }
    makes |= {f"route {what}": request("resolver", "route", json.dumps({"routing": wanted}).encode()) for what, wanted in routes.items()}
    return makes | {"remove a volume": request("dm", "remove", b'{"name": "vg-root"}')}


def test_no_hostile_call_changes_anything(short_path: Path) -> None:
    short_path.chmod(0o711)
    with private_network():
        perform(LAN.strip() + THEIRS)
        helper = Privileged(short_path)
        calls = hostile_links(f"banger at {helper.root}") | hostile_tables() | hostile_disks(helper.root)
        assert len(calls) >= 90
        before = inventory()
        said = {what: as_user(OWNER, lambda data=data: exchange(helper.path, data)) for what, data in calls.items()}  # type: ignore[misc]
        assert {what: answer for what, answer in said.items() if b'"failure":{' not in answer} == {}
        assert {what: answer for what, answer in said.items() if b'"code":"internal"' in answer} == {}
        assert {what for what, answer in said.items() if b'"code":"bad-request"' not in answer} == IMPOSSIBLE
        assert inventory() == before
        assert {name for name in methods(Links)} >= {"bridge", "tap", "remove"}
        assert helper.close() == 0
