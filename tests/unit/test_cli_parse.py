"""Words to parameters: flags derive from the operations; mistakes are named. And the tables behind it are complete."""

from __future__ import annotations

import pytest

from banger.frontends.cli.commands import GROUPS, SINGLE
from banger.frontends.cli.help import of_command, of_group, overview
from banger.frontends.cli.parse import find, flags_of, parse, places_of, shown_for
from banger.frontends.cli.words import Command
from banger.model.errors import BadRequest
from banger.ops import every_op

EVERY = [*(command for _, commands in GROUPS.values() for command in commands), *SINGLE.values()]


def command(words: str) -> Command:
    noun, _, verb = words.partition(" ")
    found = find(noun, verb) if verb else SINGLE[noun]
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("words", "given", "parameters"),
    [
        ("vm run", "--memory 2G --disk-size 16G --vcpu 2 --rm", {"memory_mib": 2048, "disk_bytes": 16 << 30, "vcpu": 2, "rm": True}),
        ("vm run", "--memory 512", {"memory_mib": 512}),
        ("vm run", "--name=web --host-access", {"name": "web", "host_access": True}),
        ("vm create", "--no-start", {"start": False}),
        ("vm kill", "--signal TERM web", {"signal": "TERM"}),
        ("vm logs", "web -f", {"vm": "web", "follow": True}),
        ("vm metrics", "web", {"vm": "web"}),
        ("vm dial", "web 80", {"vm": "web", "port": 80}),
        ("vm exec", "-eA=1 -e B= -w/srv web ls -l", {"vm": "web", "env": {"A": "1", "B": ""}, "cwd": "/srv"}),
        ("image pull", "--force debian-bookworm", {"name": "debian-bookworm", "force": True}),
        ("image list", "--available", {"available": True}),
    ],
)
def test_flags_become_parameters(words: str, given: str, parameters: dict[str, object]) -> None:
    assert parse(command(words), given.split()).parameters == parameters


@pytest.mark.parametrize(
    ("words", "given", "rest"),
    [
        ("vm run", "--rm -- uname -a", ["uname", "-a"]),
        ("vm run", "-- -- x", ["--", "x"]),
        ("vm exec", "-it web -- ls --all", ["ls", "--all"]),
        ("vm exec", "web ls --all -- x", ["ls", "--all", "--", "x"]),
        ("vm exec", "web -t -- ls", ["ls"]),
        ("vm run", "", []),
    ],
)
def test_what_follows_is_the_guest_s(words: str, given: str, rest: list[str]) -> None:
    assert parse(command(words), given.split()).rest == rest


def test_targets_are_folded_in_the_order_first_seen() -> None:
    assert parse(command("vm stop"), ["b", "--force", "a", "b", "--", "-c"]).targets == ["b", "a", "-c"]


def test_short_switches_can_be_joined() -> None:
    assert parse(command("vm exec"), ["-it", "-uroot", "web", "sh"]).own == {"interactive", "tty"}


@pytest.mark.parametrize(
    ("words", "given", "says"),
    [
        ("vm run", "--nam x", "no flag --nam"),
        ("vm run", "-x", "no flag -x"),
        ("vm run", "--rm=yes", "takes no value"),
        ("vm run", "--name", "needs a value"),
        ("vm run", "--vcpu ²", "not a whole number"),
        ("vm run", "--vcpu 1_0", "not a whole number"),
        ("vm run", "--memory 1K", "too small"),
        ("vm run", "--memory -1", "not a size"),
        ("vm exec", "-e A web ls", "is not KEY=VALUE"),
        ("vm show", "", "needs NAME"),
        ("vm show", "a b", "one word too many"),
        ("vm dial", "web http", "not a whole number"),
    ],
)
def test_a_mistake_is_named(words: str, given: str, says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        parse(command(words), given.split())


def test_every_operation_has_a_command_and_every_parameter_its_words() -> None:
    assert {one.op for one in EVERY} >= set(every_op()) - {"doctor.doctor"}  # doctor looks without the daemon
    for one in EVERY:
        op = every_op().get(one.op)
        shown = {flag.parameter for flag in flags_of(one) if not flag.own} | set(places_of(one))
        assert shown | set(one.hide) == set(op.parameters if op else ())
        for name in shown:
            assert shown_for(one.op, name).help


def test_every_command_and_group_has_help_with_an_example_that_parses() -> None:
    assert "banger vm run" in overview()
    for noun in GROUPS:
        assert "Examples:" in of_group(noun)
    for one in EVERY:
        text = of_command(one)
        assert one.hidden or one.handler == "version:version" or "Examples:" in text
        for example, _ in one.examples:
            words = example.split()
            if words[:2] == ["banger", one.noun] and not {"$(banger", "|", ">"} & set(words):
                parse(one, words[1 + len(one.words.split()) :])


def test_no_two_flags_of_a_command_are_spelt_alike() -> None:
    for one in EVERY:
        longs = [flag.long for flag in flags_of(one)]
        shorts = [flag.shown.short for flag in flags_of(one) if flag.shown.short]
        assert len(set(longs)) == len(longs)
        assert len(set(shorts)) == len(shorts)
