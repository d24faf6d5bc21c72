"""mmdebstrap: its command, what its output says about progress, and what it needs. apt checks the archive's signatures; apt knows the mirror.

It runs in root's mode inside namespaces of its own (host/unshare.py), so an ordinary user's build and root's are the same, and nothing that it mounts
or starts is left behind, however it ends. The files are the caller's: the target, and the folder for temporary ones.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from banger.host.files import Files
from banger.host.proc import Proc
from banger.host.unshare import ENOUGH, seclusion, subordinate_ids
from banger.model.errors import BadRequest, BangerError, NoSpace, ToolFailed
from banger.model.event import report
from banger.model.finding import Finding, Level
from banger.model.packages import refusal
from banger.model.sizes import show_size

#: A slow mirror must be able to deliver 200 MB, and a slow machine to configure 200 packages.
TIMEOUT = 3600.0
#: With less than this left (bytes), a failure is the full disk's.
FULL = 1 << 20
VARIANTS = ("extract", "custom", "essential", "apt", "minbase", "buildd", "important", "debootstrap", "standard", "required")
SUITE = re.compile(r"[a-z][a-z0-9.-]{0,40}\Z")
PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]{0,100}\Z")
#: Commands and the Debian packages that bring them.
TOOLS = (("mmdebstrap", "mmdebstrap"), ("tar", "tar"), ("unshare", "util-linux"), ("mkfs.ext4", "e2fsprogs"))
KEYRINGS = ("/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp")
#: Settings of the kernel that take user namespaces from ordinary users: name, the value that forbids, one that does not.
SWITCHES = (
    ("kernel.unprivileged_userns_clone", "0", "1"),
    ("user.max_user_namespaces", "0", "15000"),
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
)
#: What mmdebstrap says it does, and how it is told on; all else that it says is of no interest to the user.
PHASES = {
    "running apt-get update": "update package lists",
    "downloading packages with apt": "download",
    "extracting archives": "extract packages",
    "installing essential packages": "install essential packages",
    "installing remaining packages inside the chroot": "install packages",
    "cleaning package lists and apt cache": "clean up",
    "creating tarball": "write tar",
}
UNITS = {"B": 1, "kB": 1000, "MB": 1000**2, "GB": 1000**3}


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to install: a variant's own packages and these, with mmdebstrap's options."""

    suite: str
    variant: str
    packages: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def validate(request: Request) -> Request:
    """The request itself; BadRequest when a part of it could be taken for something else by mmdebstrap or apt."""
    if not SUITE.match(request.suite):
        raise BadRequest(f"{request.suite!r} is not the name of a Debian suite", hint="for instance: bookworm")
    if request.variant not in VARIANTS:
        raise BadRequest(f"{request.variant!r} is not a variant of mmdebstrap", hint=f"choose one of: {', '.join(VARIANTS)}")
    for package in request.packages:
        if not PACKAGE.match(package):
            raise BadRequest(f"{package!r} is not the name of a Debian package")
    return request


def command(prefix: Sequence[str], request: Request, target: Path) -> list[str]:
    """Make `target`: a tar if its name ends in .tar, else a folder."""
    return [
        *prefix,
        "mmdebstrap",
        "--verbose",
        "--mode=root",
        f"--format={'tar' if target.suffix == '.tar' else 'directory'}",
        f"--variant={request.variant}",
        *([f"--include={','.join(request.packages)}"] if request.packages else []),
        *request.options,
        request.suite,
        str(target),
    ]


async def bootstrap(proc: Proc, files: Files, *, root: bool, request: Request, target: Path, temporary: Path, what: str) -> None:
    """Run it, with progress as events; `what` names the thing in errors. Temporary files go where the caller removes them.

    On a full disk apt may speak of bad signatures (it could not write down what it was to check), so the disk is looked at after every failure.
    """
    prefix = await seclusion(proc, root=root)
    progress = Progress()
    settings = {"TMPDIR": str(temporary), "DEBIAN_FRONTEND": "noninteractive", "DEBCONF_NONINTERACTIVE_SEEN": "true"}
    try:
        await proc.run(command(prefix, request, target), timeout=TIMEOUT, env=settings, on_line=progress)
    except ToolFailed as error:
        full = files.free_bytes(temporary) < FULL
        raise (no_space(what) if full else progress.explain(error, what)) from error


def no_space(what: str) -> NoSpace:
    """The disk has filled up while something was made."""
    return NoSpace(f"no space left while making {what}", hint="free some space and try again")


def check_room(files: Files, folder: Path, need: int, what: str) -> None:
    """NoSpace, before anything is fetched, when what is to be made cannot fit."""
    free = files.free_bytes(folder)
    if free < need:
        raise NoSpace(f"making {what} needs about {show_size(need)} in {folder}, and {show_size(free)} are free", hint="free some space and try again")


