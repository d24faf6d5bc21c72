"""The figures of Firecracker, taken in the lab machine that is kept up: both sides of each ratio run there, so its slowness falls out."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from bench.measure import Figure
from tests.lab import payload
from tests.lab.laboratory import environment
from tests.lab.standing import Standing
from tests.world import ROOT

SECONDS = 1200.0


def nested(*names: str) -> Iterator[Figure]:
    """Those named of `bench.nested`, or all of them, in a lab machine that ends with it."""
    with payload.alone():
        standing = Standing()
        lab = standing.up()
        lab.bring(ROOT / "src")
        said = lab.ok(*environment({}), "python3", "-m", "bench.nested", *names, timeout=SECONDS)
        standing.end()
    yield from msgspec.json.decode(said.encode(), type=list[Figure])
