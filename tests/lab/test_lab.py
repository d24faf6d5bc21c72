"""Every test that runs in the lab machine, as a test of its own here. They all run, in one lab machine, before the first of them is judged."""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as xml
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conformance import LAB_TARGETS, PROPERTY
from tests.lab import laboratory, payload
from tests.lab.laboratory import Lab
from tests.lab.standing import Standing

pytestmark = pytest.mark.timeout(3600)
#: By target and test: empty when it passed, else what it said.
Results = dict[tuple[str, str], str]
FIRST = next(iter(LAB_TARGETS))
OWN = [
    *laboratory.collected("tests/lab/inside", "tests/contract/test_dm.py"),
    *laboratory.collected("tests/vm/test_ends_anywhere.py"),
]
EACH = laboratory.collected("tests/vm", "-m", "conformance")
CASES = [(FIRST, name) for name in OWN] + [(target, name) for target in LAB_TARGETS for name in EACH if not laboratory.left_out(target, name)]


def node(case: xml.Element) -> str:
    """A test's name as pytest's command line has it, from its entry in the report."""
    return f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"


def judged(report: str) -> dict[str, str]:
    """By test: empty when it passed, else what it said."""
    found: dict[str, str] = {}
    for case in xml.fromstring(report).iter("testcase"):
        bad = [child for child in case if child.tag in ("failure", "error", "skipped")]
        found[node(case)] = "\n".join(f"{child.get('message')}\n{child.text}" for child in bad)
    return found


def asked(request: pytest.FixtureRequest) -> list[tuple[str, str]]:
    """What of the lab's tests this run is about."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function) and "results" in item.fixturenames]
    return [(str(item.callspec.params["target"]), str(item.callspec.params["name"])) for item in items]


@pytest.fixture(scope="module")
def lab(shelf: None) -> Iterator[Lab]:
    """A lab machine with this checkout in it, as its users get it."""
    with payload.alone():
        Standing().end()  # one lab machine at a time
        made = laboratory.make()
        try:
            made.start()
            made.bring(payload.wheel())
            yield made
        finally:
            made.close()
            shutil.rmtree(made.world.root)


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest, lab: Lab) -> Results:
    """Of all tests that were asked for. A lab that breaks is a failure of each, with the console's tail.

    Those that look at all of the host go first and alone, and coverage is measured of them; then those that hold for every VMM, on all targets at once.
    """
    wanted = asked(request)
    alone = [name for _, name in wanted if name in OWN]
    found = ran(lab, FIRST, alone, measured=True) if alone else Results()
    if alone:
        print(lab.keep_coverage())
    together = {each: names for each in LAB_TARGETS if (names := [name for target, name in wanted if target == each and name in EACH])}
    with ThreadPoolExecutor() as threads:
        for part in threads.map(lambda target: ran(lab, target, together[target], measured=False), together):
            found |= part
    return found


def ran(lab: Lab, target: str, names: list[str], *, measured: bool) -> Results:
    """What came of these tests on a target."""
    said, report = lab.pytest(*names, target=target, measured=measured)
    assert report, f"the tests on {target} in the lab machine did not come to an end:\n{said[-4000:]}\n{lab.console()}"
    print(said[-6000:])
    return {(target, name): bad for name, bad in judged(report).items()}


@pytest.mark.parametrize(("target", "name"), CASES, ids=[f"{target}-{name}" for target, name in CASES])
def test_inside(results: Results, target: str, name: str, record_property: Callable[[str, object], None]) -> None:
    if name in EACH:
        record_property(PROPERTY, (target, name))
    assert (target, name) in results, "it did not run"
    assert not results[target, name], results[target, name]


def test_machines_live_through_a_power_cut_of_the_host(lab: Lab) -> None:
    lab.ok(*laboratory.environment({}), "python3", "-m", "tests.lab.reboot", "before")
    lab.cut_power()
    lab.bring(payload.wheel())
    lab.ok(*laboratory.environment({}), "python3", "-m", "tests.lab.reboot", "after")
