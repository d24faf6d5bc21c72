"""Firecracker's command and configuration, item by item, and what its version may be."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from banger.backends.vmm.firecracker import Firecracker, argv, configuration
from banger.host.facts import Kvm
from banger.host.unshare import beside, stripped
from banger.model.config import Settings
from banger.model.errors import BadRequest, HostLacks, VmmFailed
from banger.model.finding import Level
from banger.model.ids import VmId
from banger.model.parts import DiskPart, MachinePart, NicPart
from banger.model.paths import Paths
from banger.testing import FakeHost

VM = VmId("0123456789ab")
PATHS = Paths(state=Path("/s"), run=Path("/r"), cache=Path("/c"), config=Path("/k"), images=Path("/s/images"), kernels=Path("/s/kernels"))
DISK = DiskPart(backend="overlay", vm=VM, base="/images/rootfs.ext4", size=8 << 30)
NIC = NicPart(backend="none", vm=VM, mac="52:42:01:23:45:67")
PART = MachinePart(
    backend="firecracker",
    vm=VM,
    vcpu=2,
    memory_mib=512,
    accelerator="kvm",
    reason="",
    kernel="/kernels/vmlinux",
    initramfs="/cache/a.cpio",
    disk=DISK,
    nic=NIC,
)


def able(tmp_path: Path, settings: Settings | None = None) -> FakeHost:
    fake = FakeHost(tmp_path, settings)
    fake.facts.has_kvm = Kvm(True, "/dev/kvm is usable")
    fake.proc.programs["firecracker"] = lambda process: None
    fake.proc.answers["firecracker"] = "Firecracker v1.12.1\n"
    return fake


def test_the_command_names_everything_relative_to_its_folder() -> None:
    words = ["firecracker", "--id", "banger-0123456789ab", "--api-sock", "api.sock", "--config-file", "machine.json", "--level", "Warning"]
    assert argv(PART, "firecracker") == words


def test_the_configuration_is_firecrackers_own_words() -> None:
    found = json.loads(msgspec.json.encode(configuration(PART, PATHS)))
    arguments = found["boot-source"].pop("boot_args").split()
    assert found == {
        "boot-source": {"kernel_image_path": "/kernels/vmlinux", "initrd_path": "/cache/a.cpio"},
        "machine-config": {"vcpu_count": 2, "mem_size_mib": 512},
        "drives": [
            {"drive_id": "lower", "path_on_host": "/images/rootfs.ext4", "is_read_only": True, "is_root_device": False, "cache_type": "Writeback"},
            {
                "drive_id": "upper",
                "path_on_host": "/s/vms/0123456789ab/overlay.ext4",
                "is_read_only": False,
                "is_root_device": False,
                "cache_type": "Writeback",
            },
        ],
        "vsock": {"guest_cid": 3, "uds_path": "vsock.sock"},
        "metrics": {"metrics_path": "metrics.pipe"},
        "network-interfaces": [],
        "entropy": {},
    }
    assert {"console=ttyS0", "reboot=k", "banger.lower=vda", "banger.upper=vdb", "banger.vsock=1024", "banger.off=reset"} <= set(arguments)


def test_on_the_bridge_it_opens_the_tap_that_is_there() -> None:
    part = msgspec.structs.replace(PART, nic=msgspec.structs.replace(NIC, backend="bridge", tap="bgr-2"))
    found = json.loads(msgspec.json.encode(configuration(part, PATHS)))
    assert found["network-interfaces"] == [{"iface_id": "eth0", "guest_mac": NIC.mac, "host_dev_name": "bgr-2"}]


@pytest.mark.parametrize(("said", "lack"), [("Firecracker v1.9.9\n", "1.9.9 is too old"), ("Firecracker v1.10.0\n", ""), ("Firecracker v2.0.0\n", "")])
def test_the_version_is_asked_once_and_an_old_one_will_not_do(tmp_path: Path, said: str, lack: str) -> None:
    fake = able(tmp_path)
    fake.proc.answers["firecracker"] = said
    backend = Firecracker(fake.host)
    for _ in range(3):
        assert lack in backend.usable()
    assert len(fake.proc.log) == 1
    if lack:
        with pytest.raises(HostLacks, match=r"1\.9\.9 is too old"):
            backend.binary()


def test_a_command_that_does_not_say_its_version_is_not_started(tmp_path: Path) -> None:
    fake = able(tmp_path)
    fake.proc.answers["firecracker"] = "usage: firecracker"
    with pytest.raises(HostLacks, match="does not say which version"):
        Firecracker(fake.host).binary()


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    assert Firecracker(able(tmp_path).host).usable() == ""
    assert Firecracker(FakeHost(tmp_path).host).usable() == "firecracker is not installed; /dev/kvm is missing"
    fake = able(tmp_path)
    fake.facts.has_kvm = Kvm(False, "/dev/kvm is missing")
    assert Firecracker(fake.host).usable() == "/dev/kvm is missing"
    assert Firecracker(able(tmp_path, Settings(kvm="no")).host).usable() == "the setting kvm is no"
    assert Firecracker(able(tmp_path, Settings(firecracker="/opt/fc")).host).usable() == "/opt/fc is not installed"


@pytest.mark.parametrize(("vcpu", "memory", "network"), [(0, 512, "none"), (33, 512, "none"), (1, 64, "none"), (1, 512, "carrier-pigeon")])
def test_what_cannot_be_is_refused(tmp_path: Path, vcpu: int, memory: int, network: str) -> None:
    nic = msgspec.structs.replace(NIC, backend=network)
    with pytest.raises(BadRequest):
        Firecracker(able(tmp_path).host).plan(VM, vcpu=vcpu, memory_mib=memory, kernel="/k", initramfs="/i", disk=DISK, nic=nic)


async def test_a_machine_whose_network_has_ended_is_not_started(tmp_path: Path) -> None:
    fake = able(tmp_path)
    part = msgspec.structs.replace(PART, nic=msgspec.structs.replace(NIC, backend="user", tap="tap0", secluded=True))
    with pytest.raises(VmmFailed, match="the network has ended"):
        await Firecracker(fake.host).ensure(part)
    assert fake.proc.processes == []


def test_without_a_jail_it_runs_without_privilege_in_a_user_namespace(tmp_path: Path) -> None:
    assert stripped(namespace=True, network=True)[:5] == ["unshare", "--user", "--map-user=1", "--map-group=1", "--net"]
    assert "--net" not in stripped(namespace=True, network=False)
    for prefix in (stripped(namespace=False, network=True), stripped(namespace=True, network=True), beside(7)):
        assert prefix[-3:] == ["setpriv", "--no-new-privs", "--"]
    assert beside(7)[:5] == ["nsenter", "--target", "7", "--user", "--net"]


@pytest.mark.parametrize(
    ("network", "lack"), [("none", ""), ("bridge", ""), ("user", "/dev/net/tun is missing"), ("pigeon", "it cannot use the network pigeon yet")]
)
def test_which_networks_it_can_have_here(tmp_path: Path, network: str, lack: str) -> None:
    fake = able(tmp_path)
    fake.facts.no_tun = "/dev/net/tun is missing"
    backend = Firecracker(fake.host)
    assert backend.unfit(network) == lack
    assert [finding.level for finding in backend.check() if "network user" in finding.message] == [Level.WARN]
    fake.facts.no_tun = ""
    assert not [finding for finding in backend.check() if "network user" in finding.message]