def findings(proc: Proc, files: Files, *, root: bool) -> list[Finding]:
    """What is there of what it needs, one row each; FAIL rows name the Debian package that brings it."""
    rows = [_tool(proc, tool, package) for tool, package in TOOLS]
    rows.append(_keyring(files))
    if not root:
        rows += [_tool(proc, "newuidmap", "uidmap"), _ids(files), _permission(files)]
    return rows


def require(rows: Sequence[Finding], distribution: Sequence[str]) -> None:
    """HostLacks for all rows that fail."""
    lacks = refusal(rows, distribution)
    if lacks is not None:
        raise lacks


def _tool(proc: Proc, tool: str, package: str) -> Finding:
    found = proc.which(tool)
    if found:
        return Finding(level=Level.PASS, subject=tool, message=f"{tool} is {found}")
    return Finding(
        level=Level.FAIL,
        subject=tool,
        message=f"the command {tool} is missing on this host",
        packages=(package,),
    )


def _keyring(files: Files) -> Finding:
    subject, package = "debian keyring", "debian-archive-keyring"
    if any(files.used_bytes(Path(place)) for place in KEYRINGS):
        return Finding(level=Level.PASS, subject=subject, message="the keys of the Debian archive are there")
    return Finding(
        level=Level.FAIL,
        subject=subject,
        message="the keys that the Debian archive is signed with are missing on this host",
        packages=(package,),
    )


def _ids(files: Files) -> Finding:
    count = subordinate_ids(files)
    if count >= ENOUGH:
        return Finding(level=Level.PASS, subject="subordinate ids", message=f"this user has {count} subordinate user and group ids")
    return Finding(
        level=Level.FAIL,
        subject="subordinate ids",
        message=f"this user has {count} subordinate ids in /etc/subuid and /etc/subgid; {ENOUGH} are needed to build images",
        fix='usermod --add-subuids 100000-165535 --add-subgids 100000-165535 "$USER"',
    )


def _permission(files: Files) -> Finding:
    subject = "user namespaces"
    for setting, forbidding, cure in SWITCHES:
        if (files.read(Path("/proc/sys", *setting.split("."))) or b"").strip() == forbidding.encode():
            message = f"ordinary users may not make user namespaces here ({setting}={forbidding})"
            return Finding(level=Level.FAIL, subject=subject, message=message, fix=f"sysctl -w {setting}={cure}")
    return Finding(level=Level.PASS, subject=subject, message="ordinary users may make user namespaces")


class Progress:
    """Reads mmdebstrap's lines, reports how far it is, and keeps the errors for whoever has to tell the user.

    apt runs twice (the essential packages first), so totals are those of the round that is under way.
    """

    def __init__(self) -> None:
        self.packages = self.bytes = self.fetched = self.unpacked = self.configured = 0
        self.errors: list[str] = []
        self.full = False

    def __call__(self, line: str) -> None:
        """One line of its stderr."""
        self.full = self.full or "No space left on device" in line
        if line.startswith(("E:", "E ")):
            self.errors = [*self.errors, line][-4:]
        elif line.startswith("I: "):
            self._phase(line[3:].rstrip("."))
        elif found := re.match(r"\d+ upgraded, (\d+) newly installed", line):
            self.packages, self.bytes = int(found[1]), 0
            self.fetched = self.unpacked = self.configured = 0
        elif found := re.match(r"Need to get (?:\S+ \S+/)?([\d.,]+) (\w+)(?:/\S+ \S+)? of archives", line):
            self.bytes = size(found[1], found[2])
        elif found := re.match(r"Get:\d+ .* \[([\d.,]+) (\w+)\]$", line):
            self._fetch(size(found[1], found[2]))
        elif line.startswith("Unpacking "):
            self.unpacked += 1
            report("unpack", done=self.unpacked, total=max(self.packages, self.unpacked), unit="packages")
        elif line.startswith("Setting up "):
            self.configured += 1
            report("configure", done=self.configured, total=max(self.packages, self.configured), unit="packages")

    def _phase(self, text: str) -> None:
        if text in PHASES:
            report(PHASES[text])

    def _fetch(self, count: int) -> None:
        """Before the first total is known it is the archive's index that arrives."""
        self.fetched += count
        if self.bytes:
            report("download", done=min(self.fetched, self.bytes), total=self.bytes, unit="bytes")
        else:
            report("download package lists", done=self.fetched, unit="bytes")

    def explain(self, failure: ToolFailed, what: str) -> BangerError:
        """The failure with the lines that say why, instead of the last ones."""
        if self.full:
            return no_space(what)
        cause = " | ".join(self.errors) or failure.message
        return ToolFailed(f"{what} could not be made: {cause}", hint="check the network and apt's sources, then try again", tail=failure.tail)


def size(number: str, unit: str) -> int:
    """Bytes, as apt writes them; 0 when it is no size."""
    try:
        return int(float(number.replace(",", "")) * UNITS.get(unit, 0))
    except ValueError:
        return 0
