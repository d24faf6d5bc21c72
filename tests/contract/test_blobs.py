"""The cache of blobs on a real file system, shared by processes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from banger.host.blobs import RealBlobs
from banger.host.files import RealFiles
from banger.model import oci
from banger.model.errors import Busy
from banger.model.oci import Descriptor

HOLD = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, int(sys.argv[2])); print('held', flush=True); sys.stdin.read()"
SHARED, ALONE = "1", "2"


def blobs(folder: Path) -> RealBlobs:
    return RealBlobs(folder / "oci", RealFiles())


def named(data: bytes, kind: str = "") -> Descriptor:
    return Descriptor(media_type=kind, digest=f"sha256:{hashlib.sha256(data).hexdigest()}", size=len(data))


async def keep(cache: RealBlobs, data: bytes) -> Descriptor:
    """As a pull does."""
    wanted = named(data)
    async with cache.filling(wanted) as place:
        place.write_bytes(data)
        cache.finish(place, wanted)
    return wanted


def held(path: Path, how: str) -> subprocess.Popen[bytes]:
    """Another process that holds a lock, until its stdin ends."""
    made = subprocess.Popen([sys.executable, "-c", HOLD, str(path), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert made.stdout is not None
    assert made.stdout.readline() == b"held\n"
    return made


async def test_a_blob_has_its_name_when_it_is_whole(tmp_path: Path) -> None:
    cache = blobs(tmp_path)
    wanted = named(b"data")
    async with cache.filling(wanted) as place:
        place.write_bytes(b"da")
        assert (cache.has(wanted), cache.have(wanted)) == (False, 2)
    async with cache.filling(wanted) as place:
        assert place.read_bytes() == b"da"
        place.write_bytes(b"data")
        cache.finish(place, wanted)
    assert (cache.has(wanted), cache.have(wanted), cache.read(wanted)) == (True, 4, b"data")
    assert list((tmp_path / "oci" / "partial").iterdir()) == []
    assert json.loads((tmp_path / "oci" / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    assert (tmp_path / "oci").stat().st_mode & 0o777 == 0o700


async def test_one_at_a_time_fills_a_blob(tmp_path: Path) -> None:
    cache, order = blobs(tmp_path), list[str]()

    async def fill(name: str) -> None:
        async with cache.filling(named(b"data")):
            order.append(name)
            await asyncio.sleep(0)
            order.append(name)

    await asyncio.gather(fill("a"), fill("b"))
    assert order == ["a", "a", "b", "b"]


async def test_beside_another_daemon_that_fills_it_a_pull_has_a_file_of_its_own(tmp_path: Path) -> None:
    cache, wanted = blobs(tmp_path), named(b"data")
    async with cache.filling(wanted) as place:
        place.write_bytes(b"da")
    with held(place, ALONE) as other:
        async with cache.filling(wanted) as own:
            assert (own != place, own.read_bytes()) == (True, b"")
        assert not own.exists()
        async with cache.filling(wanted) as own:
            own.write_bytes(b"data")
            cache.finish(own, wanted)
        other.communicate()
    assert cache.has(wanted)
    assert place.read_bytes() == b"da"


async def test_what_is_in_use_is_not_pruned_and_what_is_pruned_is_not_used(tmp_path: Path) -> None:
    cache = blobs(tmp_path)
    await keep(cache, b"data")
    with held(tmp_path / "oci" / "lock", SHARED) as other:
        with cache.using(), cache.using():
            pass
        with pytest.raises(Busy):
            cache.prune(frozenset(), dry=False)
        other.communicate()
    with held(tmp_path / "oci" / "lock", ALONE) as other:
        with pytest.raises(Busy, match="being pruned"), cache.using():
            pass
        other.communicate()
    assert cache.prune(frozenset(), dry=False).removed == 1


async def test_what_has_rotted_is_not_read(tmp_path: Path) -> None:
    cache = blobs(tmp_path)
    wanted = await keep(cache, b"data")
    for rot in (b"dat", b"dada"):
        cache.path(wanted.digest).write_bytes(rot)
        assert cache.read(wanted) is None
    assert not cache.has(named(b"never"))


async def test_a_link_in_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    cache, wanted = blobs(tmp_path), named(b"data")
    async with cache.filling(wanted) as place:
        pass
    assert not place.exists(), "nothing came"
    (tmp_path / "mine").write_bytes(b"precious")
    place.symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="symbolic links"):
        async with cache.filling(wanted):
            pass
    assert (tmp_path / "mine").read_bytes() == b"precious"


async def test_pruned_is_all_that_no_root_leads_to(tmp_path: Path) -> None:
    cache = blobs(tmp_path)
    config, layer, other = [await keep(cache, data) for data in (b"{}", b"layer", b"other")]
    rows = [{"mediaType": oci.OCI_CONFIG, "digest": config.digest, "size": 2}, {"mediaType": next(iter(oci.LAYERS)), "digest": layer.digest, "size": 5}]
    data = json.dumps({"schemaVersion": 2, "config": rows[0], "layers": rows[1:]}).encode()
    manifest = named(data, oci.OCI_MANIFEST)
    cache.add(data, manifest.digest)
    cache.name("registry.example/a:1", manifest)
    cache.name("registry.example/a:1", manifest)
    cache.name("registry.example/other:1", other)
    async with cache.filling(named(b"unfinished")) as place:
        place.write_bytes(b"un")
    found = cache.prune({manifest.digest, named(b"not here").digest}, dry=False)
    assert (found.removed, found.kept) == (2, 3)
    index = json.loads((tmp_path / "oci" / "index.json").read_bytes())
    assert [one["digest"] for one in index["manifests"]] == [manifest.digest]
    assert not place.exists()


async def test_what_is_remembered_of_a_layer_goes_with_it(tmp_path: Path) -> None:
    cache = blobs(tmp_path)
    layer = await keep(cache, b"layer")
    memory = cache.memory(layer.digest)
    for path in (memory, memory.with_name(f"{memory.name}.cut-off")):
        path.write_bytes(b"entries" * 1000)
    assert cache.prune(frozenset(), dry=True).removed_bytes > 7000
    assert memory.with_name(f"{memory.name}.cut-off").exists()
    assert cache.prune(frozenset(), dry=False).removed == 1
    assert list(memory.parent.iterdir()) == []


def test_an_empty_cache_is_none(tmp_path: Path) -> None:
    assert blobs(tmp_path).prune(frozenset(), dry=False).kept == 0
    assert not (tmp_path / "oci").exists()


def test_an_index_of_garbage_is_written_anew(tmp_path: Path) -> None:
    cache = blobs(tmp_path)
    cache.add(b"x", named(b"x").digest)
    for garbage in (b"", b"[]", b"\xff", b'{"schemaVersion": 2, "manifests": [5]}'):
        (tmp_path / "oci" / "index.json").write_bytes(garbage)
        cache.name("registry.example/a:1", named(b"x", oci.OCI_MANIFEST))
        assert len(json.loads((tmp_path / "oci" / "index.json").read_bytes())["manifests"]) == 1
