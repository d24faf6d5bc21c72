"""A virtual machine: asked (VmSpec), decided (VmPlan), seen (VmStatus). Three records for three lives, never one with optional fields."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec

from banger.model.catalog import ImageConfig
from banger.model.ids import VmId
from banger.model.parts import DiskPart, MachinePart, NicPart


class VmSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was asked; None means: let banger choose. `memory_mib` in MiB, `disk_bytes` in bytes.

    `entrypoint`: what the image runs is started with the machine; `attended`: but for the first time, when whoever asks runs it.
    `env`, `cwd` and `user` win over what the image says of them.
    """

    name: str | None = None
    image: str | None = None
    vcpu: int | None = None
    memory_mib: int | None = None
    disk: str | None = None
    disk_bytes: int | None = None
    network: str | None = None
    host_access: bool = False
    nat: bool | None = None
    vmm: str | None = None
    rm: bool = False
    entrypoint: bool = True
    attended: bool = False
    env: dict[str, str] = {}
    cwd: str | None = None
    user: str | None = None


class VmPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was decided: complete, saved before the host is touched. `version` is that of this record's format.

    `config` is the image's, as it was then, with what was asked for laid over it; `init` is what becomes process 1 (`model/inits.py`, `first`).
    `entrypoint`: what the image runs by itself is started with the machine.
    """

    version: int = 1
    id: VmId
    name: str
    image: str
    image_digest: str
    kernel: str
    created: datetime
    rm: bool
    machine_id: str
    disk: DiskPart
    nic: NicPart
    machine: MachinePart
    config: ImageConfig = ImageConfig()
    init: tuple[str, ...] | None = None
    entrypoint: bool = False


class EntrypointState(StrEnum):
    """How it is with what an image runs by itself. `killed`: ended by a signal; `failed`: it could not be started."""

    RUNNING = "running"
    EXITED = "exited"
    KILLED = "killed"
    FAILED = "failed"


class Entrypoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What an image runs by itself, as the agent told it last. `pid` is the guest's; `status` its exit status, `signal` a name without SIG."""

    state: EntrypointState
    pid: int = 0
    status: int | None = None
    signal: str = ""
    problem: str = ""


class VmState(StrEnum):
    """Derived from the host each time it is asked for, never stored. `frozen`: the VMM's process is stopped (SIGSTOP).

    `paused`: the host has no room for what the guest writes; it goes on by itself once there is some.
    """

    CREATING = "creating"
    RUNNING = "running"
    FROZEN = "frozen"
    PAUSED = "paused"
    STOPPED = "stopped"


class VmStatus(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is seen, without asking the guest anything. `reason` says why this VMM and accelerator were chosen; sizes are in bytes or MiB as named.

    `entrypoint` is there while the machine runs, if what its image runs by itself was started with it.
    `ssh_fingerprints` are those of the host keys that the agent has told, as ssh shows them; none without an ssh server.
    """

    id: VmId
    name: str
    state: VmState
    image: str
    kernel: str
    vcpu: int
    memory_mib: int
    disk: str
    disk_bytes: int
    disk_used_bytes: int
    network: str
    address: str
    host_access: bool
    nat: bool
    vmm: str
    accelerator: str
    reason: str
    rm: bool
    created: datetime
    pid: int
    boot_id: str
    entrypoint: Entrypoint | None = None
    ssh_fingerprints: tuple[str, ...] = ()
    note: str = ""
