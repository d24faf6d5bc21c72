"""What is decided when little is asked."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from banger.daemon import plan as planning
from banger.daemon import preflight
from banger.daemon.resources import Resources
from banger.host.facts import Kvm
from banger.model.config import Settings
from banger.model.errors import BadRequest, HostLacks
from banger.model.ids import VmId
from banger.model.vm import VmSpec
from banger.testing import FakeHost

BIG = planning.HostSize(cpus=64, memory_mib=256 << 10)
SMALL = planning.HostSize(cpus=2, memory_mib=1024)


def resolved(spec: VmSpec | None = None, settings: Settings | None = None, size: planning.HostSize = BIG) -> planning.Resolved:
    return planning.resolve(spec or VmSpec(), settings or Settings(), size, name="otter")


def test_defaults_come_from_the_host_and_stay_modest() -> None:
    big, small = resolved(), resolved(size=SMALL)
    assert (big.vcpu, big.memory_mib) == (4, 8192)
    assert (small.vcpu, small.memory_mib) == (1, 256)
    assert (big.name, big.image, big.disk_bytes, big.network, big.vmm) == ("otter", "debian-bookworm", 8 << 30, "user", "auto")


def test_what_is_asked_wins_over_what_is_set_and_that_over_the_host() -> None:
    settings = Settings(vcpu=3, memory_mib=700, disk_size="2G", network="none", default_image="mine")
    found = resolved(settings=settings)
    assert (found.vcpu, found.memory_mib, found.disk_bytes, found.network, found.image) == (3, 700, 2 << 30, "none", "mine")
    asked = resolved(VmSpec(vcpu=1, memory_mib=300, disk_bytes=1 << 30, network="user", image="yours", name="wren"), settings)
    assert (asked.vcpu, asked.memory_mib, asked.disk_bytes, asked.network, asked.image, asked.name) == (1, 300, 1 << 30, "user", "yours", "wren")


@pytest.mark.parametrize("spec", [VmSpec(vcpu=0), VmSpec(vcpu=-1), VmSpec(vcpu=9999), VmSpec(memory_mib=0), VmSpec(memory_mib=1 << 40)])
@pytest.mark.parametrize("more", [VmSpec(), VmSpec(disk_bytes=0), VmSpec(disk_bytes=1 << 60)])
def test_an_impossible_request_is_refused_before_anything_is_made(tmp_path: Path, spec: VmSpec, more: VmSpec) -> None:
    fake = FakeHost(tmp_path)
    resources = Resources(fake.host)
    backends = planning.Backends(vmm=resources.vmms["qemu"], disk=resources.disks["overlay"], network=resources.networks["user"])
    asked = resolved(VmSpec(vcpu=spec.vcpu, memory_mib=spec.memory_mib, disk_bytes=more.disk_bytes))
    with pytest.raises(BadRequest):
        planning.check(asked, backends)


def test_a_plan_says_what_was_decided_in_one_line(tmp_path: Path) -> None:
    fake = FakeHost(tmp_path)
    resources = Resources(fake.host)
    backends = planning.Backends(vmm=resources.vmms["qemu"], disk=resources.disks["overlay"], network=resources.networks["user"])
    part = planning.parts(resolved(), VmId("0123456789ab"), planning.NO_BOOT, backends)
    assert (part.vcpu, part.memory_mib, part.disk.size, part.nic.backend) == (4, 8192, 8 << 30, "user")
    assert part.nic.mac.startswith("52:42:01:23")


def test_auto_takes_the_first_vmm_that_is_usable_and_says_what_each_lacks(tmp_path: Path) -> None:
    fake = FakeHost(tmp_path)
    assert planning.choose_vmm("auto", "user", Resources(fake.host).vmms) == "qemu"
    del fake.proc.programs["qemu-system-x86_64"]
    with pytest.raises(HostLacks, match=r"qemu: .*qemu-system-x86"):
        planning.choose_vmm("auto", "user", Resources(fake.host).vmms)
    with pytest.raises(BadRequest, match="bochs"):
        planning.choose_vmm("bochs", "user", Resources(fake.host).vmms)


def with_firecracker(tmp_path: Path) -> FakeHost:
    fake = FakeHost(tmp_path)
    fake.facts.has_kvm = Kvm(True, "/dev/kvm is usable")
    fake.proc.programs["firecracker"] = lambda process: None
    return fake


def test_auto_takes_firecracker_only_for_a_network_that_it_can_have_here(tmp_path: Path) -> None:
    fake = with_firecracker(tmp_path)
    vmms = Resources(fake.host).vmms
    assert [planning.choose_vmm("auto", network, vmms) for network in ("none", "user")] == ["firecracker", "firecracker"]
    fake.facts.no_tun = "/dev/net/tun is not accessible to this user"
    assert [planning.choose_vmm("auto", network, vmms) for network in ("none", "user")] == ["firecracker", "qemu"]
    fake.facts.no_tun, fake.facts.no_namespaces = "", "this host does not let this user make user namespaces"
    assert [planning.choose_vmm("auto", network, vmms) for network in ("none", "user")] == ["firecracker", "qemu"]


def test_auto_says_of_each_vmm_why_it_does_not_do(tmp_path: Path) -> None:
    fake = with_firecracker(tmp_path)
    del fake.proc.programs["qemu-system-x86_64"]
    fake.facts.no_tun = "/dev/net/tun is missing"
    with pytest.raises(HostLacks, match=r"firecracker: /dev/net/tun is missing; qemu: .*not installed"):
        planning.choose_vmm("auto", "user", Resources(fake.host).vmms)


async def test_a_vmm_that_is_asked_for_is_refused_when_it_cannot_run_or_use_the_network(tmp_path: Path) -> None:
    fake = with_firecracker(tmp_path)
    resources = Resources(fake.host)
    backends = planning.Backends(vmm=resources.vmms["firecracker"], disk=resources.disks["overlay"], network=resources.networks["user"])
    fake.facts.no_tun = "/dev/net/tun is missing"
    planning.check(resolved(), backends)
    with pytest.raises(HostLacks, match="/dev/net/tun is missing"):
        await preflight.check(preflight.choose("firecracker", "user", resources.vmms), backends)
    fake.facts.no_tun = ""
    await preflight.check(preflight.choose("firecracker", "user", resources.vmms), backends)
    alone = msgspec.structs.replace(backends, network=resources.networks["none"])
    await preflight.check(preflight.choose("firecracker", "none", resources.vmms), alone)
    fake.facts.has_kvm = Kvm(False, "/dev/kvm is missing")
    with pytest.raises(HostLacks, match="/dev/kvm is missing"):
        await preflight.check(preflight.choose("firecracker", "none", resources.vmms), alone)
