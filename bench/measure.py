"""How things are timed: two commands in turn (A B A B …), so that a machine that grows slower slows both; medians, and the ratio of the medians."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

RUNS = 5


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One row: medians in `unit`, what of them is compared, and the most (or least) it may be. `goal` 0: no ratio, an absolute bound in `unit`."""

    name: str
    ours: float
    baseline: float
    unit: str
    against: str
    bound: float
    at_most: bool = True
    runs: int = RUNS

    @property
    def value(self) -> float:
        """What is held against the bound."""
        return self.ours / self.baseline if self.baseline else self.ours

    @property
    def met(self) -> bool:
        """Whether the bound holds."""
        return self.value <= self.bound if self.at_most else self.value >= self.bound


def seconds(action: Callable[[], object]) -> float:
    """How long it takes."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def in_turn(ours: Callable[[], float], baseline: Callable[[], float], runs: int = RUNS) -> tuple[float, float]:
    """The medians of both, after one uncounted run of each."""
    ours(), baseline()
    pairs = [(ours(), baseline()) for _ in range(runs)]
    return statistics.median(first for first, _ in pairs), statistics.median(second for _, second in pairs)


def run(command: Sequence[str], env: Mapping[str, str] | None = None) -> float:
    """Seconds of a whole process that must succeed; its output is read and dropped."""
    return seconds(lambda: subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=True))
