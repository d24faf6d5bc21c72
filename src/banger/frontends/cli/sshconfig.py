"""`ssh-config`: prints ssh's configuration for machines, or makes the user's own one include it.

The user's file gets one fenced block at its very top, since an Include further down would belong to the Host before it. All else in that file, and
the file's mode, are the user's and stay byte for byte; a link is followed, so that what a dotfile manager keeps elsewhere is changed there. What
cannot be changed so is refused, with the line to add by hand.
"""

from __future__ import annotations

import os
import stat

from banger.client import Client
from banger.frontends.cli.output import clean, data, talk
from banger.frontends.cli.parse import Given
from banger.frontends.cli.ssh import written
from banger.model.errors import BadRequest, BangerError, HostLacks, WrongState

BEGIN, END = b"# >>> banger: machines as NAME.vm >>>", b"# <<< banger <<<"


def configure(given: Given) -> int:
    """Print, install or uninstall."""
    if len(given.rest) > 1 or {"install", "uninstall"} <= given.own:
        raise BadRequest("ssh-config takes one of --install and --uninstall, and one file at most", hint="see banger ssh-config --help")
    file = given.rest[0] if given.rest else ""
    if "uninstall" in given.own:
        target = file or own_file()
        talk(f"{clean(target)}: {'without banger again' if edit(target, b'') else 'nothing of banger in it'}")
        return 0
    found = Client().call("ssh.access")
    assert isinstance(found, dict)
    config = written(str(found["folder"]))
    if "install" in given.own:
        target = file or own_file()
        talk(f"{clean(target)}: {'now includes' if edit(target, os.fsencode(config)) else 'includes already'} {clean(config)}")
        return 0
    if file:
        raise BadRequest("ssh-config prints to stdout", hint=f"banger ssh-config > {file}, or: banger ssh-config --install {file}")
    with open(config, encoding="utf-8", errors="backslashreplace") as text:
        data(text.read())
    return 0


def own_file() -> str:
    """The configuration that ssh reads of this user: below the home that the user has by passwd(5), whatever HOME says."""
    from pwd import getpwuid

    try:
        home = getpwuid(os.geteuid()).pw_dir
    except KeyError:
        raise HostLacks(f"user {os.geteuid()} has no home", hint="name the file: banger ssh-config --install FILE") from None
    return os.path.join(home, ".ssh", "config")


def edit(path: str, config: bytes) -> bool:
    """Make the file include `config` (empty: nothing of ours); whether that changed anything."""
    line = f"Include {config.decode('utf-8', 'backslashreplace')}"
    real = os.path.realpath(path)
    try:
        before = _read(real, path)
        after = fenced(before or b"", config, path)
        if after == (before or b""):
            return False
        _write(real, after)
    except OSError as error:
        raise HostLacks(f"{path} cannot be changed: {error.strerror}", hint=f"do it by hand; its first line: {line}") from error
    except BangerError as error:
        error.hint = error.hint or f"do it by hand; its first line: {line}"
        raise
    return True


def fenced(text: bytes, config: bytes, path: str = "the file") -> bytes:
    """The text with our block first (none: `config` is empty), and the rest as it was. WrongState when a fence stands alone. Pure."""
    *whole, last = text.split(b"\n")  # as ssh does: other signs end no line
    kept: list[bytes] = []
    inside = False
    for line in [*(line + b"\n" for line in whole), *([last] if last else [])]:
        mark = line.strip()
        if mark in (BEGIN, END):
            if inside != (mark == END):
                raise WrongState(f"{path} has half of a banger block: a fence is missing", hint="take what is left of it out by hand")
            inside = not inside
        elif not inside:
            kept.append(line)
    if inside:
        raise WrongState(f"{path} has half of a banger block: a fence is missing", hint="take what is left of it out by hand")
    rest = b"".join(kept)
    if not config:
        return rest
    end = b"\r\n" if kept and kept[0].endswith(b"\r\n") else b"\n"
    return end.join([BEGIN, b'Include "' + config + b'"', END, b""]) + rest


def _read(real: str, path: str) -> bytes | None:
    """The content, None when there is no file; HostLacks for what is not an ordinary, writable file of the user's."""
    try:
        found = os.stat(real)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise HostLacks(f"{path} is not a file")
    if found.st_uid != os.geteuid():
        raise HostLacks(f"{path} belongs to user {found.st_uid}, not to you")
    if not found.st_mode & 0o200:
        raise HostLacks(f"{path} is read-only")
    with open(real, "rb") as file:
        return file.read()


def _write(real: str, text: bytes) -> None:
    """In one step; mode and group as they were. A new file, and a new folder, are for the user alone."""
    folder = os.path.dirname(real)
    if not os.path.isdir(folder):
        os.mkdir(folder, 0o700)
    try:
        former: os.stat_result | None = os.stat(real)
    except FileNotFoundError:
        former = None
    fresh = os.path.join(folder, f".{os.path.basename(real)}.{os.getpid()}.banger")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
            file.flush()
            if former is not None:
                os.fchown(descriptor, -1, former.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(former.st_mode))
            os.fsync(descriptor)
        os.replace(fresh, real)
    except BaseException:
        os.unlink(fresh)
        raise
