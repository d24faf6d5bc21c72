"""Every test that runs in the lab machine, as a test of its own here. They run together, in one lab machine, before the first of them is judged."""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as xml
from collections.abc import Iterator

import pytest

from tests.lab import laboratory, payload

pytestmark = pytest.mark.timeout(1800)
Results = dict[str, str]


def node(case: xml.Element) -> str:
    """A test's name as pytest's command line has it, from its entry in the report."""
    return f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"


def judged(report: str) -> Results:
    """By test: empty when it passed, else what it said."""
    found: Results = {}
    for case in xml.fromstring(report).iter("testcase"):
        bad = [child for child in case if child.tag in ("failure", "error", "skipped")]
        found[node(case)] = "\n".join(f"{child.get('message')}\n{child.text}" for child in bad)
    return found


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest, shelf: None) -> Iterator[Results]:
    """Of all tests that were asked for. A lab that breaks is a failure of each, with the console's tail."""
    wanted = [
        str(item.callspec.params["name"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and hasattr(item, "callspec") and "results" in item.fixturenames
    ]
    with payload.alone():
        lab = laboratory.make()
        try:
            lab.start()
            lab.bring(payload.wheel())
            said, report = lab.pytest(*wanted)
            assert report, f"the tests in the lab machine did not come to an end:\n{said[-4000:]}\n{lab.console()}"
            print(said[-6000:])
            yield judged(report)
        finally:
            lab.close()
            shutil.rmtree(lab.world.root)


NAMES = laboratory.collected()


@pytest.mark.parametrize("name", NAMES, ids=NAMES)
def test_inside(results: Results, name: str) -> None:
    assert name in results, "it did not run"
    assert not results[name], results[name]
