"""Builds and commits on a pretended host: what is done, what is not done again, and that nothing of a builder stays, however it ends."""

from __future__ import annotations

import dataclasses
import io
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from banger.daemon import Daemon
from banger.daemon.operations import Progress
from banger.model.catalog import ImageManifest
from banger.model.errors import AlreadyExists, BadRequest, BangerError, Busy, Cancelled, NoSpace, NotFound, ToolFailed, WrongState
from banger.model.event import Event
from banger.model.recipe import BuildSpec
from banger.testing import FakeGuest
from tests.place import OTTER, Place, reach, result, until

FILE = 'ARG V=1\nFROM box\nWORKDIR /srv\nCOPY a.txt b/\nRUN make\nRUN <<X\n#!/bin/tool\nX\nCMD ["run"]\n'


@pytest.fixture
def guest(place: Place) -> FakeGuest:
    """The guest of every builder."""
    made = FakeGuest()
    for words in (("/bin/sh", "-c", "make"), ("/run/banger-build-script",), ("/bin/sh", "-c", "more")):
        made.commands[words] = (f"{words[-1]} ran\rdone\nhalf".encode(), 0)
    made.commands[("/bin/sh", "-c", "fail")] = (b"oh\n", 3)
    place.fake.qemu.guest = lambda _: made  # type: ignore[method-assign]
    return made


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A folder to build from."""
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    return folder


async def built(daemon: Daemon, context: Path, text: str = FILE, **more: object) -> tuple[ImageManifest, list[str]]:
    """The image, and the details of what was told."""
    (context / "Dockerfile").write_text(text)
    return await whole(daemon.builds.build(asked(context, **more)))


def asked(context: Path, **more: object) -> BuildSpec:
    wanted: dict[str, object] = {"name": "app", "file": "", "context": str(context), "args": {}, **more}
    return BuildSpec(**wanted)  # type: ignore[arg-type]


async def whole(stream: AsyncIterator[Progress[ImageManifest]]) -> tuple[ImageManifest, list[str]]:
    items = [item async for item in stream]
    last = items[-1]
    assert isinstance(last, ImageManifest)
    return last, [item.detail for item in items if isinstance(item, Event)]


def ran(guest: FakeGuest) -> list[object]:
    return [request["argv"] for request in guest.requests if request["op"] == "exec"]


def clean(place: Place) -> bool:
    """No machine, no staging folder, nothing half-made in the cache."""
    hidden = [path for path in place.fake.paths.images.iterdir() if path.name.startswith(".")]
    return place.clean() and not hidden and not list(place.fake.paths.cache.rglob("*.new"))


async def test_steps_are_done_in_order_and_become_an_image(place: Place, guest: FakeGuest, context: Path) -> None:
    daemon = await place.daemon()
    made, details = await built(daemon, context)
    assert [request["op"] for request in guest.requests] == [
        *("identity", "unpack", "unpack", "exec", "quiet", "sync", "unpack", "exec", "quiet", "sync", "pack")
    ]
    assert guest.requests[0]["init"] == {"argv": [], "env": {}, "cwd": ""}
    (folder, _), (copy, tar), (script, _) = guest.unpacked
    assert (folder["path"], folder["into"], copy["path"], copy["into"], copy["owner"]) == ("/srv", True, "/srv/b", True, "0:0")
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        assert archive.getnames() == ["a.txt"]
    assert (script["path"], script["mode"]) == ("/run", 0o755)
    runs = [request for request in guest.requests if request["op"] == "exec"]
    assert [(run["cwd"], run["user"]) for run in runs] == [("/srv", None), ("/srv", None)]
    assert (made.source, made.kernel, made.config.workdir, made.config.cmd) == ("build", "linux", "/srv", ("run",))
    assert [line for line in details if line.startswith("| ")] == ["| done", "| half", "| done", "| half"]
    assert (place.fake.paths.image("app") / "rootfs.ext4").exists()
    assert clean(place)


async def test_what_is_known_is_not_done_again(place: Place, guest: FakeGuest, context: Path) -> None:
    daemon = await place.daemon()
    first, _ = await built(daemon, context)
    guest.requests.clear()
    again, _ = await built(daemon, context)
    other, _ = await built(daemon, context, name="other")
    assert (again, other.recipe, other.name, guest.requests) == (first, first.recipe, "other", [])
    await built(daemon, context, FILE + "RUN more\n")
    assert ran(guest) == [["/bin/sh", "-c", "more"]]
    guest.requests.clear()
    (context / "a.txt").write_text("changed")
    _, details = await built(daemon, context)
    assert len(ran(guest)) == 2
    guest.requests.clear()
    await built(daemon, context, cache=False)
    assert len(ran(guest)) == 2
    assert not any("as before" in line for line in details)
    assert clean(place)


async def test_a_command_that_fails_is_named_and_what_came_before_is_kept(place: Place, guest: FakeGuest, context: Path) -> None:
    daemon = await place.daemon()
    with pytest.raises(ToolFailed, match=r"^Dockerfile:10: RUN fail: ended with status 3$") as caught:
        await built(daemon, context, FILE + "RUN fail\n")
    assert caught.value.stage == "step 5 of 5"
    assert clean(place)
    guest.requests.clear()
    _, details = await built(daemon, context, FILE + "RUN more\n")
    assert ran(guest) == [["/bin/sh", "-c", "more"]]
    assert "| step 4 of 5, as before: RUN <<X" in details


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("FROM box\nCOPY none /\n", NotFound, "Dockerfile:2: nothing in the context fits none"),
        ("FROM box\nARG N=secret\nCOPY $N /\n", NotFound, "Dockerfile:3: nothing in the context fits source 1"),
        ("FROM box\n\nRUN nothing\n", BangerError, "Dockerfile:3: "),
        ("FROM box\nFROM box\n", BadRequest, "Dockerfile:2: a second FROM"),
        ("FROM nowhere/x:1/2\n", BadRequest, ""),
    ],
)
async def test_what_cannot_be_is_told_with_its_line(
    place: Place, guest: FakeGuest, context: Path, text: str, error: type[BangerError], says: str
) -> None:
    daemon = await place.daemon()
    with pytest.raises(error) as caught:
        await built(daemon, context, text)
    assert says in str(caught.value)
    assert "secret" not in str(caught.value)
    assert clean(place)


async def test_a_build_that_is_cancelled_leaves_nothing(place: Place, guest: FakeGuest, context: Path) -> None:
    daemon = await place.daemon()
    (context / "Dockerfile").write_text(FILE)
    for stage in ("step 2 of 4", "make image", "agent"):
        stream = daemon.builds.build(asked(context, cache=False))
        await daemon.operations.cancel(await reach(stream, stage))  # type: ignore[arg-type]
        with pytest.raises(Cancelled):
            [item async for item in stream]
        assert clean(place)
        assert not place.fake.paths.image("app").exists()


async def test_a_daemon_that_dies_in_a_build_leaves_nothing_to_its_successor(place: Place, guest: FakeGuest, context: Path) -> None:
    guest.commands.pop(("/bin/sh", "-c", "make"))
    guest.commands[("/bin/sh", "-c", "make")] = (b"x" * 10, 0)
    daemon = await place.daemon()
    (context / "Dockerfile").write_text(FILE)
    await reach(daemon.builds.build(asked(context)), "step 3 of 4")  # type: ignore[arg-type]
    next_one = await place.daemon()
    assert next_one.vms.rows() == []


async def test_a_builder_that_ends_by_itself_is_told(place: Place, guest: FakeGuest, context: Path) -> None:
    daemon = await place.daemon()
    (context / "Dockerfile").write_text(FILE)
    stream = daemon.builds.build(asked(context))
    await reach(stream, "step 1 of 4")  # type: ignore[arg-type]
    (row,) = daemon.vms.rows()
    assert (row.name[:6], row.rm) == ("build-", True)
    await daemon.vms.delete(row.id)
    with pytest.raises(BangerError, match="Dockerfile:"):
        [item async for item in stream]
    await until(lambda: clean(place))


async def test_what_is_wrong_with_a_request_is_told_before_anything_begins(place: Place, guest: FakeGuest, context: Path) -> None:
    daemon = await place.daemon()
    (context / "Dockerfile").write_text(FILE)
    for more, says in ({"network": "nome"}, "no network 'nome'"), ({"file": "Dockerfile"}, "does not begin with '/'"), ({"file": "/a\0"}, "does not"):
        with pytest.raises(BadRequest, match=says):
            daemon.builds.build(asked(context, **more))
    assert daemon.operations.rows() == []


async def test_a_build_that_cannot_fit_is_told_before_a_machine_is_made(
    place: Place, guest: FakeGuest, context: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await place.daemon()
    monkeypatch.setattr(type(place.host.files), "free_bytes", lambda *_: 1 << 20)
    with pytest.raises(NoSpace, match="image app needs about"):
        await built(daemon, context)
    assert guest.requests == []
    assert clean(place)


async def test_more_than_an_image_may_hold_is_not_read(place: Place, guest: FakeGuest, context: Path) -> None:
    place.host = dataclasses.replace(place.host, settings=msgspec.structs.replace(place.host.settings, image_limit="1M"))
    daemon = await place.daemon()
    with (context / "a.txt").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(BadRequest, match=r"Dockerfile:4: more is copied than an image may hold \(1048576 bytes\)"):
        await built(daemon, context)
    assert clean(place)


async def test_proxies_reach_commands_and_make_no_difference(place: Place, guest: FakeGuest, context: Path) -> None:
    daemon = await place.daemon()
    await built(daemon, context, args={"HTTP_PROXY": "http://one"})
    runs = [request for request in guest.requests if request["op"] == "exec"]
    assert isinstance(runs[0]["env"], dict)
    assert runs[0]["env"]["HTTP_PROXY"] == "http://one"
    guest.requests.clear()
    await built(daemon, context, args={"HTTP_PROXY": "http://two"})
    assert guest.requests == []
    await built(daemon, context, FILE.replace("RUN make", "ARG HTTP_PROXY\nRUN make"), args={"HTTP_PROXY": "http://two"})
    assert len(ran(guest)) == 2


async def test_names_that_are_others_are_refused(place: Place, guest: FakeGuest, context: Path) -> None:
    daemon = await place.daemon()
    with pytest.raises(AlreadyExists, match="no build made"):
        await built(daemon, context, name="box")
    await built(daemon, context)
    await result(await daemon.vms.create(OTTER, start=False, wait="agent"))
    with pytest.raises(WrongState, match="used by otter"):
        await built(daemon, context, name="box", force=True)
    with pytest.raises(BadRequest, match="is not the name of a build argument"):
        await built(daemon, context, args={"a b": "secret"})
    _, details = await built(daemon, context, args={"OTHER": "secret", "V": "2"})
    assert details[0] == "warning: no ARG has the name of the build argument OTHER"


async def test_the_cache_is_bounded_and_pruned(place: Place, guest: FakeGuest, context: Path) -> None:
    daemon = await place.daemon()
    await built(daemon, context)
    states = daemon.builds.cache.every()
    assert len(states) == 2
    daemon.builds.cache.trim(states[0])
    assert daemon.builds.prune_cache(dry=True).removed == 2
    (context / "Dockerfile").write_text(FILE)
    stream = daemon.builds.build(asked(context, cache=False))
    identity = await reach(stream, "step 1 of 4")  # type: ignore[arg-type]
    with pytest.raises(Busy, match="app is being built"):
        daemon.builds.prune_cache(dry=False)
    await daemon.operations.cancel(identity)
    assert daemon.builds.prune_cache(dry=False).removed == 2
    assert daemon.builds.cache.every() == []


async def test_a_stopped_machine_becomes_an_image_and_stays(place: Place, guest: FakeGuest) -> None:
    daemon = await place.daemon()
    made = await result(await daemon.vms.create(OTTER, start=True, wait="agent"))
    with pytest.raises(WrongState, match="otter is running"):
        daemon.builds.commit("otter", "mine", force=False)
    await daemon.vms.stop("otter", force=True)
    overlay = place.fake.paths.overlay(made.id)
    overlay.write_bytes(b"what otter wrote")
    image, _ = await whole(daemon.builds.commit("otter", "mine", force=False))
    assert (image.source, image.kernel, image.recipe) == ("commit", "linux", "")
    assert [row.name for row in daemon.vms.rows()] == ["otter"]
    assert overlay.read_bytes() == b"what otter wrote"
    await daemon.vms.delete("otter")
    assert clean(place)
