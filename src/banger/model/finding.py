"""What a `check()` finds: one row of `banger doctor`."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Level(StrEnum):
    """PASS: works. WARN: works, but worse than it could. FAIL: something the defaults need does not work."""

    PASS = "PASS"
    WARN = "WARN"
    FAIL = "FAIL"


class Finding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One row: what was checked, how it stands, and the fix (a command where there is one). `packages` are what is missing.

    A backend names packages as Debian does, and no fix for them; doctor puts both in the words of the host's distribution (model/packages.py).
    """

    level: Level
    subject: str
    message: str
    fix: str = ""
    packages: tuple[str, ...] = ()
