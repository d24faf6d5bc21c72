"""Privilege as a test wants it."""

from __future__ import annotations

from banger.host.privilege import Standing
from banger.model.errors import HostLacks


class FakePrivilege:
    """None, until `now` is set."""

    def __init__(self) -> None:
        self.now: Standing | None = None
        self.reason = "not installed"

    async def standing(self) -> Standing:
        """See Privilege."""
        if self.now is None:
            raise HostLacks(self.reason, hint="as root: banger system install --owner USER")
        return self.now
