"""Whether a signature is a key's. Ed25519 is `cryptography`'s, which is imported when something is verified for the first time."""

from __future__ import annotations

import hashlib

from banger.model.errors import Corrupt
from banger.model.minisign import Key, parse_signature, show_id


def verify(key: Key, data: bytes, signature: bytes, what: str) -> str:
    """The comment that was signed with `data`; Corrupt, naming `what`, unless all of it is by `key`.

    Nothing of `data` is looked at but its hash.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    found = parse_signature(signature, f"the signature of {what}")
    if found.id != key.id:
        raise Corrupt(f"{what} is signed by another key: by {show_id(found.id)}, not by {key}", hint="nothing was kept")
    signed = hashlib.blake2b(data).digest() if found.hashed else data
    try:
        public = Ed25519PublicKey.from_public_bytes(key.key)
        public.verify(found.signature, signed)
        public.verify(found.of_comment, found.signature + found.comment)
    except (InvalidSignature, ValueError) as error:
        raise Corrupt(f"{what} is not what {key} has signed", hint="nothing was kept") from error
    return found.comment.decode("utf-8", "replace")
