"""What of the host makes machines slow: facts in, rows of doctor out."""

from __future__ import annotations

import msgspec
import pytest

from banger.daemon.tuning import findings
from banger.host.kernel import Kernel
from banger.model.finding import Finding, Level

QUICK = Kernel(version=(6, 1), cgroup=2, favordynmods=True, nx_huge_pages="auto", itlb_multihit="Not affected", nested=True)


def rows(kernel: Kernel = QUICK, *, kvm: bool = True, **change: object) -> dict[str, Finding]:
    return {row.subject: row for row in findings(msgspec.structs.replace(kernel, **change), kvm=kvm)}


def test_a_host_that_is_set_up_well_has_nothing_to_hear() -> None:
    assert {row.level for row in rows().values()} == {Level.PASS}


@pytest.mark.parametrize("version", [(6, 1), (6, 12), (7, 0)])
@pytest.mark.parametrize("pages", ["auto", "off", "force", "N", ""])
def test_since_linux_6_1_machines_are_created_slowly_unless_told_otherwise(version: tuple[int, int], pages: str) -> None:
    row = rows(version=version, favordynmods=False, nx_huge_pages=pages)["kernel"]
    assert row.level is Level.WARN
    assert "favordynmods" in row.fix
    assert "nx_huge_pages=never" in row.fix


@pytest.mark.parametrize("change", [{"version": (5, 15)}, {"nx_huge_pages": "never"}, {"favordynmods": True}])
def test_each_of_the_ways_out_is_one(change: dict[str, object]) -> None:
    assert rows(msgspec.structs.replace(QUICK, favordynmods=False), **change)["kernel"].level is Level.PASS


def test_a_processor_with_the_flaw_is_not_told_to_leave_it_open() -> None:
    assert "never" not in rows(favordynmods=False, itlb_multihit="KVM: Mitigation: Split huge pages")["kernel"].fix


@pytest.mark.parametrize(("version", "says"), [(1, "version 1"), (0, "no control groups")])
def test_old_control_groups_are_told(version: int, says: str) -> None:
    row = rows(cgroup=version)["cgroups"]
    assert (row.level, says in row.message, "unified_cgroup_hierarchy" in row.fix) == (Level.WARN, True, True)


def test_a_host_that_is_a_machine_itself_is_told_what_that_costs() -> None:
    assert (rows(virtual=True)["nested"].level, rows()["nested"].level) == (Level.WARN, Level.PASS)
    assert "cannot use KVM themselves" in rows(nested=False)["nested"].message


def test_without_kvm_nothing_is_said_of_it() -> None:
    assert set(rows(kvm=False, favordynmods=False, virtual=True)) == {"cgroups"}


def test_what_is_not_a_pass_says_what_to_do() -> None:
    bad = rows(Kernel(version=(6, 1), virtual=True))
    assert all(row.fix for row in bad.values() if row.level is not Level.PASS)
