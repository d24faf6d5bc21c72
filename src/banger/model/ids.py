"""Names and identities: their types, what is allowed in them, and how new ones are made. Random sources come in as arguments."""

from __future__ import annotations

import re
from typing import NewType

from banger.model.errors import BadRequest

VmId = NewType("VmId", str)
"""12 lower-case hex digits; never used twice, so a stale one cannot hit a later machine of the same name."""

OperationId = NewType("OperationId", str)
"""`op-` and 8 hex digits."""

LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
ARTEFACT = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,127}\Z")

ADJECTIVES = (
    "amber", "bold", "brisk", "calm", "clear", "crisp", "early", "fair", "fleet", "fresh", "gentle", "glad", "keen", "kind", "light", "lively",
    "lucky", "mellow", "neat", "nimble", "plain", "proud", "quick", "quiet", "rapid", "ready", "sharp", "spry", "steady", "sunny", "swift", "warm",
)  # fmt: skip
NOUNS = (
    "badger", "beaver", "bison", "crane", "dingo", "dove", "egret", "falcon", "ferret", "finch", "gecko", "heron", "ibex", "jackal", "kestrel",
    "lark", "lemur", "lynx", "marten", "mole", "newt", "ocelot", "otter", "owl", "panda", "plover", "raven", "robin", "seal", "stoat", "tern", "wren",
)  # fmt: skip


def valid_vm_name(name: str) -> str:
    """The name itself if it is a DNS label (RFC 1123: 1 … 63 of a-z, 0-9 and inner hyphens), else BadRequest. Nothing is normalised."""
    if not LABEL.match(name):
        raise BadRequest(f"{name!r} is not a machine name", hint="use 1 to 63 of a-z, 0-9 and '-', with no '-' at either end")
    return name


def valid_artefact_name(name: str) -> str:
    """The name of an image or kernel: letters, digits, '.', '_' and '-', at most 128, so that it is one safe path component."""
    if not ARTEFACT.match(name) or ".." in name:
        raise BadRequest(f"{name!r} is not the name of an image or kernel", hint="use letters, digits, '.', '_' and '-'")
    return name


def new_name(entropy: int, taken: frozenset[str]) -> str:
    """A free adjective-noun name; `entropy` is any large random number."""
    adjective, noun = ADJECTIVES[entropy % len(ADJECTIVES)], NOUNS[entropy // len(ADJECTIVES) % len(NOUNS)]
    name = f"{adjective}-{noun}"
    number = 1
    while name in taken:
        number += 1
        name = f"{adjective}-{noun}-{number}"
    return name


def mac_of(vm: VmId) -> str:
    """A MAC address computed from the id: locally administered, unicast (IEEE 802: second lowest bit of the first octet set, lowest clear)."""
    return "52:42:" + ":".join(vm[at : at + 2] for at in (0, 2, 4, 6))
