"""What a guest is booted with: an initramfs of the agent and the modules that the kernel needs until the root is mounted.

It is named by the digest of what is in it and lies in the cache, so all machines with the same kernel share one and an upgrade makes a new one.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from banger.host import Host
from banger.host.cpio import CpioEntry, file, folder
from banger.model.catalog import KernelManifest
from banger.model.errors import HostLacks

#: What is loaded before the root can be mounted and the agent reached; those that are built into a kernel are passed over.
MODULES = ("virtio_mmio", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng", "vmw_vsock_virtio_transport", "ext4", "overlay")


class Boots:
    """Makes initramfs archives."""

    def __init__(self, host: Host, agent: Path) -> None:
        self.host, self.agent = host, agent
        #: The agent's digest, and the state of its file that it was taken of: reading four megabytes for every machine would be felt.
        self.known: tuple[tuple[int, int], str] = ((0, 0), "")

    def initramfs(self, kernel: KernelManifest, filesystem: str = "ext4") -> Path:
        """The archive for a kernel and an image's kind of file system, made unless it is there."""
        present = {*kernel.builtin, *kernel.lacks}
        modules = [name for name in dict.fromkeys([*MODULES, filesystem]) if name not in present]
        place = self._place(self._digest(), kernel, modules)
        if not place.exists():
            agent = self._read()
            place = self._place(hashlib.sha256(agent).hexdigest(), kernel, modules)  # it may have been replaced just now
            self.host.files.private_folder(place.parent)
            self.host.cpio.write(place, self._entries(agent, kernel, modules))
        return place

    def _digest(self) -> str:
        stamp = self.host.files.stamp(self.agent)
        if self.known[0] != stamp:
            self.known = stamp, hashlib.sha256(self._read()).hexdigest()
        return self.known[1]

    def _place(self, digest: str, kernel: KernelManifest, modules: list[str]) -> Path:
        recipe = "\n".join([digest, kernel.digest, kernel.release, *modules])
        return self.host.paths.initramfs(hashlib.sha256(recipe.encode()).hexdigest()[:32])

    def _read(self) -> bytes:
        agent = self.host.files.read(self.agent)
        if agent is None:
            raise HostLacks(f"the guest's agent is missing: {self.agent}", hint="install banger anew")
        return agent

    def _entries(self, agent: bytes, kernel: KernelManifest, wanted: list[str]) -> list[CpioEntry]:
        modules = self.host.kmod.closure(self.host.paths.kernel(kernel.name) / "modules", wanted)
        names = [f"lib/{module.name}" for module in modules]
        return [
            file("init", agent, 0o755),
            folder("dev"),
            folder("lib"),
            *(file(name, module) for name, module in zip(names, modules, strict=True)),
            file("modules", "".join(f"/{name}\n" for name in names).encode()),
        ]
