"""What an image runs by itself is started with its machine, told, stopped in its own way, and started again: one static program, and no shell."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger.model.catalog import ImageConfig
from tests.vm.shelved import compile_app, shelve
from tests.world import World, until

QUICK = ("--network", "none", "--memory", "192M")
SERVER = ImageConfig(entrypoint=("/app",), cmd=("serve", "all"), env={"GREETING": "image"}, workdir="/srv/deep", user="65532:7", stop_signal="SIGQUIT")


@pytest.fixture(scope="module")
def zoo(shelf: None) -> Iterator[World]:
    """A world with an image whose one program serves."""
    folder = Path(tempfile.mkdtemp(prefix="banger-test-", dir="/tmp"))
    world = World(folder, images_dir=str(folder / "images"))
    shelve(folder / "images", "server", {"app": compile_app(folder)}, config=SERVER)
    yield world
    world.close()
    shutil.rmtree(folder)


def entrypoint(world: World, name: str) -> dict[str, object]:
    """How it is with what the image runs."""
    found = json.loads(world.ok("vm", "show", "--json", name))["entrypoint"]
    assert isinstance(found, dict)
    return found


def test_what_an_image_runs_lives_and_ends_with_its_machine(zoo: World) -> None:
    zoo.ok("vm", "run", "-d", "--name", "web", "--image", "server", "-e", "GREETING=mine", *QUICK)
    seen = entrypoint(zoo, "web")
    assert seen["state"] == "running"
    until(lambda: "serving" in zoo.ok("vm", "logs", "web"), "the program serves")
    told = zoo.ok("vm", "logs", "web").splitlines()
    assert {'args="/app serve all"', 'GREETING="mine"', 'cwd="/srv/deep"', 'ids="65532 7"', 'terminal="false"'} <= set(told)

    zoo.kill_daemon()
    until(lambda: json.loads(zoo.ok("vm", "show", "--json", "web"))["entrypoint"] == seen, "the next daemon knows it")

    zoo.ok("vm", "restart", "web")
    assert "told to quit" in zoo.ok("vm", "logs", "web")
    assert zoo.ok("vm", "exec", "web", "--", "/app", "cat", "/tmp/began") == '/tmp/began="xx"\n', "once a start, whoever asks"

    zoo.ok("vm", "exec", "-u", "0", "web", "--", "/app", "kill", str(entrypoint(zoo, "web")["pid"]), "3")
    until(lambda: entrypoint(zoo, "web") == {"state": "exited", "status": 7}, "its end is told")
    assert "running (exited 7)" in zoo.ok("vm", "list")
    assert "what the image runs has ended: exit 7" in zoo.ok("vm", "logs", "web")
    zoo.ok("vm", "delete", "web")


def test_one_that_cannot_be_started_is_told_and_its_machine_can_be_looked_into(zoo: World) -> None:
    done = zoo.banger("vm", "run", "-d", "--name", "bad", "--image", "server", "-u", "nobody-there", *QUICK)
    problem = 'user "nobody-there" is not in /etc/passwd'
    assert (done.returncode, f"warning: what the image of bad runs does not start: {problem}" in " ".join(done.stderr.decode().split())) == (0, True)
    assert entrypoint(zoo, "bad") == {"state": "failed", "problem": problem}
    assert f"what the image runs does not start: {problem}" in zoo.ok("vm", "logs", "bad")
    assert 'args="/app report"' in zoo.ok("vm", "exec", "-u", "0", "bad", "--", "/app", "report")
    zoo.ok("vm", "delete", "bad")
