"""Firecracker's releases: versions, which are good enough, and what their archives are called and must be, byte for byte.

Names are those that Firecracker's own release process gives (its docs/getting-started.md). Pure.
"""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum
from pathlib import PurePosixPath

import msgspec

from banger.model.errors import BadRequest, VmmFailed

Version = tuple[int, int, int]
FLOOR: Version = (1, 10, 0)
#: What is installed when no version is named.
DEFAULT = "1.16.1"
#: SHA-256 of each known version's archive for x86_64, as its release publishes it. A version that is not here is checked against what is published.
KNOWN = {
    "1.15.1": "d4a32ab2322d887ca1bc4a4e7afa9cc35393e6362dfc2b3becb389d362e4275a",
    "1.16.1": "382a02a869e4d6d5cb14c40577f9545e8458021ea8b0b2d3fc10ec14d9c242e6",
    "1.17.0": "06094a1108ae9e82aa4c23a775aa92758f53f1175d422270d9d6162cb9ade558",
}
PUBLISHED = "https://github.com/firecracker-microvm/firecracker/releases/download"
BINARIES = ("firecracker", "jailer")
VERSION = re.compile(r"v?(0|[1-9]\d{0,3})\.(0|[1-9]\d{0,3})\.(0|[1-9]\d{0,3})\Z")
MEMBER = re.compile(r"(firecracker|jailer)(-v\d+\.\d+\.\d+-x86_64)?\Z")
DIGEST = re.compile(r"[0-9a-f]{64}\Z")


class Trust(StrEnum):
    """How an installed version was checked: against the digest in `KNOWN`, one that the user gave, the one published beside it, or not at all."""

    KNOWN = "known digest"
    GIVEN = "digest given"
    PUBLISHED = "digest published beside it"
    NONE = "taken as it was given"


class Release(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An installed version, and what is kept beside its binaries. `digest` is that of the archive (or single binary), `jailer` whether it has one."""

    format: int = 1
    version: str
    digest: str
    trust: Trust
    jailer: bool
    installed: datetime


class Binary(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A Firecracker that could be used. `source` is `setting`, `installed` or `PATH`; `version` is empty when it does not say one.

    `used`: it is the one that machines are started with. `jailer` is the path of the jailer that goes with it, or empty.
    """

    version: str
    path: str
    source: str
    used: bool
    jailer: str
    trust: str = ""


def parse_version(said: str, name: str = "Firecracker") -> Version:
    """From what `--version` prints first: `Firecracker v1.12.1`. VmmFailed when it is something else."""
    found = re.match(rf"{name} v(\d+)\.(\d+)\.(\d+)", said)
    if found is None:
        raise VmmFailed(f"the command {name.lower()} does not say which version it is: {said[:100]!r}")
    return int(found[1]), int(found[2]), int(found[3])


def show_version(version: Version) -> str:
    """As people write it."""
    return ".".join(map(str, version))


def valid_version(text: str) -> str:
    """`1.12.1` from `1.12.1` or `v1.12.1`; BadRequest for anything else, and for what is too old."""
    found = VERSION.match(text)
    if found is None:
        raise BadRequest(f"{text[:40]!r} is not a version of Firecracker", hint="versions look like 1.16.1")
    if numbers(text) < FLOOR:
        raise BadRequest(f"Firecracker {text.removeprefix('v')} is too old", hint=f"choose {show_version(FLOOR)} or newer")
    return text.removeprefix("v")


def numbers(text: str) -> Version:
    """A version as it compares; zeros for what is none."""
    found = VERSION.match(text)
    return (int(found[1]), int(found[2]), int(found[3])) if found else (0, 0, 0)


def valid_digest(text: str) -> str:
    """64 hex digits, in lower case; BadRequest for anything else."""
    plain = text.strip().lower().removeprefix("sha256:")
    if not DIGEST.match(plain):
        raise BadRequest(f"{text[:80]!r} is not a SHA-256 digest", hint="it has 64 hex digits: sha256sum FILE prints it")
    return plain


def archive_name(version: str) -> str:
    """The archive of a release."""
    return f"firecracker-v{version}-x86_64.tgz"


def published_digest(text: str, name: str) -> str:
    """The digest of `name` from a published list (`sha256sum` writes it: digest, blanks, name); empty when it is not in it."""
    for line in text.splitlines():
        words = line.split()
        if len(words) == 2 and words[1].lstrip("*") == name and DIGEST.match(words[0]):
            return words[0]
    return ""


def chosen(name: PurePosixPath) -> PurePosixPath | None:
    """Where a file of the archive goes: the two binaries by their plain names, nothing else."""
    found = MEMBER.match(name.name)
    return PurePosixPath(found[1]) if found else None
