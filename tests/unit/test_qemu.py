"""QEMU's command line, option by option."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from banger.backends.vmm.qemu import argv, kernel_arguments
from banger.model.errors import BadRequest
from banger.model.ids import VmId
from banger.model.parts import DiskPart, MachinePart, NicPart
from banger.model.paths import Paths

VM = VmId("0123456789ab")
PATHS = Paths(state=Path("/s"), run=Path("/r"), cache=Path("/c"), config=Path("/k"), images=Path("/s/images"), kernels=Path("/s/kernels"))
PART = MachinePart(
    backend="qemu",
    vm=VM,
    vcpu=2,
    memory_mib=512,
    accelerator="tcg",
    reason="",
    kernel="/kernels/vmlinux",
    initramfs="/cache/a.cpio",
    disk=DiskPart(backend="overlay", vm=VM, base="/images/rootfs.ext4", size=8 << 30),
    nic=NicPart(backend="user", vm=VM, mac="52:42:01:23:45:67"),
)


def options(part: MachinePart = PART, *, tsc_khz: int = 2_596_120) -> dict[str, list[str]]:
    """Option → its values in order; an option without a value has the next option's place empty."""
    found: dict[str, list[str]] = {}
    words = argv(part, PATHS, tsc_khz=tsc_khz)[1:]
    for at, word in enumerate(words):
        if word.startswith("-"):
            value = words[at + 1] if at + 1 < len(words) and not words[at + 1].startswith("-") else ""
            found.setdefault(word, []).append(value)
    return found


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("-name", ["guest=banger-0123456789ab,process=banger-0123456789ab"]),
        ("-M", ["microvm,acpi=on,rtc=on"]),
        ("-accel", ["tcg,thread=multi"]),
        ("-cpu", ["Nehalem"]),
        ("-smp", ["2"]),
        ("-m", ["512M"]),
        ("-kernel", ["/kernels/vmlinux"]),
        ("-initrd", ["/cache/a.cpio"]),
        (
            "-append",
            ["console=ttyS0 reboot=t panic=-1 quiet banger.lower=lower banger.upper=upper banger.port=banger.0 tsc_early_khz=2596120"],
        ),
        (
            "-drive",
            [
                "if=none,id=lower,file=/images/rootfs.ext4,format=raw,readonly=on",
                "if=none,id=upper,file=/s/vms/0123456789ab/overlay.ext4,format=raw,cache=writeback,discard=unmap",
            ],
        ),
        (
            "-chardev",
            [
                "socket,id=qmp,fd=%qmp.sock%,server=on,wait=off",
                "socket,id=events,fd=%events.sock%,server=on,wait=off",
                "socket,id=console,fd=%console.sock%,server=on,wait=off",
                "socket,id=agent,fd=%agent.sock%,server=on,wait=off",
            ],
        ),
        ("-mon", ["chardev=qmp,mode=control", "chardev=events,mode=control"]),
        ("-serial", ["chardev:console"]),
        ("-netdev", ["stream,id=n,server=off,addr.type=unix,addr.path=passt.sock"]),
        (
            "-device",
            [
                "virtio-blk-device,drive=lower,serial=lower",
                "virtio-blk-device,drive=upper,serial=upper",
                "virtio-serial-device",
                "virtserialport,chardev=agent,name=banger.0",
                "virtio-net-device,netdev=n,mac=52:42:01:23:45:67",
                "virtio-rng-device,rng=rng",
            ],
        ),
        ("-display", ["none"]),
        *((flag, [""]) for flag in ("-nodefaults", "-no-user-config", "-no-reboot")),
    ],
)
def test_the_command_has(option: str, values: list[str]) -> None:
    assert options()[option] == values


@pytest.mark.parametrize(("kind", "path"), [("reflink", "/s/vms/0123456789ab/disk.ext4"), ("devmapper", "/dev/banger/banger-0123456789ab")])
def test_a_disk_that_is_the_machines_own_is_its_one_drive(kind: str, path: str) -> None:
    found = options(msgspec.structs.replace(PART, disk=msgspec.structs.replace(PART.disk, backend=kind)))
    assert found["-drive"] == [f"if=none,id=root,file={path},format=raw,cache=writeback,discard=unmap"]
    assert [device for device in found["-device"] if "blk" in device] == ["virtio-blk-device,drive=root,serial=root"]
    assert " banger.root=root " in found["-append"][0]
    assert "banger.lower" not in found["-append"][0]


def test_with_kvm_the_processor_is_the_hosts_and_the_clock_is_not_told() -> None:
    found = options(msgspec.structs.replace(PART, accelerator="kvm"))
    assert found["-accel"] == ["kvm"]
    assert found["-cpu"] == ["host"]
    assert "tsc_early_khz" not in found["-append"][0]


def test_an_unknown_clock_is_not_told_as_zero() -> None:
    assert "tsc_early_khz" not in kernel_arguments("tcg", 0, ())


def test_without_a_network_there_is_no_network_device() -> None:
    found = options(msgspec.structs.replace(PART, nic=msgspec.structs.replace(PART.nic, backend="none")))
    assert found["-nic"] == ["none"]
    assert not any("virtio-net" in device for device in found["-device"])
    assert "-netdev" not in found


def test_a_network_that_qemu_does_not_know_is_refused() -> None:
    with pytest.raises(BadRequest, match="token-ring"):
        options(msgspec.structs.replace(PART, nic=msgspec.structs.replace(PART.nic, backend="token-ring")))


def test_on_the_bridge_it_opens_the_tap_that_is_there() -> None:
    found = options(msgspec.structs.replace(PART, nic=msgspec.structs.replace(PART.nic, backend="bridge", tap="bgr-2")))
    assert found["-netdev"] == ["tap,id=n,ifname=bgr-2,script=no,downscript=no"]
    assert f"virtio-net-device,netdev=n,mac={PART.nic.mac}" in found["-device"]


def test_a_comma_in_a_path_is_not_the_end_of_it() -> None:
    part = msgspec.structs.replace(PART, disk=msgspec.structs.replace(PART.disk, base="/a,b/rootfs.ext4"))
    assert "file=/a,,b/rootfs.ext4," in options(part)["-drive"][0]
