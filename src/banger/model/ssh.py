"""Words of ssh: what a client needs to log in, and public keys as lines. Pure.

A guest says what its host keys are, and what it says ends up in a file that ssh believes: only a plain key of a known type passes, never a marker, an
option, a second line, or more than a few.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping

import msgspec

#: What a machine is called by ssh: its name and this.
DOMAIN = ".vm"
TYPES = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa")
LONGEST, MOST = 4096, 8


class SshAccess(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What this installation logs in with. `folder` holds the private key `id_ed25519` and the file `known_hosts`."""

    folder: str
    public_key: str


class SshLogin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A machine that can be logged in to: at `host`, whose pinned keys have these fingerprints, as `user`."""

    folder: str
    host: str
    user: str
    fingerprints: tuple[str, ...]


def sound_keys(said: object) -> tuple[str, ...]:
    """The public keys, `TYPE BASE64` each, among whatever a guest said its host keys are."""
    lines = [line for line in said if isinstance(line, str)] if isinstance(said, list) else []
    return tuple(line for line in lines[:MOST] if is_public_key(line))


def is_public_key(line: str) -> bool:
    """Whether it is exactly a type and a key of that type (RFC 4253, section 6.6: the key begins with its type)."""
    kind, _, text = line.partition(" ")
    if kind not in TYPES or len(line) > LONGEST:
        return False
    try:
        blob = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    head = len(kind).to_bytes(4, "big") + kind.encode()
    return blob.startswith(head) and len(blob) > len(head) and base64.b64encode(blob).decode() == text


def fingerprint(key: str) -> str:
    """As ssh shows it: `SHA256:…`."""
    digest = hashlib.sha256(base64.b64decode(key.partition(" ")[2])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def render_known_hosts(keys: Mapping[str, tuple[str, ...]]) -> str:
    """The file: a line for each key of each machine, by its name."""
    return "".join(f"{name}{DOMAIN} {key}\n" for name, lines in keys.items() for key in lines)


def parse_known_hosts(text: str) -> dict[str, tuple[str, ...]]:
    """Machines' keys by name, from a file that `render_known_hosts` made; whatever else stands there is left out."""
    found: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        host, _, key = line.partition(" ")
        if host.endswith(DOMAIN) and is_public_key(key):
            name = host.removesuffix(DOMAIN)
            found[name] = (*found.get(name, ()), key)
    return found
