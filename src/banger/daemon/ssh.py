"""Logging in by ssh: this installation's key, the machines' pinned host keys, and the stream to an ssh server in a guest.

The server is started by the agent for each connection, and gets our public key with the request; so no network, no port, no service, and no file of
the image's or of a user's has a part in it. What the host keys are, the agent says over the channel at each boot: that is what is pinned, so nobody's
first use is blind. Owns the folder `ssh` below the state folder; a machine's entry goes with the machine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from typing import TYPE_CHECKING

from banger.daemon.duplex import Duplex
from banger.daemon.guests import Conversation
from banger.host import Host
from banger.model.errors import BadRequest, BangerError, Corrupt, GuestFailed, HostLacks
from banger.model.finding import Finding, Level
from banger.model.packages import install
from banger.model.ssh import DOMAIN, SshAccess, SshLogin, fingerprint, is_public_key, parse_known_hosts, render_known_hosts, sound_keys

if TYPE_CHECKING:
    from banger.daemon.machine import Machine
    from banger.daemon.vms import Vms

log = logging.getLogger(__name__)
PACKAGES = ("openssh-client",)
KEYGEN_SECONDS = 20.0
ASK_SECONDS = 20.0


def finding(host: Host) -> Finding:
    """For doctor: whether there are the programs to log in with."""
    missing = [name for name in ("ssh", "ssh-keygen") if host.proc.which(name) is None]
    if missing:
        return Finding(level=Level.WARN, subject="ssh", message=f"{' and '.join(missing)} not installed: no banger vm ssh", packages=PACKAGES)
    return Finding(level=Level.PASS, subject="ssh", message=str(host.proc.which("ssh")))


class KnownHosts:
    """The pinned host keys by machine's name, in memory and in the file that ssh reads. One that cannot be written now is written with the next."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.keys: dict[str, tuple[str, ...]] = {}

    def load(self, names: Collection[str]) -> None:
        """After a start of the daemon: what the file has of machines that there still are."""
        text = (self.host.files.read(self.host.paths.known_hosts) or b"").decode("ascii", "replace")
        found = parse_known_hosts(text)
        self.keys = {name: keys for name, keys in found.items() if name in names}
        if self.keys != found:
            self._write()

    def pin(self, name: str, said: object) -> None:
        """From now on a machine's keys are those that its agent has just told, and no others."""
        keys = sound_keys(said)
        if self.keys.get(name, ()) != keys:
            self.keys[name] = keys
            self._write()

    def forget(self, name: str) -> None:
        """A machine is no more."""
        if self.keys.pop(name, ()):
            self._write()

    def of(self, name: str) -> tuple[str, ...]:
        """A machine's pinned keys."""
        return self.keys.get(name, ())

    def _write(self) -> None:
        """Not necessarily lasting: each boot of a machine tells its keys anew. A full disk must not keep a machine from starting or going."""
        path = self.host.paths.known_hosts
        try:
            self.host.files.private_folder(path.parent)
            self.host.files.write_atomic(path, render_known_hosts(self.keys).encode(), durable=False)
        except (BangerError, OSError) as error:
            log.warning("the machines' host keys are not in %s, so ssh will refuse the newest: %s", path, error)


class Ssh:
    """What `vm ssh`, and ssh itself by its configuration, ask for."""

    def __init__(self, host: Host, vms: Vms) -> None:
        self.host, self.vms, self.known = host, vms, vms.known
        self.making = asyncio.Lock()

    async def access(self) -> SshAccess:
        """The key, made if there is none."""
        return SshAccess(folder=str(self.host.paths.ssh), public_key=await self._public_key())

    async def login(self, reference: str, user: str) -> SshLogin:
        """Make sure that somebody can log in to a machine; NoCommand when its image has no ssh server. Whether there is that user, sshd finds out."""
        if not user or user.startswith("-") or not user.isprintable():
            raise BadRequest(f"{user!r} is not a user's name")
        machine, conversation = await self.vms.talk(reference)
        await self._public_key()
        await self._pin(machine, conversation)
        name = machine.plan.name
        keys = self.known.of(name)
        return SshLogin(folder=str(self.host.paths.ssh), host=name + DOMAIN, user=user, fingerprints=tuple(map(fingerprint, keys)))

    async def connect(self, reference: str, user: str) -> Duplex:
        """A stream to an ssh server that is started for it, and for that user; ends with it."""
        machine, conversation = await self.vms.talk(reference)
        if not self.known.of(machine.plan.name):
            await self._pin(machine, conversation)
        return await conversation.open({"op": "ssh", "user": user, "authorized_keys": [await self._public_key()]})

    async def _pin(self, machine: Machine, conversation: Conversation) -> None:
        """Ask for the host keys, which proves that there is a server. What was told at boot stays: keys that change later are not to be trusted."""
        name = machine.plan.name
        answer = await conversation.request({"op": "ssh-keys", "machine_id": machine.plan.machine_id}, timeout=ASK_SECONDS)
        if not self.known.of(name):
            self.known.pin(name, answer.get("host_keys"))
        if not self.known.of(name):
            raise GuestFailed(f"machine {name} has told no host key that can be believed", hint=f"run: banger vm restart {name}")

    async def _public_key(self) -> str:
        """`ssh-ed25519 …`, with the private key beside it; both are made anew when one is missing or the public one cannot be meant."""
        async with self.making:
            return self._read() or await self._make()

    def _read(self) -> str:
        path = self.host.paths.ssh_key
        text = (self.host.files.read(path.with_suffix(".pub")) or b"").decode("ascii", "replace")
        key = " ".join(text.split()[:2])
        return key if is_public_key(key) and self.host.files.size(path) else ""

    async def _make(self) -> str:
        """By ssh-keygen, and named when whole: the private key last."""
        if self.host.proc.which("ssh-keygen") is None:
            raise HostLacks("ssh-keygen is not installed", hint=f"as root: {install(PACKAGES, self.host.facts.distribution())}")
        path = self.host.paths.ssh_key
        fresh = self.host.files.private_folder(path.parent) / "new"
        self.host.files.remove_tree(fresh)
        self.host.files.private_folder(fresh)
        made = fresh / path.name
        try:
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "banger", "-f", str(made)]
            await self.host.proc.run(command, timeout=KEYGEN_SECONDS)
            self.host.files.replace(made.with_suffix(".pub"), path.with_suffix(".pub"))
            self.host.files.replace(made, path)
        finally:
            self.host.files.remove_tree(fresh)
        key = self._read()
        if not key:
            raise Corrupt(f"{path}: what ssh-keygen made is no ed25519 key")
        return key
