"""Every path that banger uses, in one place, computed from four roots and a machine's id.

`state` is kept (database, disks, images), `run` is volatile (the daemon's socket), `cache` may be deleted at any time, `config` is the user's.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from banger.model.errors import BadRequest
from banger.model.ids import VmId


class Paths(msgspec.Struct, frozen=True, kw_only=True):
    """The four roots, and what lies below them. `images` and `kernels` may be elsewhere by setting."""

    state: Path
    run: Path
    cache: Path
    config: Path
    images: Path
    kernels: Path

    @property
    def socket(self) -> Path:
        """The daemon's HTTP socket, 0600."""
        return self.run / "bangerd.sock"

    @property
    def names(self) -> Path:
        """How the daemon that lives stands with names; doctor reads it."""
        return self.run / "names.json"

    @property
    def lock(self) -> Path:
        """Held by the one daemon of this state; says who holds it."""
        return self.state / "bangerd.lock"

    @property
    def boot(self) -> Path:
        """Which boot of the host the running machines belong to."""
        return self.state / "boot"

    @property
    def log(self) -> Path:
        """The daemon's log."""
        return self.state / "bangerd.log"

    @property
    def database(self) -> Path:
        """What was asked and decided."""
        return self.state / "banger.db"

    @property
    def settings(self) -> Path:
        """The user's settings, TOML."""
        return self.config / "config.toml"

    @property
    def ssh(self) -> Path:
        """What ssh needs to log in to machines: our key, their host keys, the client's configuration."""
        return self.state / "ssh"

    @property
    def ssh_key(self) -> Path:
        """This installation's private key; the public one is beside it as `id_ed25519.pub`."""
        return self.ssh / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        """The machines' host keys, as ssh reads them."""
        return self.ssh / "known_hosts"

    @property
    def machines(self) -> Path:
        """One folder a machine: what outlives its process."""
        return self.state / "vms"

    @property
    def running(self) -> Path:
        """One folder a machine: what lives as long as its process. Not in the runtime folder: a logout removes that, and machines go on."""
        return self.state / "run"

    def vm_state(self, vm: VmId) -> Path:
        """The machine's lasting folder: its disk, its console's log."""
        return self.machines / vm

    def vm_run(self, vm: VmId) -> Path:
        """The machine's volatile folder: sockets, FIFOs and pid records; a VMM runs inside it and names files relative to it."""
        return self.running / vm

    def vmm_process(self, vm: VmId) -> Path:
        """The record of the machine's VMM."""
        return self.vm_run(vm) / "vmm.json"

    def network_process(self, vm: VmId) -> Path:
        """The record of the process that the machine's network is, where it is one."""
        return self.vm_run(vm) / "passt.json"

    def overlay(self, vm: VmId) -> Path:
        """What the machine wrote: a sparse ext4 file."""
        return self.vm_state(vm) / "overlay.ext4"

    def own_disk(self, vm: VmId) -> Path:
        """A disk that the machine has to itself: a clone of its image's file system, grown."""
        return self.vm_state(vm) / "disk.ext4"

    def cow(self, vm: VmId) -> Path:
        """What the machine wrote, as device-mapper keeps it: a sparse file of changed blocks."""
        return self.vm_state(vm) / "disk.cow"

    def snapshot(self, vm: VmId) -> Path:
        """The device node of a machine's mapped disk, named as the map is."""
        return Path("/dev/banger") / f"banger-{vm}"

    def console_log(self, vm: VmId) -> Path:
        """The guest's console, bounded; its older half is beside it as `console.log.1`."""
        return self.vm_state(vm) / "console.log"

    def image(self, name: str) -> Path:
        """A published image: `rootfs.ext4` and `manifest.json`."""
        return self.images / name

    def kernel(self, name: str) -> Path:
        """A published kernel: `vmlinux`, `modules/` and `manifest.json`."""
        return self.kernels / name

    @property
    def firecrackers(self) -> Path:
        """The Firecrackers that banger has installed, one folder a version."""
        return self.state / "firecracker"

    def firecracker(self, version: str) -> Path:
        """An installed version: `firecracker`, mostly `jailer`, and `manifest.json`."""
        return self.firecrackers / version

    @property
    def catalogs(self) -> Path:
        """The catalogs of others that were added, one file each."""
        return self.state / "catalogs"

    def catalog(self, name: str) -> Path:
        """An added catalog: where it is from, its key, and its text as it was verified."""
        return self.catalogs / f"{name}.json"

    @property
    def blobs(self) -> Path:
        """What registries have given, as an OCI image layout."""
        return self.cache / "oci"

    def initramfs(self, digest: str) -> Path:
        """An initramfs by the digest of what it is made of."""
        return self.cache / "initramfs" / f"{digest}.cpio"

    @property
    def builds(self) -> Path:
        """What machines had written after steps of builds."""
        return self.cache / "build"

    def blank_overlay(self, size: int) -> Path:
        """An empty ext4 of `size` bytes, to be copied sparsely for each new machine."""
        return self.cache / "overlay" / f"{size}.ext4"


def whole(text: str) -> Path:
    """A path that says where it begins, as it must since the daemon is somewhere else than who asks; BadRequest for any other."""
    if not text.startswith("/") or "\0" in text:
        raise BadRequest(f"the path {text!r} does not begin with '/'", hint="give the whole path")
    return Path(text)
