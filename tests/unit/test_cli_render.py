"""Results as text: ages, tables, fields, findings; and nothing that could drive a terminal."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.frontends.cli.doctor import findings
from banger.frontends.cli.output import clean, complain
from banger.frontends.cli.progress import Progress
from banger.frontends.cli.pump import status_of
from banger.frontends.cli.render import age, fields, result, seconds_of
from banger.model.errors import GuestFailed, NoCommand, NotFound, NotPermitted


@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2200, 1, 1)))
def test_a_stamp_is_read_like_the_library_would(moment: datetime) -> None:
    moment = moment.replace(tzinfo=UTC)
    assert seconds_of(moment.isoformat()) == int(moment.replace(microsecond=0).timestamp())


@pytest.mark.parametrize(("passed", "shown"), [(0, "0s"), (59, "59s"), (60, "1m"), (7200, "2h"), (90_000, "1d"), (-5, "0s")])
def test_an_age_has_one_unit(passed: int, shown: str) -> None:
    assert age("1970-01-02T00:00:00Z", 86400 + passed) == shown


@given(st.text())
def test_clean_text_moves_no_cursor(text: str) -> None:
    assert clean(text).isprintable()


def test_images_say_where_they_are() -> None:
    rows = [
        {
            "name": "a",
            "local": True,
            "source": "debian",
            "kernel": "k",
            "size_bytes": 2 << 30,
            "used_bytes": 1 << 29,
            "built": "2026-01-02T03:04:05Z",
            "used_by": ["x", "y", "z"],
        },
        {"name": "b", "local": False, "source": "debian", "kernel": "k", "size_bytes": 0, "used_bytes": 0, "built": None, "description": "small"},
    ]
    assert result("image.list", rows, 0).splitlines() == [
        "NAME  STATE      SIZE  USED  BUILT       SOURCE  KERNEL  USED BY          DESCRIPTION",
        "a     local      2G    512M  2026-01-02  debian  k       x, y and 1 more  -",
        "b     available  -     -     -           debian  k       -                small",
    ]


@pytest.mark.parametrize(
    ("entrypoint", "state"),
    [
        (None, "running"),
        ({"state": "running", "pid": 7}, "running"),
        ({"state": "exited", "status": 0}, "running (exited 0)"),
        ({"state": "killed", "signal": "KILL\x1b[2J"}, "running (killed KILL\\x1b[2J)"),
        ({"state": "failed", "problem": "x"}, "running (failed)"),
    ],
)
def test_a_list_says_when_what_an_image_runs_has_ended(entrypoint: object, state: str) -> None:
    shown = result("vm.list", [{"name": "web", "state": "running", "entrypoint": entrypoint}], 0)
    assert f"  {state}  " in shown


def test_nothing_is_still_a_table() -> None:
    assert result("vm.list", [], 0).startswith("ID  NAME")


def test_fields_read_well() -> None:
    assert fields({"name": "a", "disk_bytes": 1024, "rm": False, "note": ""}) == "name        a\ndisk bytes  1024 (1K)\nrm          no\nnote        -\n"


def test_findings_have_their_fix_below() -> None:
    rows: list[dict[str, object]] = [{"level": "FAIL", "subject": "qemu", "message": "not on PATH", "fix": "apt install qemu"}]
    assert findings(rows) == "FAIL  qemu  not on PATH\n            fix: apt install qemu\n"


def test_an_error_tells_stage_tail_and_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert complain(GuestFailed("no answer", stage="boot", tail=("panic\x1b[2J",), hint="look")) == 124
    assert capsys.readouterr().err == "error: no answer\n  stage: boot\n    panic\\x1b[2J\n  hint: look\n"


def test_the_end_of_a_stream_is_an_exit_status() -> None:
    assert status_of({"ok": {"exit": 7}}) == 7
    assert status_of({"ok": {"signal": "KILL"}}) == 137
    with pytest.raises(NotFound):
        status_of({"error": {"code": "not-found", "message": "no such user"}})
    with pytest.raises(NoCommand):
        status_of({"error": {"code": "no-command", "message": "no such command"}})
    with pytest.raises(NotPermitted):
        status_of({"error": {"code": "not-permitted", "message": "not executable"}})
    with pytest.raises(GuestFailed):
        status_of({"error": {"code": "refused", "message": "nobody listens"}})
    with pytest.raises(GuestFailed):
        status_of({})


def test_progress_as_lines_does_not_flood(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr("sys.stderr", said)
    progress = Progress("image pull")
    for done in range(100):
        progress.line({"event": {"stage": "fetch", "detail": "package", "done": done, "total": 100, "unit": "packages"}})
    progress.line({"event": {"stage": "pack"}})
    assert said.getvalue() == "[image pull] fetch: package 0/100 packages\n[image pull] pack\n"


def test_a_warning_is_said_whatever_else_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr("sys.stderr", said)
    progress = Progress("vm start otter")
    for detail in ("disk devmapper", "warning: the host's disk had been full", "warning: keep room"):
        progress.line({"event": {"stage": "disk", "detail": detail}})
    assert said.getvalue().splitlines() == ["[vm start otter] disk: disk devmapper", "warning: the host's disk had been full", "warning: keep room"]


def test_what_belongs_to_no_stage_is_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress("image build app")
    progress.line({"event": {"stage": "", "detail": "nothing has changed since image app was made"}})
    progress.line({"event": {"stage": "make image", "detail": "compute digest"}})
    assert capsys.readouterr().err == "nothing has changed since image app was made\n[image build app] make image: compute digest\n"


def test_progress_for_programs_is_the_stream_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr("sys.stderr", said)
    Progress("vm run", json_lines=True).line({"event": {"stage": "boot"}})
    assert json.loads(said.getvalue()) == {"event": {"stage": "boot"}}
