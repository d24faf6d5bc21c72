"""What a guest kernel must have, and what does not work without it. Pure: judged by its configuration, or by the lists of its modules.

`NEEDS` names each by the module that it is or would be; where there can be no module, by the word of its configuration symbol.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import msgspec

CONFIGURED = re.compile(r"^CONFIG_([A-Z0-9_]+)=(\S+)$", re.MULTILINE)


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """One of `symbols` must be set. `module`: it may be one; `fatal`: without it no machine boots; `lost`: what does not work, if it is to be told."""

    name: str
    symbols: tuple[str, ...]
    lost: str
    module: bool = True
    fatal: bool = False
    only: str = ""


BOOTS = "no machine boots"
NEEDS = (
    Need(name="initramfs", symbols=("BLK_DEV_INITRD",), module=False, fatal=True, lost=BOOTS),
    Need(name="binfmt_elf", symbols=("BINFMT_ELF",), module=False, fatal=True, lost=BOOTS),
    Need(name="devtmpfs", symbols=("DEVTMPFS",), module=False, fatal=True, lost=BOOTS),
    Need(name="proc", symbols=("PROC_FS",), module=False, fatal=True, lost=BOOTS),
    Need(name="sysfs", symbols=("SYSFS",), module=False, fatal=True, lost=BOOTS),
    Need(name="virtio_mmio", symbols=("VIRTIO_MMIO",), fatal=True, lost="no machine has devices"),
    Need(name="virtio_blk", symbols=("VIRTIO_BLK",), fatal=True, lost="no machine has a disk"),
    Need(name="ext4", symbols=("EXT4_FS",), fatal=True, lost="no machine's own disk can be read"),
    Need(name="acpi", symbols=("ACPI",), module=False, fatal=True, only="x86_64", lost="no machine finds its devices"),
    Need(name="pvh", symbols=("PVH",), module=False, only="x86_64", lost="it does not boot in QEMU"),
    Need(name="virtio_console", symbols=("VIRTIO_CONSOLE",), lost="its machines cannot be reached in QEMU"),
    Need(name="vmw_vsock_virtio_transport", symbols=("VIRTIO_VSOCKETS",), lost="its machines cannot be reached in Firecracker (no vsock)"),
    Need(name="overlay", symbols=("OVERLAY_FS",), lost="disks of kind overlay, the usual one, do not work; --disk reflink or devmapper does"),
    Need(name="virtio_net", symbols=("VIRTIO_NET",), lost="its machines have no network (--network none)"),
    Need(name="virtio_rng", symbols=("HW_RANDOM_VIRTIO",), lost="its machines get no randomness from the host's device"),
    Need(
        name="console", symbols=("SERIAL_8250_CONSOLE", "SERIAL_AMBA_PL011_CONSOLE", "SERIAL_OF_PLATFORM"), module=False, lost="it says nothing at boot"
    ),
    # For images of these kinds only, which say it themselves.
    Need(name="erofs", symbols=("EROFS_FS",), lost=""),
    Need(name="squashfs", symbols=("SQUASHFS",), lost=""),
)
CHANNELS = ("virtio_console", "vmw_vsock_virtio_transport")


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """What is not there, name → what does not work; what is built in, by names of modules; why no machine could boot, if so."""

    lacks: dict[str, str]
    builtin: tuple[str, ...]
    refusal: str = ""


def configured(text: str) -> dict[str, str]:
    """Symbol → y, m or a value, of a kernel's configuration; what is not set is left out."""
    return {match[1]: match[2] for match in CONFIGURED.finditer(text)}


def judge(
    config: Mapping[str, str] | None, *, listed: Collection[str] | None, modules: Collection[str], architecture: str, pvh: bool | None = None
) -> Judged:
    """By the configuration; else by what `modules.builtin` lists; what neither tells is taken to be built in.

    `modules` are those that are there (names with `_`), `listed` is None where there is no such list, `pvh` what the kernel's own notes say.
    """
    lacks: dict[str, str] = {}
    builtin: list[str] = []
    for need in NEEDS:
        if need.only not in ("", architecture):
            continue
        state = _state(need, config, listed)
        if need.name == "pvh" and pvh is not None:
            state = "y" if pvh else "n"
        if state == "y":
            builtin += [need.name] if need.module else []
        elif need.lost and (state == "n" or not need.module or need.name not in modules):
            lacks[need.name] = need.lost
    return Judged(lacks=lacks, builtin=tuple(builtin), refusal=_refusal(lacks))


def _state(need: Need, config: Mapping[str, str] | None, listed: Collection[str] | None) -> str:
    """y: built in; m: a module, if anything; n: neither."""
    if config is not None:
        found = {config.get(symbol, "n") for symbol in need.symbols}
        return next((state for state in ("y", "m") if state in found), "n")
    if listed is not None and need.module:
        return "y" if need.name in listed else "m"
    return "y"


def _refusal(lacks: Mapping[str, str]) -> str:
    fatal = [f"{need.name} ({need.lost})" for need in NEEDS if need.fatal and need.name in lacks]
    if all(channel in lacks for channel in CHANNELS):
        fatal.append(f"{' and '.join(CHANNELS)} (no machine can be reached)")
    return ", ".join(fatal)


def unfit(lacks: Mapping[str, str], *, vmm: str, disk: str, network: str) -> str:
    """Why a machine like this cannot have this kernel; empty when it can."""
    wanted = {
        "overlay": disk == "overlay",
        "virtio_net": network != "none",
        "pvh": vmm == "qemu",
        "virtio_console": vmm == "qemu",
        "vmw_vsock_virtio_transport": vmm == "firecracker",
    }
    return "; ".join(f"it lacks {name}: {lost}" for name, lost in lacks.items() if wanted.get(name))
