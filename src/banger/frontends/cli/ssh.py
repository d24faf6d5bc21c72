"""`vm ssh`: becomes the system's own ssh, with a configuration that is ours alone.

The configuration is the same for every machine: `Host *.vm`, our key and no other, the machines' pinned host keys and no others, and a ProxyCommand
that asks for an ssh server in the guest. It is written here, where the command line knows how banger is called and where its folders are.
"""

from __future__ import annotations

import os
import sys

from banger.client import Client
from banger.model.errors import HostLacks, NoCommand

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from banger.frontends.cli.parse import Given

#: What decides which daemon answers, and where it keeps its state.
FOLDERS = ("XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")


def ssh(given: Given) -> int:
    """Make sure that logging in is possible, with an error of banger's own if not; then ssh takes over."""
    try:
        found = Client().call("vm.ssh", **given.parameters)
    except NoCommand as error:
        error.hint = f"use: banger vm exec {given.parameters['vm']} -- CMD, or an image with openssh-server"
        raise
    assert isinstance(found, dict)
    return become(["ssh", "-F", written(str(found["folder"])), "-l", str(found["user"]), str(found["host"]), *given.rest])


def become(command: list[str]) -> int:
    """Go on as another program, with the signals as a program finds them at its start: Python ignores two of them."""
    from signal import SIG_DFL, SIGPIPE, SIGXFSZ, signal

    for number in (SIGPIPE, SIGXFSZ):
        signal(number, SIG_DFL)
    sys.stdout.flush()
    try:
        os.execvp(command[0], command)
    except FileNotFoundError:
        raise HostLacks(
            f"{command[0]} is not installed", hint="install OpenSSH's client (Debian's package openssh-client), or use: banger vm exec"
        ) from None


def written(folder: str) -> str:
    """The path of the configuration, which says what it has to by now."""
    path, text = os.path.join(folder, "config"), configuration(folder, [sys.executable, "-P", "-m", "banger"], os.environ)
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            if file.read() == text:
                return path
    except FileNotFoundError:
        pass  # written below
    fresh = f"{path}.{os.getpid()}.new"
    with open(fresh, "w", encoding="utf-8", errors="surrogateescape", opener=_private) as file:
        file.write(text)
    os.replace(fresh, path)
    return path


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def configuration(folder: str, program: list[str], environ: Mapping[str, str]) -> str:
    """The text, for ssh_config(5). `program` is how banger is called; of `environ` what decides which daemon is asked. Pure."""
    places = [f"{name}={environ[name]}" for name in FOLDERS if environ.get(name, "").startswith("/")]
    proxy = [*(["/usr/bin/env", *places] if places else []), *program, "vm", "sshd"]
    return f"""\
# Written by banger, and again whenever it differs: changes made here are lost. Put yours into ~/.ssh/config.
Host *.vm
    User root
    Port 22
    ProxyCommand {" ".join(_word(word) for word in proxy)} --user '%r' '%h'
    IdentityFile {_path(folder, "id_ed25519")}
    IdentitiesOnly yes
    IdentityAgent none
    AddKeysToAgent no
    ForwardAgent no
    ForwardX11 no
    PreferredAuthentications publickey
    UserKnownHostsFile {_path(folder, "known_hosts")}
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    UpdateHostKeys no
    VerifyHostKeyDNS no
    CheckHostIP no
    CanonicalizeHostname no
"""


def _word(text: str) -> str:
    """A word of a command that a shell reads after ssh has replaced its %-tokens; any usual shell."""
    _sound(text)
    plain = text.replace("%", "%%")
    if plain.replace("/", "").replace("-", "").replace("_", "").replace(".", "").replace("=", "").isalnum() and plain.isascii():
        return plain
    return "'" + plain.replace("'", "'\"'\"'") + "'"


def _path(folder: str, name: str) -> str:
    path = os.path.join(folder, name)
    _sound(path)
    if '"' in path or "${" in path:
        raise HostLacks(f"ssh's configuration cannot name the folder {folder!r}", hint="set XDG_STATE_HOME to one without quotes and signs like that")
    return '"' + path.replace("%", "%%") + '"'


def _sound(text: str) -> None:
    if any(ord(sign) < 32 for sign in text):
        raise HostLacks(f"ssh's configuration cannot name {text!r}", hint="set the XDG variables to folders without control characters")
