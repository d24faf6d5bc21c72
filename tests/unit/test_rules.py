"""What the privileged helper takes: the rules for its arguments, on good values and on what somebody hostile might send."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.model import rules
from banger.model.rules import Owner, Rule

ROOT = Path("/home/ada/.local/state/banger")
ADA = Owner(uid=1000, gid=1000, roots=(ROOT,))
NAME = rules.interface(r"tap-[0-9a-f]{4}", "a name of ours")

GOOD: list[tuple[Rule, object]] = [
    (NAME, "tap-00ff"),
    (rules.text("[a-z]+", "a word"), "word"),
    (rules.number(0, 5), 5),
    (rules.flag, False),
    (rules.each(rules.flag, 2), (True, False)),
    (rules.either(rules.exactly(""), rules.address), ""),
    (rules.either(rules.exactly(""), rules.address), "10.1.2.3"),
    (rules.exactly("br"), "br"),
    (rules.owners_uid, 1000),
    (rules.address, "100.64.0.1"),
    (rules.subnet, "172.16.0.0/16"),
    (rules.subnet, "192.168.7.0/30"),
    (rules.host_in_subnet, "10.0.0.1/24"),
    (rules.beneath, ROOT / "vms/x/cow"),
    (rules.beneath, f"{ROOT}/vms/x/cow"),
    (rules.MAP, "banger-0123456789ab"),
    (rules.disk_size, 1 << 30),
    (rules.domain, "vm"),
    (rules.domain, "30.172.in-addr.arpa"),
    (rules.domain, "10.in-addr.arpa"),
    (rules.owners_bridge, f"banger at {ROOT}"),
]
BAD: list[tuple[Rule, object]] = [
    (NAME, "eth0"),
    (NAME, "tap-00ff\n"),
    (NAME, "tap-00ff "),
    (NAME, "tap-00fg"),
    (NAME, b"tap-00ff"),
    (rules.interface(".*", "anything"), "a-name-of-16-byte"),
    (rules.text("[a-z]+", "a word"), "word\0"),
    (rules.text(r"\d+", "digits"), "٣"),
    (rules.number(0, 5), 6),
    (rules.number(0, 5), True),
    (rules.number(0, 5), 1.0),
    (rules.flag, 1),
    (rules.each(rules.flag, 2), (True, 1)),
    (rules.each(rules.flag, 2), (True, True, True)),
    (rules.each(rules.flag, 2), "no"),
    (rules.exactly(1), True),
    (rules.owners_uid, 0),
    (rules.owners_uid, 1001),
    (rules.owners_uid, "1000"),
    (rules.address, "8.8.8.8"),
    (rules.address, "127.0.0.1"),
    (rules.address, "010.0.0.1"),
    (rules.address, "fd00::1"),
    (rules.address, 167772161),
    (rules.subnet, "0.0.0.0/0"),
    (rules.subnet, "10.0.0.0/8"),
    (rules.subnet, "10.0.0.1/24"),
    (rules.subnet, "10.0.0.0/31"),
    (rules.subnet, "169.254.0.0/16"),
    (rules.subnet, "fd00::/64"),
    (rules.subnet, "10.0.0.0"),
    (rules.host_in_subnet, "10.0.0.0/24"),
    (rules.host_in_subnet, "10.0.0.255/24"),
    (rules.host_in_subnet, "10.0.0.1"),
    (rules.host_in_subnet, "8.8.8.8/24"),
    (rules.host_in_subnet, "::1/64"),
    (rules.beneath, ROOT),
    (rules.beneath, ROOT / "../../../../etc/shadow"),
    (rules.beneath, ROOT / "vms/../../x"),
    (rules.beneath, Path("/etc/shadow")),
    (rules.beneath, Path("vms/x")),
    (rules.beneath, Path(f"{ROOT}-evil/x")),
    (rules.beneath, Path(f"/{ROOT}/x")),
    (rules.beneath, Path(f"{ROOT}/x\0y")),
    (rules.beneath, 3),
    (rules.MAP, "banger-0123456789AB"),
    (rules.MAP, "banger-0123456789ab-base"),
    (rules.MAP, "vg-root"),
    (rules.MAP, "banger-../control"),
    (rules.disk_size, 0),
    (rules.disk_size, 4097),
    (rules.disk_size, 1 << 60),
    (rules.domain, "com"),
    (rules.domain, "."),
    (rules.domain, "8.8.in-addr.arpa"),
    (rules.domain, "999.in-addr.arpa"),
    (rules.domain, "in-addr.arpa"),
    (rules.owners_bridge, "banger at /root/.local/state/banger"),
    (rules.owners_bridge, ""),
    (rules.fields(a=rules.flag), "no record"),
]


@pytest.mark.parametrize(("rule", "value"), GOOD, ids=str)
def test_what_is_ours_is_taken(rule: Rule, value: object) -> None:
    assert rule(value, ADA) == ""


@pytest.mark.parametrize(("rule", "value"), BAD, ids=str)
def test_what_is_not_is_refused_with_a_reason(rule: Rule, value: object) -> None:
    said = rule(value, ADA)
    assert said
    assert said.isprintable()


@given(st.text() | st.binary() | st.integers() | st.none() | st.lists(st.text()))
def test_a_rule_never_fails_and_never_repeats_control_characters(value: object) -> None:
    for rule in {rule for rule, _ in GOOD}:
        said = rule(value, ADA)
        assert len(said) < 300
        assert said.isprintable()


@given(st.lists(st.sampled_from(["..", ".", "", "vms", "x", "~", "*", "-rf", "\n", "proc", "self"]), max_size=6))
def test_a_path_that_is_taken_stays_below_the_root_whatever_its_parts(parts: list[str]) -> None:
    path = Path(f"{ROOT}/{'/'.join(parts)}")
    if not rules.beneath(path, ADA):
        assert ".." not in path.parts
        assert path.is_relative_to(ROOT)


@given(st.ip_addresses(v=4))
def test_an_address_that_is_taken_is_private(value: object) -> None:
    assert (rules.address(str(value), ADA) == "") == any(value in block for block in rules.PRIVATE)
