"""The conformance table: each test that holds for every VMM, by what it ran on. Printed at the end of a run, and written to the file
that `BANGER_CONFORMANCE` names.

A test that is marked runs here on what this run is about; those that ran in the lab machine are told of by the tests that stand for them here, with the
property `conformance` (target and name).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.world import everywhere

PROPERTY = "conformance"
#: What the lab machine's runs are about: by the name of the target, the settings of its tests.
LAB_TARGETS = {
    "Firecracker": "vmm=firecracker network=none boot_timeout=120",
    "QEMU+KVM": "vmm=qemu kvm=yes network=none boot_timeout=120",
}
HERE = "QEMU+TCG"
_seen: dict[tuple[str, str], str] = {}


def target() -> str:
    """What this run's own tests are about."""
    settings = everywhere()
    kvm = settings.get("kvm") == "yes"
    return "Firecracker" if settings.get("vmm") == "firecracker" else "QEMU+KVM" if kvm else HERE


def hear(report: pytest.TestReport) -> None:
    """Keep the worst of a test's three phases."""
    named = [value for name, value in report.user_properties if name == PROPERTY]
    for value in named or ([(target(), report.nodeid)] if PROPERTY in report.keywords else []):
        assert isinstance(value, tuple)
        key = (str(value[1]), str(value[0]))
        if report.failed or _seen.get(key) is None or report.skipped:
            _seen[key] = "failed" if report.failed else report.outcome


def told() -> Iterator[str]:
    """The table's lines; none when all ran on the same and nobody wants it written."""
    targets = [each for each in (*LAB_TARGETS, HERE) if any(there == each for _, there in _seen)]
    if len(targets) < 2 and not os.environ.get("BANGER_CONFORMANCE"):
        return
    lines = [f"{'conformance':<110}" + "".join(f"{each:>14}" for each in targets)]
    for name in sorted({name for name, _ in _seen}):
        short = name.removeprefix("tests/vm/").removeprefix("test_").replace(".py::test_", ": ").replace("_", " ")
        lines.append(f"{short[:109]:<110}" + "".join(f"{_seen.get((name, each), '-'):>14}" for each in targets))
    if place := os.environ.get("BANGER_CONFORMANCE"):
        Path(place).write_text("\n".join(lines) + "\n")
    yield from lines
