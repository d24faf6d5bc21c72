"""What sources of kernels have in common that do not come from an archive that is known: the files' places, and the judgement of what was taken.

Everything is looked at in the part's folder, where nobody else writes, so that what was judged is what is used. The folder is the caller's to remove.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from banger.host.kernelfile import KernelFacts
from banger.host.kmod import canonical, modinfo
from banger.model.catalog import KernelManifest, KernelPart
from banger.model.errors import BadRequest, BangerError, Corrupt
from banger.model.event import report
from banger.model.kernels import NEEDS, Judged, configured, judge

if TYPE_CHECKING:
    from banger.host import Host

#: The most that a kernel's files may have together, unpacked; Debian's largest has some 500 MiB of modules.
LIMIT = 2 << 30
LARGEST_MODULE, LARGEST_CONFIG = 256 << 20, 4 << 20
#: Lists beside the modules that are of use here.
LISTS = ("modules.builtin", "modules.builtin.modinfo", "modules.order")
PACKED = (".gz", ".xz", ".zst")


def left_out(initrd: str) -> str:
    """What is said of an initrd beside a kernel. It would be in the way: its /init is not the agent, and what it holds takes memory and time."""
    return f"note: {initrd} is left out: machines boot an initramfs of banger's, made of its agent and the kernel's modules"


def wanted_module(name: PurePosixPath) -> bool:
    """Whether a file in a folder of modules is a module or a list, by its name."""
    plain = name.with_suffix("") if name.suffix in PACKED else name
    return plain.suffix == ".ko" or name.name in LISTS


async def unpack_modules(host: Host, folder: Path) -> None:
    """Unpack modules that are packed one by one: what loads them in the guest knows only plain ones."""
    left = LIMIT
    for packed in sorted(path for path in folder.rglob("*.ko.*") if path.suffix in PACKED):
        plain = packed.with_suffix("")
        await host.archive.unpack(packed, plain, limit=min(left, LARGEST_MODULE))
        left -= plain.stat().st_size
        packed.unlink()


async def finish(host: Host, part: KernelPart, image: Path) -> KernelManifest:
    """From the taken files (`image`, packed or not, and in the part's folder `modules/`, `config`, if there are any) to a kernel that was judged.

    BadRequest when no machine could boot it; what else will not work is in the manifest.
    """
    into, name = Path(part.into), f"kernel {part.entry.name}"
    report("unpack kernel")
    await host.archive.unpack_kernel(image, into / "vmlinux")
    facts = await host.archive.kernel_facts(into / "vmlinux")
    if facts.architecture != host.facts.architecture():
        raise BadRequest(f"{name} is for {facts.architecture}, this host is {host.facts.architecture()}")
    modules = into / "modules"
    if modules.exists():
        report("unpack modules")
        await unpack_modules(host, modules)
    report("look at what it has")
    release = _release(facts, modules, name)
    judged = _judge(host, into, facts)
    if judged.refusal:
        raise BadRequest(f"{name} cannot boot here, it lacks {judged.refusal}", hint="build it with these set, or give the folder of its modules too")
    _require_whole(host, modules, judged, name)
    for lack, lost in judged.lacks.items():
        report(f"note: it lacks {lack}: {lost}")
    kernel = into / "vmlinux"
    return KernelManifest(
        name=part.entry.name,
        source=part.entry.source,
        release=release,
        digest=await host.archive.sha256(kernel),
        size_bytes=kernel.stat().st_size,
        architecture=facts.architecture,
        built=host.clock.now(),
        lacks=judged.lacks,
        builtin=judged.builtin,
    )


def _release(facts: KernelFacts, modules: Path, name: str) -> str:
    """The kernel's own word, which its modules must be made for."""
    first = next(iter(sorted(modules.rglob("*.ko"))), None) if modules.exists() else None
    magic = next((field.removeprefix("vermagic=") for field in modinfo(first) if field.startswith("vermagic=")), "") if first else ""
    made_for = magic.partition(" ")[0]
    if made_for and facts.release and made_for != facts.release:
        raise BadRequest(f"{name} is {facts.release}, but its modules are made for {made_for}", hint="give a kernel and modules of one build")
    release = facts.release or made_for
    if not release:
        raise Corrupt(f"{name} does not say which release it is: there is no 'Linux version' in it")
    return release


def _judge(host: Host, into: Path, facts: KernelFacts) -> Judged:
    text = (host.files.head(into / "config", LARGEST_CONFIG) if (into / "config").exists() else b"").decode("ascii", "replace") or facts.config
    config = configured(text) or None
    if config is None:
        report("note: it does not say what is in it (no config beside it, none inside)")
    modules = into / "modules"
    there = {canonical(path.stem) for path in modules.rglob("*.ko")} if modules.exists() else set()
    return judge(config, listed=_listed(modules), modules=there, architecture=facts.architecture, pvh=facts.pvh)


def _listed(modules: Path) -> frozenset[str] | None:
    found = next(iter(sorted(modules.rglob("modules.builtin"))), None) if modules.exists() else None
    return frozenset(canonical(Path(line).stem) for line in found.read_text(errors="replace").splitlines()) if found else None


def _require_whole(host: Host, modules: Path, judged: Judged, name: str) -> None:
    """What the needed modules need is there, too, and all are sound."""
    known = {*judged.builtin, *judged.lacks}
    names = [need.name for need in NEEDS if need.module and need.lost and need.name not in known]
    try:
        host.kmod.closure(modules, names)
    except BangerError as error:
        raise BadRequest(f"{name} is not whole: {error}", hint="give the whole folder of its modules") from error
