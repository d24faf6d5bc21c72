"""Everything that a checkout needs before it can run: host packages and .venv. The launcher runs it when something it builds from has changed.

Runs on the system's own Python (3.11 or newer) with nothing installed. As root on Debian or Ubuntu it installs missing packages; otherwise it prints
the one command to run as root. With `dev` it also installs what `make check` and `make test` use. Writes only .venv (and, as root, host packages).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])

#: Debian package → a command that it brings.
HOST = {
    "qemu-system-x86": "qemu-system-x86_64",
    "passt": "passt",
    "mmdebstrap": "mmdebstrap",
    "e2fsprogs": "mkfs.ext4",
    "util-linux": "setpriv",
    "tar": "tar",
}
ORDINARY_USER = {"uidmap": "newuidmap"}
DEVELOPMENT = {
    "cpio": "cpio",
    "curl": "curl",
    "dbus-daemon": "dbus-daemon",
    "git": "git",
    "make": "make",
    "iproute2": "ip",
    "nftables": "nft",
    "openssh-client": "ssh",
    "rsync": "rsync",
    "util-linux": "setpriv",
    "uidmap": "newuidmap",
    "tmux": "tmux",
    "bash": "bash",
    "busybox-static": "busybox",
    "zsh": "zsh",
    "fish": "fish",
    "passwd": "useradd",
    "mount": "mount",
    "btrfs-progs": "mkfs.btrfs",
    "docker-registry": "docker-registry",
    "apache2-utils": "htpasswd",
    "openssl": "openssl",
    "skopeo": "skopeo",
    "umoci": "umoci",
    "minisign": "minisign",
    "qemu-utils": "qemu-img",
}
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def say(text: str) -> None:
    """Talk goes to stderr."""
    print(f"banger: {text}", file=sys.stderr, flush=True)


def missing(development: bool) -> list[str]:
    """Debian's names of the packages that this host lacks."""
    wanted = HOST | (ORDINARY_USER if os.geteuid() else {}) | (DEVELOPMENT if development else {})
    lacks = [package for package, command in wanted.items() if shutil.which(command, path=PATH) is None]
    if not KEYRING.exists():
        lacks.append("debian-archive-keyring")
    if not (VENV / "bin" / "python").exists() and find_spec("ensurepip") is None:
        lacks.append("python3-venv")
    return sorted(set(lacks))


def run(command: Sequence[str], **environment: str) -> None:
    """Run a command whose talk goes to stderr; its failure ends us with its status and the command itself."""
    done = subprocess.run(command, stdout=sys.stderr, stdin=subprocess.DEVNULL, env={**os.environ, "PATH": PATH, **environment}, check=False)
    if done.returncode:
        say(f"failed with status {done.returncode}: {' '.join(command)}")
        raise SystemExit(123)


def install_packages(packages: list[str]) -> bool:
    """Install them when we may; else print how. False when they are still missing."""
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    if os.geteuid() or shutil.which("apt-get") is None:
        say(f"this host lacks {', '.join(packages)}; as root, run:")
        print(f"    {' '.join(['apt-get', 'install', '-y', *packages])}", file=sys.stderr)
        return False
    say(f"installing {', '.join(packages)}")
    run(["apt-get", "update", "-qq"], DEBIAN_FRONTEND="noninteractive")
    run(command, DEBIAN_FRONTEND="noninteractive")
    return True


def make_venv(development: bool) -> None:
    """The package, linked to this checkout, with its agent compiled; a venv of another Python is made anew."""
    python = VENV / "bin" / "python"
    if not python.exists():
        say("first use: making .venv")
        run([sys.executable, "-m", "venv", "--clear", str(VENV)])
    say("compiling the guest's agent and installing the package (a minute or two the first time)")
    target = f"{ROOT}[dev]" if development else str(ROOT)
    run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--editable", target])


def main() -> int:
    """0 when everything is there."""
    development = sys.argv[1:] == ["dev"]
    if sys.version_info < (3, 11):  # noqa: UP036 (the host's own Python runs this, whichever it is)
        say(f"Python 3.11 or newer is needed; this is {sysconfig.get_python_version()}")
        return 123
    with (ROOT / ".bootstrap.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lacks = missing(development)
        complete = not lacks or install_packages(lacks)
        if "python3-venv" in lacks and not complete:
            return 123
        built = VENV / ("built-dev" if development else "built")
        if not built.exists() or newest_source() > built.stat().st_mtime_ns:
            make_venv(development)
            for stamp in {built, VENV / "built"}:
                stamp.touch()
        if complete:
            (VENV / "ready").touch()
    return 0


def newest_source() -> int:
    """When what the package is built from was last changed, ns."""
    sources = [ROOT / "pyproject.toml", ROOT / "hatch_build.py", *(ROOT / "agent").rglob("*.go")]
    return max(path.stat().st_mtime_ns for path in sources)


if __name__ == "__main__":
    raise SystemExit(main())
