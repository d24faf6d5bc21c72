"""A request that this host lacks something for is refused before anything is made, with all that it lacks and nothing that it does not need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from banger.daemon import preflight
from banger.daemon.plan import Backends
from banger.daemon.resources import Resources
from banger.host.facts import Kvm
from banger.model.config import Settings
from banger.model.errors import HostLacks
from banger.model.finding import Finding, Level
from banger.testing import FakeHost

MMDEBSTRAP = Finding(level=Level.FAIL, subject="mmdebstrap", message="the command mmdebstrap is missing on this host", packages=("mmdebstrap",))


async def attempt(fake: FakeHost, vmm: str = "auto", network: str = "user", *, sources: tuple[Finding, ...] = ()) -> None:
    resources = Resources(fake.host)
    choice = preflight.choose(vmm, network, resources.vmms)
    backends = Backends(vmm=resources.vmms[choice.name], disk=resources.disks["overlay"], network=resources.networks[network])
    await preflight.check(choice, backends, sources=sources, distribution=fake.host.facts.distribution())


async def refused(fake: FakeHost, vmm: str = "auto", network: str = "user", *, sources: tuple[Finding, ...] = ()) -> tuple[list[str], str]:
    with pytest.raises(HostLacks) as caught:
        await attempt(fake, vmm, network, sources=sources)
    return str(caught.value).split("; "), caught.value.hint


async def test_a_host_that_has_everything_is_not_refused(tmp_path: Path) -> None:
    await attempt(FakeHost(tmp_path))


async def test_everything_that_is_missing_is_told_at_once_with_one_command(tmp_path: Path) -> None:
    fake = FakeHost(tmp_path)
    fake.proc.programs.clear()
    fake.proc.commands.clear()
    messages, hint = await refused(fake, sources=(MMDEBSTRAP,))
    assert messages == [
        "firecracker: firecracker is not installed",
        "/dev/kvm is missing",
        "qemu: qemu-system-x86_64 is not installed (package qemu-system-x86)",
        "mkfs.ext4 is not installed",
        "passt is not installed",
        "the command mmdebstrap is missing on this host",
    ]
    assert hint == "as root: apt-get install qemu-system-x86 e2fsprogs passt mmdebstrap"


async def test_the_command_is_the_distributions(tmp_path: Path) -> None:
    fake = FakeHost(tmp_path)
    fake.facts.words = ("manjaro", "arch")
    del fake.proc.commands["passt"]
    assert (await refused(fake))[1] == "as root: pacman -S passt"


async def test_what_the_request_does_not_need_is_not_asked_for(tmp_path: Path) -> None:
    fake = FakeHost(tmp_path)
    del fake.proc.commands["passt"]
    await attempt(fake, network="none")


@pytest.mark.parametrize(
    ("spoil", "messages"),
    [
        (lambda fake: None, ["firecracker is not installed", "/dev/kvm is missing"]),
        (lambda fake: setattr(fake.facts, "has_kvm", Kvm(True, "fine")), ["firecracker is not installed"]),
        (lambda fake: setattr(fake.facts, "machine", "aarch64"), ["Firecracker machines need an x86_64 host for now", "this is aarch64"]),
    ],
)
async def test_a_vmm_that_is_asked_for_says_all_that_it_lacks(tmp_path: Path, spoil: Callable[[FakeHost], None], messages: list[str]) -> None:
    fake = FakeHost(tmp_path)
    spoil(fake)
    assert await refused(fake, "firecracker", "none") == (messages, "run: banger doctor")


async def test_what_only_one_kind_of_network_needs_is_told_to_whom_asks_for_it(tmp_path: Path) -> None:
    fake = FakeHost(tmp_path)
    fake.nft.lacks = "libnftables.so.1 is not installed (package libnftables1)"
    await attempt(fake)
    assert await refused(fake, network="bridge") == ([fake.nft.lacks], "as root: apt-get install libnftables1")


async def test_a_setting_that_forbids_kvm_is_a_lack_too(tmp_path: Path) -> None:
    fake = FakeHost(tmp_path, Settings(kvm="no"))
    fake.proc.programs["firecracker"] = lambda process: None
    assert (await refused(fake, "firecracker", "none"))[0] == ["the setting kvm is no"]
