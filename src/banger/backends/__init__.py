"""Backends: the kinds of thing banger makes, one file for each way to make it. The file's name is the name: `load("vmm", "qemu", host)`.

Every contract has the same five verbs: `plan` (pure: an asked-for thing becomes a frozen part, or an error), `ensure` (make it so; twice is once),
`remove` (make it gone; missing is success), `inspect` (what is really there) and `check` (findings for doctor).
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Literal, overload

from banger.model.errors import BadRequest

if TYPE_CHECKING:
    from banger.backends.disk import Disk
    from banger.backends.image import ImageSource
    from banger.backends.kernel import KernelSource
    from banger.backends.network import Network
    from banger.backends.vmm import Vmm
    from banger.host import Host

Kind = Literal["vmm", "disk", "network", "image", "kernel"]


def names(kind: Kind) -> list[str]:
    """The backends of a kind: the files in its folder."""
    return sorted(module.name for module in iter_modules(import_module(f"banger.backends.{kind}").__path__))


@overload
def load(kind: Literal["vmm"], name: str, host: Host) -> Vmm: ...
@overload
def load(kind: Literal["disk"], name: str, host: Host) -> Disk: ...
@overload
def load(kind: Literal["network"], name: str, host: Host) -> Network: ...
@overload
def load(kind: Literal["image"], name: str, host: Host) -> ImageSource: ...
@overload
def load(kind: Literal["kernel"], name: str, host: Host) -> KernelSource: ...
def load(kind: Kind, name: str, host: Host) -> object:
    """The backend of that name; BadRequest lists the names there are."""
    if name not in names(kind):
        noun = f"source of {kind}s" if kind in ("image", "kernel") else kind
        raise BadRequest(f"there is no {noun} {name!r}", hint=f"choose one of: {', '.join(names(kind))}")
    module = import_module(f"banger.backends.{kind}.{name}")
    return module.backend(host)
