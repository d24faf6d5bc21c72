"""Keys and signatures in the form of minisign (https://jedisct1.github.io/minisign/), read strictly: what is not exactly that is refused.

A public key is 42 bytes in base64: `Ed`, the key's id, and an Ed25519 key. A signature file has four lines: a comment that nobody vouches for; `Ed` or
`ED`, the key's id and the signature, of the file itself or of its BLAKE2b-512; a comment; and a signature of the first signature with that comment.
Pure: nothing is verified here (daemon/signatures.py).
"""

from __future__ import annotations

import base64
import binascii

import msgspec

from banger.model.errors import BadRequest, Corrupt

#: The most that a signature file has: minisign's own limits are 1024 bytes for the first comment and 8192 for the other.
LARGEST = 16 << 10
UNTRUSTED, TRUSTED = b"untrusted comment: ", b"trusted comment: "
PLAIN, HASHED = b"Ed", b"ED"


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A public key. `text` is the 56 characters of base64, which are the key and so its own fingerprint; `id` is how signatures refer to it."""

    text: str
    id: bytes
    key: bytes

    def __str__(self) -> str:
        return f"{show_id(self.id)} ({self.text})"


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """A signature file. `hashed`: of the BLAKE2b-512 of what is signed; `of_comment` signs `signature` and `comment` together."""

    hashed: bool
    id: bytes
    signature: bytes
    comment: bytes
    of_comment: bytes


def show_id(identity: bytes) -> str:
    """As minisign writes it: a little-endian number in hex."""
    return f"{int.from_bytes(identity, 'little'):016X}"


def parse_key(text: str) -> Key:
    """The key in a public key file, or in its second line alone; BadRequest for anything else."""
    lines = text.strip().splitlines()
    if len(lines) == 2 and lines[0].startswith(UNTRUSTED.decode()):
        lines = lines[1:]
    line = lines[0].strip() if len(lines) == 1 else ""
    raw = _decoded(line.encode("utf-8", "replace"), 42)
    if raw is None or raw[:2] != PLAIN:
        raise BadRequest("that is not a public key of minisign", hint="it begins with RW and has 56 characters; minisign -G writes it to minisign.pub")
    return Key(text=line, id=raw[2:10], key=raw[10:])


def parse_signature(data: bytes, what: str) -> Signature:
    """The signature in a file; Corrupt, naming `what`, for anything else."""
    lines = data.removesuffix(b"\n").split(b"\n")
    if len(data) > LARGEST or len(lines) != 4 or not lines[0].startswith(UNTRUSTED) or not lines[2].startswith(TRUSTED):
        raise Corrupt(f"{what} is not a signature of minisign")
    raw, of_comment = _decoded(lines[1], 74), _decoded(lines[3], 64)
    if raw is None or of_comment is None:
        raise Corrupt(f"{what} is not a signature of minisign: a line is not the base64 that it should be")
    if raw[:2] not in (PLAIN, HASHED):
        raise Corrupt(f"{what} is a signature of a kind that is not known: {raw[:2]!r}")
    return Signature(hashed=raw[:2] == HASHED, id=raw[2:10], signature=raw[10:], comment=lines[2].removeprefix(TRUSTED), of_comment=of_comment)


def _decoded(text: bytes, length: int) -> bytes | None:
    """So many bytes, written in the only way there is."""
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return found if len(found) == length and base64.b64encode(found) == text else None
