"""The client's pure half: requests from parameters, errors from answers, builds by age, and which folder it trusts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.client import check_folder, log_path, request_of, socket_path
from banger.client.answer import error_of
from banger.frontends.http.routes import Routes
from banger.model.build import build_id, build_key
from banger.model.errors import BadRequest, BangerError, DaemonUnreachable, NoSpace
from banger.ops import every_op


@given(st.text(min_size=1).filter(lambda text: text not in (".", "..") and text.isprintable()))
def test_what_the_client_asks_the_server_understands(name: str) -> None:
    ops = every_op()
    target, body = request_of(ops["image.list"], {"available": True})
    assert Routes(ops).find("GET", target)[2] == {"available": "true"}
    target, body = request_of(ops["vm.delete"], {"vm": name})
    route, path, _ = Routes(ops).find("DELETE", target)
    assert (route.op.name, path, body) == ("vm.delete", {"vm": name}, b"")


def test_parameters_without_a_value_are_left_out() -> None:
    assert request_of(every_op()["vm.create"], {"name": None, "vcpu": 2}) == ("/vms", b'{"vcpu": 2}')


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_cannot_lead_elsewhere(name: str) -> None:
    with pytest.raises(BadRequest):
        request_of(every_op()["vm.delete"], {"vm": name})


def test_an_error_comes_back_as_its_class() -> None:
    error = error_of({"code": "no-space", "message": "full", "hint": "delete", "stage": "build", "tail": ["a"]})
    assert (type(error), error.message, error.hint, error.stage, error.tail) == (NoSpace, "full", "delete", "build", ("a",))
    assert type(error_of({"code": "of-tomorrow", "message": "x"})) is BangerError


def test_builds_are_ordered_by_version_and_then_by_time() -> None:
    assert build_key("0.2.0+1") > build_key("0.1.9+5") > build_key("0.1.9+4")
    assert build_key(build_id()) > build_key("0.0.0+0")


def test_places_follow_the_environment() -> None:
    assert socket_path({"XDG_RUNTIME_DIR": "/run/user/7"}) == "/run/user/7/banger/bangerd.sock"
    assert socket_path({}) == f"/tmp/banger-runtime-{os.geteuid()}/bangerd.sock"
    assert log_path({"HOME": "/home/me"}) == "/home/me/.local/state/banger/bangerd.log"


def test_only_a_folder_of_our_own_is_trusted(tmp_path: Path) -> None:
    assert not check_folder(str(tmp_path / "absent"))
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o770)
    for name in ("file", "link", "open"):
        with pytest.raises(DaemonUnreachable):
            check_folder(str(tmp_path / name))
    (tmp_path / "ours").mkdir(mode=0o700)
    assert check_folder(str(tmp_path / "ours"))
