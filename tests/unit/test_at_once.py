"""Two things at once with one image or kernel: what a machine has come to use meanwhile is neither removed nor replaced, and no machine is made of what
has gone in between. (Two pulls at once: test_oci_image.py, and with real processes vm/test_pull.py;
pruning beside a pull: there, and test_housekeeping.py.)"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from banger.daemon import Daemon
from banger.model.catalog import Wish
from banger.model.errors import BangerError, NotFound, WrongState
from banger.model.vm import VmSpec
from tests import arrivals
from tests.arrivals import REFERENCE, Ground, ground, load, pull, state, unsound
from tests.place import result as machine
from tests.place import until


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Ground]:
    async with asyncio.timeout(20), ground(tmp_path) as made:
        yield made


@asynccontextmanager
async def held(lock: asyncio.Lock) -> AsyncIterator[None]:
    """While somebody else is at it."""
    async with lock:
        yield


async def create(daemon: Daemon, image: str) -> None:
    await machine(await daemon.vms.create(VmSpec(name="otter", image=image), start=False, wait="agent"))


async def register_other(place: Ground, daemon: Daemon) -> object:
    return await arrivals.result(daemon.images.register("box", rootfs=str(place.home / "root.img"), kernel="linux", force=True))


async def delete_image(place: Ground, daemon: Daemon) -> object:
    return await daemon.images.delete("box")


async def pull_anew(place: Ground, daemon: Daemon) -> object:
    return await arrivals.result(daemon.images.pull("box", Wish(), force=True))


@pytest.mark.parametrize("act", [delete_image, register_other, pull_anew])
async def test_an_image_that_comes_into_use_while_its_end_is_waited_for_stays(
    place: Ground, act: Callable[[Ground, Daemon], Awaitable[object]]
) -> None:
    daemon = await place.daemon()
    await load(place, daemon)
    there = state(place)
    async with held(daemon.images.shelf.locks.setdefault("box", asyncio.Lock())):
        waiting = asyncio.ensure_future(act(place, daemon))
        await asyncio.sleep(0)
        await create(daemon, "box")
    with pytest.raises(WrongState, match="image box is used by otter"):
        await waiting
    assert (state(place), unsound(place)) == (there, [])
    await daemon.vms.delete("otter")
    await act(place, daemon)


async def test_a_bundle_takes_no_place_that_has_come_into_use_meanwhile(place: Ground) -> None:
    daemon = await place.daemon()
    await load(place, daemon)
    there = state(place)
    async with held(daemon.images.shelf.locks.setdefault("box", asyncio.Lock())):
        loading = asyncio.ensure_future(arrivals.load_other(place, daemon))
        await until(lambda: any(path.name == "rootfs.ext4" for path in place.fake.paths.images.glob(".staging*/box/*")))
        await create(daemon, "box")
    with pytest.raises(WrongState, match="image box is used by otter"):
        await loading
    assert (state(place), unsound(place)) == (there, [])


@pytest.mark.parametrize("meanwhile", [delete_image, register_other])
async def test_no_machine_is_made_of_an_image_that_has_gone_while_its_kernel_came(
    place: Ground, meanwhile: Callable[[Ground, Daemon], Awaitable[object]]
) -> None:
    daemon = await place.daemon()
    await load(place, daemon)
    await daemon.images.tag("box", "second")  # so that its kernel may come and go
    place.host.files.remove_tree(place.fake.paths.kernel("linux"))
    async with held(daemon.kernels.shelf.locks.setdefault("linux", asyncio.Lock())):
        creating = asyncio.ensure_future(create(daemon, "box"))
        await until(lambda: any(one.seen.stage == "wait" for one in daemon.operations.running.values()))
        await meanwhile(place, daemon)
    with pytest.raises(WrongState, match=r"image box was (removed|replaced) meanwhile"):
        await creating
    assert daemon.vms.rows() == []
    assert place.clean()


async def test_what_is_deleted_while_it_is_pulled_is_whole_or_gone(place: Ground) -> None:
    daemon = await place.daemon()
    place.fake.registry.go.clear()
    pulling = asyncio.ensure_future(pull(place, daemon))
    await place.fake.registry.begun.wait()
    with pytest.raises(NotFound):
        await daemon.images.delete(REFERENCE)
    deleting = asyncio.ensure_future(daemon.images.delete("app-1"))
    await asyncio.sleep(0)
    place.fake.registry.go.set()
    await pulling
    await deleting
    assert (unsound(place), "images/app-1" in state(place)) == ([], False)
    await pull(place, daemon)
    assert "images/app-1" in state(place)


async def test_an_image_that_changes_while_it_is_promoted_is_not_replaced_by_what_it_was(place: Ground) -> None:
    daemon = await place.daemon()
    await load(place, daemon)
    await arrivals.register(place, daemon)
    (place.home / "other.img").write_bytes(arrivals.rootfs(4))
    async with held(daemon.images.shelf.locks.setdefault("mine", asyncio.Lock())):
        promoting = asyncio.ensure_future(arrivals.promote(place, daemon))
        await until(lambda: bool(daemon.operations.running))
        again = asyncio.ensure_future(arrivals.result(daemon.images.register("mine", rootfs=str(place.home / "other.img"), kernel="linux", force=True)))
        await asyncio.sleep(0)
    outcomes = await asyncio.gather(promoting, again, return_exceptions=True)
    failed = [one for one in outcomes if isinstance(one, BaseException)]
    assert all(isinstance(one, BangerError) for one in failed)
    assert daemon.images.show("mine").file == str(place.home / "other.img")
    assert unsound(place) == []
