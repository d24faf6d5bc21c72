"""What an image runs by itself, on a pretended host: started with the machine, known to each daemon, ended before the power goes."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest

from banger.daemon.entry import _seen
from banger.model import codec
from banger.model.catalog import ImageConfig
from banger.model.event import Event
from banger.model.vm import Entrypoint, EntrypointState, VmSpec
from banger.testing import FakeGuest
from banger.wire import END, OPENED
from tests.place import IMAGE, OTTER, Place, put, result, until

RUNNING = Entrypoint(state=EntrypointState.RUNNING, pid=7)
SERVER = ImageConfig(entrypoint=("/server",), user="web", stop_signal="SIGQUIT")


@pytest.fixture
def server(place: Place) -> Place:
    put(place.fake.paths.image("server"), codec.encode(msgspec.structs.replace(IMAGE, name="server", config=SERVER)))
    return place


def web(*, attended: bool = False, entrypoint: bool = True) -> VmSpec:
    return VmSpec(name="web", image="server", attended=attended, entrypoint=entrypoint)


def guest_of(place: Place) -> FakeGuest:
    (guest,) = place.fake.qemu.guests.values()
    return guest


def ops(guest: FakeGuest) -> list[object]:
    return [request["op"] for request in guest.requests]


def commands(guest: FakeGuest) -> list[object]:
    """What the guest was told to run, at each boot."""
    asked = [request["init"] for request in guest.requests if request["op"] == "identity"]
    return [one.get("command") for one in asked if isinstance(one, dict)]


async def test_it_is_started_with_the_machine_each_time(server: Place) -> None:
    daemon = await server.daemon()
    made = await result(await daemon.vms.create(web(), start=True, wait="agent"))
    assert made.entrypoint == RUNNING
    assert (await daemon.vms.stop("web", force=False)).entrypoint is None
    assert (await result(daemon.vms.start("web", wait="agent"))).entrypoint == RUNNING
    assert commands(guest_of(server)) == [["/server"], ["/server"]]


async def test_of_whoever_attends_to_it_it_is_left_the_first_time(server: Place) -> None:
    daemon = await server.daemon()
    assert (await result(await daemon.vms.create(web(attended=True), start=True, wait="agent"))).entrypoint is None
    assert (await result(daemon.vms.restart("web", wait="agent"))).entrypoint == RUNNING
    assert commands(guest_of(server)) == [None, ["/server"]]


async def test_it_can_be_left_for_good_and_an_image_that_runs_nothing_is_not_asked(server: Place) -> None:
    daemon = await server.daemon()
    assert (await result(await daemon.vms.create(web(entrypoint=False), start=True, wait="agent"))).entrypoint is None
    assert (await result(daemon.vms.restart("web", wait="agent"))).entrypoint is None
    assert (await result(await daemon.vms.create(OTTER, start=True, wait="agent"))).entrypoint is None
    assert all("command" not in ops(guest) and commands(guest)[0] is None for guest in server.fake.qemu.guests.values())


async def test_the_next_daemon_knows_it_and_starts_nothing(server: Place) -> None:
    first = await server.daemon()
    await result(await first.vms.create(web(), start=True, wait="agent"))
    later = await server.daemon()
    await until(lambda: later.vms.show("web").entrypoint == RUNNING)
    assert ops(guest_of(server)).count("identity") == 1


async def test_whoever_gives_up_meanwhile_leaves_the_question_to_the_next(server: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = await server.daemon()
    made = await result(await daemon.vms.create(web(), start=True, wait="agent"))
    machine, asked = daemon.vms.machines[made.id], asyncio.Event()
    machine.entry.forget()

    async def never(_: object) -> object:
        asked.set()
        return await asyncio.Event().wait()

    with monkeypatch.context() as patched:
        patched.setattr(machine.conversation, "open", never)
        meeting = asyncio.create_task(machine.meet(5))
        await asked.wait()
        meeting.cancel()
        await asyncio.wait([meeting])
    await machine.meet(5)
    assert daemon.vms.show("web").entrypoint == RUNNING


async def test_it_gets_its_signal_and_time_to_end_before_the_power_goes(server: Place) -> None:
    daemon = await server.daemon()
    await result(await daemon.vms.create(web(), start=True, wait="agent"))
    await daemon.vms.stop("web", force=False)
    guest = guest_of(server)
    assert [request for request in guest.requests if request["op"] in ("signal", "poweroff")] == [{"op": "signal", "signal": "3"}, {"op": "poweroff"}]


async def test_one_that_does_not_end_keeps_the_machine_only_so_long(server: Place) -> None:
    server.fake.qemu.guest("").command_signalled = None
    server.fake.qemu.guest = lambda _: server.fake.qemu.guests[""]  # type: ignore[method-assign]
    daemon = await server.daemon()
    await result(await daemon.vms.create(web(), start=True, wait="agent"))
    await daemon.vms.stop("web", force=False)
    assert ops(server.fake.qemu.guests[""])[-2:] == ["signal", "poweroff"]


@pytest.mark.parametrize(
    ("ends", "seen", "warned"),
    [
        ({"ok": {"exit": 3}}, Entrypoint(state=EntrypointState.EXITED, status=3), "has ended with status 3"),
        ({"ok": {"signal": "KILL"}}, Entrypoint(state=EntrypointState.KILLED, signal="KILL"), "was ended by KILL"),
        (
            {"error": {"code": "no-command", "message": "command is not found"}},
            Entrypoint(state=EntrypointState.FAILED, problem="command is not found"),
            "does not start: command is not found",
        ),
    ],
)
async def test_its_end_is_told_and_the_machine_stays(server: Place, ends: dict[str, object], seen: Entrypoint, warned: str) -> None:
    server.fake.qemu.guest("").command_ends = ends
    server.fake.qemu.guest = lambda _: server.fake.qemu.guests[""]  # type: ignore[method-assign]
    daemon = await server.daemon()
    told = [item async for item in await daemon.vms.create(web(), start=True, wait="agent")]
    await until(lambda: daemon.vms.show("web").entrypoint == seen)
    assert daemon.vms.show("web").state == "running"
    if "error" in ends:
        assert f"warning: what the image of web runs {warned}" in [item.detail for item in told if isinstance(item, Event)]
    await daemon.vms.stop("web", force=False)
    assert "signal" not in ops(server.fake.qemu.guests[""])


@pytest.mark.parametrize(
    ("kind", "payload", "state"),
    [
        (OPENED, {"pid": "seven"}, EntrypointState.RUNNING),
        (END, {"ok": {"exit": -1}}, EntrypointState.EXITED),
        (END, {"ok": {}}, EntrypointState.EXITED),
        (END, {}, EntrypointState.FAILED),
        (END, {"error": 3}, EntrypointState.FAILED),
        (END, {"error": {"code": "failed", "message": "x" * 60_000}}, EntrypointState.FAILED),
        (END, None, EntrypointState.FAILED),
    ],
)
def test_a_guest_may_say_anything(kind: int, payload: object, state: EntrypointState) -> None:
    found = _seen(kind, json.dumps(payload).encode())
    assert found is not None
    assert (found.state, len(found.problem) <= 1000) == (state, True)
