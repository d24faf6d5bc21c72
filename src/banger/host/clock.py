"""Time and randomness, so that decisions can be tested with fixed ones."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where now and chance come from."""

    def now(self) -> datetime:
        """The time, UTC."""

    def nanoseconds(self) -> int:
        """Nanoseconds since the Unix epoch."""

    def random(self, count: int) -> bytes:
        """Bytes fit for keys."""


class RealClock:
    """The host's clock and random source."""

    def now(self) -> datetime:
        """See Clock."""
        return datetime.now(UTC)

    def nanoseconds(self) -> int:
        """See Clock."""
        return time.time_ns()

    def random(self, count: int) -> bytes:
        """See Clock."""
        return os.urandom(count)
