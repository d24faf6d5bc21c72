"""Images from registries by the command line: pulled, booted, taken back, killed, run out of disk; and a cache that other tools can read.

The registry is Debian's, on loopback. Whatever would leave this host goes to a proxy that does not exist.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pulling import LAYER
from tests.registry import Daemon, Front, certificates, registry, tar
from tests.vm.test_space import Small, place
from tests.world import World, until

__all__ = ["place"]
NOISE = tar({"noise": random.Random(2).randbytes(3 << 20)})
CONFIG = {"Entrypoint": ["/bin/busybox"], "Cmd": ["echo", "by itself"], "Env": ["PATH=/bin"]}


def busybox() -> bytes:
    """A layer with a shell."""
    found = shutil.which("busybox")
    assert found, "busybox is missing: python3 packaging/bootstrap.py dev"
    return tar({"bin/busybox": Path(found).read_bytes()})


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with registry(tmp_path_factory.mktemp("plain") / "registry") as made:
        made.image("team/box", "1", [busybox(), LAYER], config=CONFIG)
        made.image("library/box", "latest", [busybox()], config=CONFIG)
        made.image("team/noise", "1", [NOISE])
        yield made


@pytest.fixture
def front(upstream: Daemon) -> Iterator[Front]:
    made = Front(upstream.host)
    yield made
    made.close()


def hermit(world: World) -> World:
    """With images of its own, and with no way out of this host."""
    world.env |= {name: "http://127.0.0.1:9" for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")}
    world.env |= {"BANGER_IMAGES_DIR": str(world.root / "images"), "DOCKER_CONFIG": str(world.root / "docker")}
    return world


@pytest.fixture
def alone(world: World) -> World:
    return hermit(world)


def here(world: World) -> list[str]:
    """The images, and what looks like one that is being made."""
    return sorted(path.name for path in (world.root / "images").iterdir())


def partial(world: World) -> list[int]:
    """The sizes of unfinished blobs."""
    return [path.stat().st_size for path in (world.root / "cache" / "banger" / "oci" / "partial").glob("*")]


def test_an_image_is_pulled_and_booted_and_listed(alone: World, upstream: Daemon) -> None:
    reference = f"{upstream.host}/team/box:1"
    done = alone.banger("image", "pull", reference)
    assert done.returncode == 124
    assert b"--plain-http" in done.stderr
    assert alone.ok("image", "pull", "--plain-http", reference) == "box-1\n"
    assert alone.ok("vm", "run", "--rm", "--image", reference, "--", "/bin/busybox", "sha256sum", "/data").split()[1:] == ["/data"]
    rows = json.loads(alone.ok("image", "list", "--json"))
    assert [(row["name"], row["source"], row["local"]) for row in rows] == [("box-1", reference, True)]
    shown = json.loads(alone.ok("image", "show", reference, "--json"))
    assert (shown["config"]["entrypoint"], shown["config"]["cmd"], shown["reference"]) == (["/bin/busybox"], ["echo", "by itself"], reference)
    assert alone.ok("image", "delete", reference) == f"{reference}\n"
    assert here(alone) == []


def test_a_tag_that_moves_on_is_noticed_and_what_a_machine_uses_stays(alone: World, upstream: Daemon) -> None:
    front = Front(upstream.host)
    reference, pull = f"{front.host}/team/moving:1", ("image", "pull", "--plain-http")
    try:
        upstream.image("team/moving", "1", [busybox()])
        alone.ok(*pull, reference)
        asked = len(front.blobs())
        said = alone.banger(*pull, reference)
        assert (said.stdout, b"is up to date" in said.stderr, len(front.blobs())) == (b"moving-1\n", True, asked)
        upstream.image("team/moving", "1", [busybox(), LAYER])
        alone.ok("vm", "create", "--no-start", "--name", "old", "--image", reference)
        moved = alone.ok(*pull, reference).strip()
        assert moved.startswith("moving-1-")
        assert {row["name"]: row["used_by"] for row in json.loads(alone.ok("image", "list", "--json"))} == {"moving-1": ["old"], moved: []}
        assert alone.ok("vm", "run", "--rm", "--image", reference, "--", "/bin/busybox", "ls", "/data") == "/data\n"
        alone.ok("vm", "start", "old")
        assert alone.banger("vm", "exec", "old", "--", "/bin/busybox", "ls", "/data").returncode == 1
        alone.ok("vm", "delete", "old")
    finally:
        front.close()
    said = alone.banger(*pull, reference)
    assert (said.returncode, here(alone)) == (124, ["moving-1", moved])
    assert f"image {moved} of".encode() in said.stderr
    assert alone.ok("vm", "run", "--rm", "--image", reference, "--", "/bin/busybox", "ls", "/data") == "/data\n"


def test_vm_run_pulls_by_itself_by_reference_and_by_a_bare_word(alone: World, upstream: Daemon) -> None:
    certificate = certificates(alone.root / "tls")
    front = Front(upstream.host, certificate=certificate)
    try:
        folder = alone.root / "config" / "banger" / "certs.d" / front.host
        folder.mkdir(parents=True)
        shutil.copy(certificate.with_name("ca.crt"), folder)
        said = alone.banger("vm", "run", "--rm", "--image", f"{front.host}/team/box:1", "--", "/bin/busybox", "echo", "hello")
        assert (said.returncode, said.stdout) == (0, b"hello\n"), said.stderr.decode()
        alone.ok("daemon", "stop")
        alone.env |= {"BANGER_REGISTRY_MIRRORS": f"docker.io={front.host}", "BANGER_SHORT_NAMES": "yes"}
        said = alone.banger("vm", "run", "--rm", "--image", "box", "--", "/bin/busybox", "echo", "again")
        assert (said.returncode, said.stdout) == (0, b"again\n"), said.stderr.decode()
        assert b"box is neither here nor in the catalog: pulling docker.io/library/box:latest from Docker Hub" in said.stderr
        assert here(alone) == ["box", "box-1"]
        said = alone.banger("vm", "run", "--rm", "--image", "unheard-of", "--", "true")
        assert said.returncode != 0
        assert b"looked for at Docker Hub" in said.stderr
    finally:
        front.close()


def test_killed_in_the_middle_it_goes_on_where_it_was(alone: World, front: Front) -> None:
    front.faults = {"/blobs/": ["pass", "stall 2000000"]}
    alone.ok("daemon", "status")
    with alone.begin("image", "pull", "--plain-http", f"{front.host}/team/noise:1") as command:
        assert front.held.wait(30)
        until(lambda: max(partial(alone), default=0) > 1_000_000, "the first bytes")
        alone.kill_daemon()
        command.communicate(timeout=60)
    front.go.set()
    came = max(partial(alone))
    assert alone.ok("image", "pull", "--plain-http", f"{front.host}/team/noise:1") == "noise-1\n"
    assert front.blobs()[-1].range == f"bytes={came}-"
    assert (here(alone), partial(alone)) == (["noise-1"], [])


def test_taken_back_it_leaves_no_image_and_nothing_of_the_cache_is_lost(alone: World, front: Front) -> None:
    front.faults = {"/blobs/": ["pass", "stall 2000000"]}
    with alone.begin("image", "pull", "--plain-http", f"{front.host}/team/noise:1") as command:
        assert front.held.wait(30)
        until(lambda: max(partial(alone), default=0) > 1_000_000, "the first bytes")
        command.send_signal(signal.SIGINT)
        command.communicate(timeout=60)
    assert (command.returncode, here(alone)) == (130, [])
    front.go.set()
    alone.ok("image", "pull", "--plain-http", f"{front.host}/team/noise:1")
    assert front.blobs()[-1].range


def test_a_disk_that_fills_up_says_so_and_leaves_nothing(place: Path, front: Front) -> None:
    world = hermit(World(place))
    try:
        disk = Small(world.root / "cache", 80)
        done = world.banger("image", "pull", "--plain-http", f"{front.host}/team/noise:1")
        assert done.returncode == 0, done.stderr.decode()
        world.ok("image", "delete", "noise-1")
        freed = json.loads(world.ok("image", "cache", "prune", "--json"))
        assert freed["removed"] == 3
        front.faults = {"/blobs/": ["pass", "stall 500000"]}
        with world.begin("image", "pull", "--plain-http", f"{front.host}/team/noise:1") as command:
            assert front.held.wait(30)
            disk.fill()
            front.go.set()
            _, said = command.communicate(timeout=60)
        assert (command.returncode, here(world), sum(partial(world))) == (123, [], 0), said.decode()
        assert b"no space left" in said
        done = world.banger("image", "pull", "--plain-http", f"{front.host}/team/noise:1")
        assert (done.returncode, b"are free" in done.stderr) == (123, True)
        disk.free()
        world.ok("image", "pull", "--plain-http", f"{front.host}/team/noise:1")
    finally:
        world.close()


def test_two_daemons_that_share_a_cache_pull_the_same_at_once(alone: World, front: Front) -> None:
    other = hermit(World(alone.root / "other"))
    other.env["XDG_CACHE_HOME"] = alone.env["XDG_CACHE_HOME"]
    try:
        front.faults = {"/blobs/": ["pass", "stall 2000000"]}
        with alone.begin("image", "pull", "--plain-http", f"{front.host}/team/noise:1") as first:
            assert front.held.wait(30)
            assert other.ok("image", "pull", "--plain-http", f"{front.host}/team/noise:1") == "noise-1\n"
            assert other.banger("image", "cache", "prune").returncode == 122
            front.go.set()
            first.communicate(timeout=60)
        assert (first.returncode, partial(alone)) == (0, [])
        files = [world.root / "images" / "noise-1" / "rootfs.ext4" for world in (alone, other)]
        assert files[0].read_bytes() == files[1].read_bytes()
    finally:
        other.close()


@pytest.mark.parametrize(
    ("words", "name", "beside"), [((), "noise-1", "wait: for noise-1, which is being made already"), (("--name", "other"), "other", "download: ")]
)
def test_two_commands_that_pull_the_same_at_once_share_one_download(alone: World, front: Front, words: tuple[str, ...], name: str, beside: str) -> None:
    front.faults = {"/blobs/": ["pass", "stall 2000000"]}
    command = ("image", "pull", "--plain-http", f"{front.host}/team/noise:1")
    with alone.begin(*command) as first:
        assert front.held.wait(30)
        with alone.begin(*command, *words) as second:
            assert second.stderr is not None
            assert any(beside in line.decode() for line in second.stderr), "it has ended"
            assert alone.banger("image", "cache", "prune").returncode == 122
            front.go.set()
            said = [one.communicate(timeout=60)[0].decode() for one in (first, second)]
    assert (first.returncode, second.returncode, said) == (0, 0, ["noise-1\n", f"{name}\n"])
    assert len(front.blobs()) == 2, "the configuration and the layer"
    assert (here(alone), partial(alone)) == (sorted({"noise-1", name}), [])


def test_the_cache_is_a_layout_that_other_tools_read_and_is_pruned(alone: World, upstream: Daemon, tmp_path: Path) -> None:
    reference = f"{upstream.host}/team/box:1"
    alone.ok("image", "pull", "--plain-http", reference)
    layout = alone.root / "cache" / "banger" / "oci"
    subprocess.run(["skopeo", "copy", f"oci:{layout}:{reference}", f"dir:{tmp_path / 'copy'}"], check=True, capture_output=True)
    assert (tmp_path / "copy" / "manifest.json").exists()
    assert "removed        0" in alone.ok("image", "cache", "prune")
    alone.ok("image", "delete", "box-1")
    before = set(layout.rglob("*"))
    dry = json.loads(alone.ok("image", "cache", "prune", "--dry-run", "--json"))
    assert (dry["removed"], set(layout.rglob("*"))) == (4, before)
    assert json.loads(alone.ok("image", "cache", "prune", "--json")) == dry
    assert list(layout.glob("blobs/*/*")) == []


@pytest.mark.parametrize("form", [("--format", "v2s2"), ("--dest-compress-format", "zstd", "--format", "oci"), ("--format", "oci")])
def test_images_of_other_tools_are_pulled(alone: World, upstream: Daemon, form: tuple[str, ...]) -> None:
    """Docker's schema 2, layers packed with zstd, and an image that umoci made."""
    layout = alone.root / "layout"
    there = ["skopeo", "copy", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false"]
    subprocess.run([*there, f"docker://{upstream.host}/team/box:1", f"oci:{layout}:base"], check=True, capture_output=True)
    if form == ("--format", "oci"):
        subprocess.run(["umoci", "config", "--image", f"{layout}:base", "--config.env", "MADE=by umoci"], check=True, capture_output=True)
    subprocess.run([*there, *form, f"oci:{layout}:base", f"docker://{upstream.host}/team/other:1"], check=True, capture_output=True)
    reference = f"{upstream.host}/team/other:1"
    alone.ok("image", "pull", "--plain-http", reference)
    assert alone.ok("vm", "run", "--rm", "--image", "other-1", "--", "/bin/busybox", "echo", "there") == "there\n"


def test_nothing_of_this_was_asked_of_another_host(alone: World) -> None:
    done = alone.banger("image", "pull", "registry.example/a:1")
    assert (done.returncode, here(alone)) == (124, [])
    assert os.environ.get("BANGER_REGISTRY_MIRRORS") is None
