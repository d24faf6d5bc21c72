"""Pulls of what is here: the registry says whether its tag has moved on, and what is in use is never taken away."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from banger.model.catalog import Wish
from banger.model.errors import NotFound, WrongState
from banger.model.event import Event
from tests.unit.test_oci_image import LAYERS, Bench, bench

__all__ = ["bench"]


async def test_a_pull_of_what_is_here_asks_for_its_tag_and_fetches_no_layer_while_that_has_not_moved(bench: Bench) -> None:
    first = await bench.pull("registry.example/team/app:1")
    bench.registry.asked.clear()
    heard = [one.detail async for one in bench.images.pull("registry.example/team/app:1", Wish(), force=False) if isinstance(one, Event)]
    assert heard == ["pulling registry.example/team/app:1", "note: registry.example/team/app:1 is up to date"]
    assert await bench.pull("app-1", plain_http=True) == first
    assert bench.registry.asked == ["1", "1"]
    assert bench.registry.plain[-1]
    assert len(bench.fake.rootfs.made) == 1
    assert await bench.images.need("registry.example/team/app:1") == first
    assert bench.registry.asked == ["1", "1"]


@pytest.mark.parametrize("text", ["registry.example/team/app:1", "app-1"])
async def test_a_tag_that_has_moved_on_is_pulled_anew_in_the_place_of_the_old_image(bench: Bench, text: str) -> None:
    first = await bench.pull("registry.example/team/app:1", kernel="other")
    bench.registry.image("registry.example/team/app:1", LAYERS[:1])
    assert await bench.images.need(text) == first
    moved = await bench.pull(text)
    assert (moved.name, moved.kernel, moved.resolved != first.resolved) == ("app-1", "other", True)
    assert bench.names() == ["app-1"]


async def test_an_image_that_machines_use_stays_when_its_tag_moves_on_and_the_new_one_has_a_name_of_its_own(bench: Bench) -> None:
    reference = "registry.example/team/app:1"
    first = await bench.pull(reference)
    bench.used.append("web")
    second_is = bench.registry.image(reference, LAYERS[:1])
    second = await bench.pull(reference)
    assert second.name == f"app-1-{second_is.digest[7:19]}"
    assert bench.images.show("app-1") == msgspec.structs.replace(first, reference=f"registry.example/team/app@{first.resolved}")
    assert bench.images.show(reference) == await bench.images.need(reference) == second
    assert await bench.pull(reference) == second
    assert await bench.images.need("app-1") == bench.images.show("app-1")
    bench.registry.image(reference, LAYERS[1:])
    assert (await bench.pull(reference)).name == second.name  # nobody uses that one


async def test_a_name_that_was_asked_for_is_not_taken_from_machines(bench: Bench) -> None:
    await bench.pull("registry.example/team/app:1", local="app-1")
    bench.used.append("web")
    bench.registry.image("registry.example/team/app:1", LAYERS[:1])
    with pytest.raises(WrongState, match="app-1 is used by web, so nothing newer takes its place"):
        await bench.pull("app-1")


async def test_an_image_that_comes_into_use_while_a_newer_one_is_pulled_stays(bench: Bench) -> None:
    first = await bench.pull("registry.example/team/app:1")
    bench.registry.image("registry.example/team/app:1", [b"c" * 500])
    bench.registry.begun.clear()
    bench.registry.go.clear()
    task = asyncio.create_task(bench.pull("registry.example/team/app:1"))
    await bench.registry.begun.wait()
    bench.used.append("web")
    bench.registry.go.set()
    with pytest.raises(WrongState, match="app-1 has come into use meanwhile, by web"):
        await task
    assert (bench.images.show("app-1"), bench.names()) == (first, ["app-1"])


async def test_two_who_pull_a_tag_that_has_moved_on_make_it_once(bench: Bench) -> None:
    await bench.pull("registry.example/team/app:1")
    bench.registry.image("registry.example/team/app:1", LAYERS[:1])
    first, second = await asyncio.gather(*(bench.pull("registry.example/team/app:1") for _ in range(2)))
    assert first == second
    assert len(bench.fake.rootfs.made) == 2


async def test_a_registry_that_does_not_answer_fails_the_pull_and_keeps_what_is_here(bench: Bench) -> None:
    first = await bench.pull("registry.example/team/app:1")
    bench.registry.tags.clear()
    with pytest.raises(NotFound) as caught:
        await bench.pull("registry.example/team/app:1")
    assert "image app-1 of 2026-01-02" in caught.value.__notes__[0]
    assert await bench.images.need("registry.example/team/app:1") == first


async def test_an_index_that_changes_for_other_platforms_only_changes_nothing_here(bench: Bench) -> None:
    mine, arm = bench.registry.image("", LAYERS), bench.registry.image("", LAYERS[:1], architecture="arm64")
    bench.registry.index("registry.example/many:1", {"linux/amd64": mine})
    first = await bench.pull("registry.example/many:1")
    bench.registry.index("registry.example/many:1", {"linux/amd64": mine, "linux/arm64": arm})
    assert await bench.pull("registry.example/many:1") == first
    assert len(bench.fake.rootfs.made) == 1


async def test_a_second_name_stays_what_it_is_when_the_tag_moves_on(bench: Bench) -> None:
    first = await bench.pull("registry.example/team/app:1")
    await bench.images.tag("app-1", "aaa")
    bench.registry.image("registry.example/team/app:1", LAYERS[:1])
    assert (await bench.pull("registry.example/team/app:1")).name == "app-1"
    assert bench.images.show("aaa").resolved == first.resolved
    asked = len(bench.registry.asked)
    assert (await bench.pull("aaa")).resolved == first.resolved
    assert len(bench.registry.asked) == asked


async def test_a_catalogs_tag_that_has_moved_on_is_pulled_anew_unless_a_machine_uses_the_image(bench: Bench) -> None:
    bench.registry.image("registry.example/x:latest", LAYERS)
    first = await bench.pull("debian-bookworm")
    assert await bench.pull("debian-bookworm") == first
    bench.registry.image("registry.example/x:latest", LAYERS[:1])
    assert await bench.images.need("debian-bookworm") == first
    assert (await bench.pull("debian-bookworm")).resolved != first.resolved
    assert len(bench.fake.rootfs.made) == 2
