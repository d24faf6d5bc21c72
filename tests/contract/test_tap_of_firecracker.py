"""The real Firecracker, with its jailer and without, opens the TAP that a network `user` has made. No machine is started, so no KVM is needed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from pathlib import Path

import pytest

from banger.backends.jailing import argv
from banger.backends.network.user import TAP
from banger.host import fcapi, unshare
from banger.host.proc import Life, ProcessId, RealProc
from banger.host.stream import RealDialer
from banger.model.errors import VmmFailed
from banger.model.ids import VmId
from tests.contract.test_jail import published
from tests.contract.test_user_network import Wire
from tests.internet import Internet, missing
from tests.world import until

VM = VmId("0123456789ab")
USER = 1879048321
pytestmark = pytest.mark.skipif(bool(missing()) or not shutil.which("passt"), reason=missing() or "passt (package passt)")


def answers(path: Path) -> bool:
    """Whether somebody listens."""
    with socket.socket(socket.AF_UNIX) as made:
        return made.connect_ex(str(path)) == 0


async def start(proc: RealProc, root: Path, network: int, *, jailed: bool) -> tuple[ProcessId, Path]:
    """A Firecracker that waits for a configuration, and where its API is."""
    words = [str(published("firecracker")), "--id", f"banger-{VM}", "--api-sock", "api.sock"]
    if jailed:
        (root / "jail").mkdir()
        command = argv(words, jailer=str(published("jailer")), uid=USER, base=root / "jail", netns=f"/proc/{network}/ns/net")
        place = root / "jail" / "firecracker" / f"banger-{VM}" / "root" / "api.sock"
    else:
        command, place = [*unshare.beside(network), *words], root / "api.sock"
    made = await proc.spawn(command, cwd=root, output=root / "said")
    until(lambda: answers(place), "Firecracker's API", 10)
    return made, place


@pytest.mark.parametrize("jailed", [True, False], ids=["behind the jailer", "as an ordinary process"])
async def test_firecracker_opens_it_and_all_ends_with_firecracker(short_path: Path, jailed: bool) -> None:
    wire, proc = Wire(short_path, sockets=False), RealProc(os.environ["PATH"])
    with Internet() as internet:
        wire.proc.prefix = internet.prefix
        part = wire.plan()
        await wire.user.ensure(part)
        network = wire.proc.identify(wire.user.inspect(part).pid)
        assert network is not None
        made, api = await start(proc, short_path, network.pid, jailed=jailed)
        try:
            card = fcapi.NetworkInterface(iface_id="eth0", guest_mac=part.mac, host_dev_name=TAP)
            await fcapi.send(RealDialer(), api, "PUT", "/network-interfaces/eth0", card, timeout=5)
            other = fcapi.NetworkInterface(iface_id="eth1", guest_mac=part.mac, host_dev_name="tap1")
            with pytest.raises(VmmFailed, match="refused PUT"):
                await fcapi.send(RealDialer(), api, "PUT", "/network-interfaces/eth1", other, timeout=5)
        finally:
            proc.signal(made, signal.SIGKILL)
        until(lambda: wire.proc.look(network) is Life.GONE, "the end of the network", 10)
        await wire.close()
