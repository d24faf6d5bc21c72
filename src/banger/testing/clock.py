"""A clock that stands still until told, and randomness that repeats."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta


class FakeClock:
    """Begins at a fixed moment; each call of `random` gives the next piece of one fixed sequence."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        self.drawn = 0

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.time += timedelta(seconds=seconds)

    def now(self) -> datetime:
        """See Clock."""
        return self.time

    def nanoseconds(self) -> int:
        """See Clock."""
        return int(self.time.timestamp() * 1e9)

    def random(self, count: int) -> bytes:
        """See Clock."""
        self.drawn += 1
        return hashlib.shake_256(str(self.drawn).encode()).digest(count)
