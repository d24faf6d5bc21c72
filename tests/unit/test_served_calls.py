"""Calls to the privileged helper: that both sides make the same of a Protocol, and that the helper takes nothing else. No socket, no process."""

from __future__ import annotations

import asyncio
import errno
import json
from pathlib import Path
from typing import Protocol

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.helper import interfaces, parsed
from banger.host.calls import LIMIT, Answer, Method, error_of, methods
from banger.host.pinned import pinned
from banger.host.remote import judged, request, said
from banger.host.served import Servant, served
from banger.model import rules
from banger.model.errors import BadRequest, BangerError, Busy, NotFound
from banger.model.rules import Owner


class Shelf(Protocol):
    """An interface to try it with."""

    def put(self, name: str, count: int = 1) -> list[str]: ...
    async def fetch(self, name: str) -> bytes | None: ...
    def read(self, file: Path) -> str: ...
    def hidden(self) -> None: ...


class Real:
    def __init__(self) -> None:
        self.had: list[str] = []

    def put(self, name: str, count: int = 1) -> list[str]:
        self.had += [name] * count
        if name == "busy":
            raise Busy("the shelf is busy", hint="wait")
        if name == "kernel":
            raise OSError(errno.EBUSY, "Device or resource busy")
        if name == "bug":
            raise ZeroDivisionError("secret words")
        return self.had

    async def fetch(self, name: str) -> bytes | None:
        await asyncio.sleep(0)
        return name.encode() if name in self.had else None

    def read(self, file: Path) -> str:
        return file.read_text()

    def hidden(self) -> None:
        self.had.append("hidden")


NAME = rules.text("[a-z]{1,8}", "a name")
RULES: rules.Rules = {"put": {"name": NAME, "count": rules.number(1, 3)}, "fetch": {"name": NAME}, "read": {"file": rules.beneath}}
METHODS = methods(Shelf)


@pytest.fixture
def real() -> Real:
    return Real()


@pytest.fixture
def servant(real: Real, tmp_path: Path) -> Servant:
    owner = Owner(uid=tmp_path.stat().st_uid, gid=tmp_path.stat().st_gid, roots=(tmp_path,))
    return Servant(owner, {"shelf": served(Shelf, real, RULES)})


async def call(servant: Servant, method: str, *positional: object, **named: object) -> object:
    found: Method = METHODS[method]
    answer = await servant.answer(request("shelf", method, found.pack(positional, named)))
    return judged(found, msgspec.json.encode(answer))


async def test_a_call_is_the_methods_own_with_its_defaults_and_its_result(servant: Servant, real: Real) -> None:
    assert await call(servant, "put", "pot") == ["pot"]
    assert await call(servant, "put", "pan", count=2) == ["pot", "pan", "pan"]
    assert await call(servant, "fetch", "pan") == b"pan"
    assert await call(servant, "fetch", name="jar") is None


async def test_an_error_comes_back_as_itself(servant: Servant) -> None:
    with pytest.raises(Busy, match="the shelf is busy") as busy:
        await call(servant, "put", "busy")
    assert busy.value.hint == "wait"
    with pytest.raises(OSError, match="resource busy") as refused:
        await call(servant, "put", "kernel")
    assert refused.value.errno == errno.EBUSY


async def test_what_nobody_foresaw_is_told_by_its_type_only(servant: Servant) -> None:
    with pytest.raises(BangerError, match="ZeroDivisionError") as failed:
        await call(servant, "put", "bug")
    assert "secret" not in str(failed.value)


