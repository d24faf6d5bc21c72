"""Preflight: what a request needs and this host lacks, found before anything is fetched or made, and told in one error.

The findings are the backends' own, the same that doctor shows; only those that this request names are asked. Pure but for their looking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from banger.backends.vmm import Vmm
from banger.daemon.plan import VMM_ORDER, Backends, choose_vmm
from banger.model.errors import HostLacks
from banger.model.finding import Finding, Level
from banger.model.packages import refusal


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The VMM to plan with, and why it (and, for `auto`, any other) cannot be used here, if so."""

    name: str
    lacks: tuple[Finding, ...] = ()


def choose(asked: str, network: str, vmms: Mapping[str, Vmm]) -> Choice:
    """Like `choose_vmm`, but where none is usable that is a finding among others, with the packages of the one that is easiest to have."""
    try:
        name = choose_vmm(asked, network, vmms)
    except HostLacks as error:
        last = next((name for name in reversed(VMM_ORDER) if name in vmms and not vmms[name].unfit(network)), VMM_ORDER[-1])
        packages = tuple(package for row in failures(vmms[last].check(), "") for package in row.packages)
        row = Finding(level=Level.FAIL, subject="vmm", message=error.message, packages=packages, fix="" if packages else error.hint)
        return Choice(name=last, lacks=(row,))
    return Choice(name=name, lacks=tuple(failures(vmms[name].check(), "; ".join(filter(None, (vmms[name].usable(), vmms[name].unfit(network)))))))


async def check(choice: Choice, backends: Backends, *, sources: Sequence[Finding] = (), distribution: Sequence[str] = ()) -> None:
    """HostLacks for everything that a request lacks; `sources` is what its image and kernel are made with, if they must be."""
    disk = failures(await backends.disk.check(), await backends.disk.usable())
    network = failures(await backends.network.check(), await backends.network.usable())
    lacks = refusal([*choice.lacks, *disk, *network, *sources], distribution)
    if lacks is not None:
        raise lacks


def failures(rows: Sequence[Finding], missing: str) -> list[Finding]:
    """The rows that fail. A kind that only says in one line that it cannot be used is no failure to doctor, but one to whom asks for it."""
    failed = [row for row in rows if row.level is Level.FAIL]
    if missing and not failed:
        packages = tuple(package for row in rows for package in row.packages)
        failed.append(Finding(level=Level.FAIL, subject="", message=missing, packages=packages, fix="" if packages else "run: banger doctor"))
    return failed
