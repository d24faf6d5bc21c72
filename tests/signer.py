"""Signatures as minisign makes them, without minisign: whoever tests what is done with bad ones makes good ones first."""

from __future__ import annotations

import base64
import hashlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


class Signer:
    """A key pair; `number` tells one from another."""

    def __init__(self, number: int = 1, identity: bytes = b"") -> None:
        self.secret = Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
        self.id = identity or bytes([number]) * 8

    @property
    def key(self) -> str:
        """The second line of minisign.pub."""
        return base64.b64encode(b"Ed" + self.id + self.secret.public_key().public_bytes_raw()).decode()

    def sign(self, data: bytes, *, comment: bytes = b"timestamp:1", legacy: bool = False, algorithm: bytes = b"") -> bytes:
        """A signature file."""
        signature = self.secret.sign(data if legacy else hashlib.blake2b(data).digest())
        raw = (algorithm or (b"Ed" if legacy else b"ED")) + self.id + signature
        lines = [
            b"untrusted comment: x",
            base64.b64encode(raw),
            b"trusted comment: " + comment,
            base64.b64encode(self.secret.sign(signature + comment)),
        ]
        return b"\n".join(lines) + b"\n"