async def test_a_file_is_handed_on_by_its_descriptor(servant: Servant, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("words")
    assert await call(servant, "read", tmp_path / "file") == "words"
    with pytest.raises(NotFound):
        await call(servant, "read", tmp_path / "none")


async def test_no_link_is_followed_on_the_way_to_a_file(servant: Servant, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("words")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "folder").symlink_to(tmp_path)
    for path in (tmp_path / "link", tmp_path / "folder" / "file", tmp_path / "file" / "x"):
        with pytest.raises(BadRequest, match="link"), pinned(path, servant.owner):
            pass
    with pytest.raises(BadRequest, match="regular"), pinned(tmp_path, servant.owner):
        pass
    with pytest.raises(BadRequest, match="user's"), pinned(tmp_path / "file", Owner(uid=54321, gid=1, roots=(tmp_path,))):
        pass


def test_a_file_that_is_exchanged_after_the_look_is_still_the_one_that_was_looked_at(servant: Servant, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "other").write_text("theirs")
    with pinned(tmp_path / "file", servant.owner) as held:
        (tmp_path / "other").replace(tmp_path / "file")
        assert held.read_text() == "mine"


def message(**changes: object) -> bytes:
    return json.dumps({"interface": "shelf", "method": "put", "arguments": {"name": "pot"}} | changes).encode()


HOSTILE = {
    "nothing": b"",
    "no JSON": b"\xff\xfe",
    "half a call": message()[:-3],
    "two calls": message() * 2,
    "a list": b"[]",
    "a bomb of lists": b"[" * 60_000,
    "an object in an object in an object": message(arguments={"name": {"name": {}}}),
    "too long": message(arguments={"name": "a" * LIMIT}),
    "no method": b'{"interface":"shelf","arguments":{}}',
    "another version": message(version=2),
    "an unknown field": message(extra=1),
    "an unknown interface": message(interface="files"),
    "an interface of Python's": message(interface="__class__"),
    "an unknown method": message(method="remove"),
    "a method that is not served": message(method="hidden", arguments={}),
    "a method of Python's": message(method="__init__", arguments={}),
    "an attribute": message(method="had", arguments={}),
    "an unknown argument": message(arguments={"name": "pot", "force": True}),
    "an argument too few": message(arguments={}),
    "a wrong type": message(arguments={"name": 1}),
    "a number as text": message(arguments={"name": "pot", "count": "2"}),
    "a number that is none": message(arguments={"name": "pot", "count": 1.5}),
    "a huge number": message(arguments={"name": "pot", "count": 10**40}),
    "out of range": message(arguments={"name": "pot", "count": 4}),
    "a bad name": message(arguments={"name": "../pot"}),
    "null": message(arguments=None),
    "arguments as a list": message(arguments=["pot"]),
    "a forged operation": message(op="op-1\n2026 root: all is well"),
    "a path outside": message(method="read", arguments={"file": "/etc/shadow"}),
    "a path with a detour": message(method="read", arguments={"file": "/tmp/../etc/shadow"}),
    "a path that is a number": message(method="read", arguments={"file": 3}),
}


@pytest.mark.parametrize("what", HOSTILE)
async def test_what_is_no_call_is_refused_and_does_nothing(servant: Servant, real: Real, what: str) -> None:
    answer = await servant.answer(HOSTILE[what])
    assert answer.failure is not None
    assert answer.failure.code == "bad-request", answer
    assert len(answer.failure.message) < 400
    assert answer.failure.message.isprintable()
    assert real.had == []


@given(st.binary(max_size=300))
def test_no_bytes_bring_the_helper_down(data: bytes) -> None:
    servant = Servant(Owner(uid=1, gid=1, roots=(Path("/a/b"),)), {"shelf": served(Shelf, Real(), RULES)})
    assert asyncio.run(servant.answer(data)).failure is not None


def test_an_answer_that_is_none_is_corrupt_or_an_end() -> None:
    with pytest.raises(ConnectionError):
        said(b"")
    for data in (b"{", b'{"result": {"a": 1}}', b'{"result": [], "more": 1}'):
        with pytest.raises(BangerError):
            judged(METHODS["put"], data)


def test_an_unknown_code_is_an_error_all_the_same() -> None:
    found = error_of(msgspec.json.decode(b'{"failure": {"code": "brand-new", "message": "what"}}', type=Answer))
    assert type(found) is BangerError


def test_a_method_without_a_rule_for_each_argument_cannot_be_served(real: Real) -> None:
    with pytest.raises(AssertionError):
        served(Shelf, real, {"put": {"name": NAME}})
    with pytest.raises(AssertionError):
        served(Shelf, real, {"gone": {}})


def test_everything_that_the_helper_serves_has_rules() -> None:
    found = interfaces(Owner(uid=1000, gid=1000, roots=(Path("/a/b"),)))
    assert found
    assert all(one.rules.keys() == one.methods.keys() for one in found.values())


def test_whom_to_serve_is_said_on_the_command_line() -> None:
    found = parsed(["--owner", "1000:1001", "--root", "/home/a/x", "--root", "/srv/b"])
    assert found == Owner(uid=1000, gid=1001, roots=(Path("/home/a/x"), Path("/srv/b")))


@pytest.mark.parametrize(
    "words",
    [
        "",
        "--owner 1000:1000",
        "--root /home/a",
        "--owner 1000 --root /home/a",
        "--owner -1:0 --root /home/a",
        "--owner 1:1 --owner 2:2 --root /home/a",
        "--owner 1:1 --root home/a",
        "--owner 1:1 --root /",
        "--owner 1:1 --root /home",
        "--owner 1:1 --root /home/a --more x",
        "--owner 1:1 --root",
    ],
)
def test_a_command_line_that_leaves_it_open_is_refused(words: str) -> None:
    with pytest.raises(BadRequest):
        parsed(words.split())
