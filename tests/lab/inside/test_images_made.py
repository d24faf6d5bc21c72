"""Images made in Firecracker: out of a Dockerfile, and out of a machine whose disk is mapped."""

from __future__ import annotations

from pathlib import Path

from banger.model.catalog import ImageConfig
from tests.inventory import take
from tests.vm.shelved import Node, shelve
from tests.world import World

#: A shell, and what it is linked with: what it is asked for here it does by itself.
LIBRARIES = ("lib/x86_64-linux-gnu/libc.so.6", "lib64/ld-linux-x86-64.so.2")
BOX: dict[str, Node] = {"bin/sh": Path("/bin/dash"), **{name: Path("/") / name for name in LIBRARIES}}
READ = ("--", "/bin/sh", "-c", "for file in /built /mine; do read -r line < $file; echo $line; done")


def test_a_build_runs_in_firecracker_and_a_machine_with_a_mapped_disk_becomes_an_image(short_path: Path, shelf: None) -> None:
    shelve(short_path / "images", "box", BOX, config=ImageConfig(cmd=("/bin/sh",)))
    (short_path / "context").mkdir()
    (short_path / "context" / "Dockerfile").write_text("FROM box\nRUN echo by a build > /built\n")
    world = World(short_path, images_dir=str(short_path / "images"), disk="devmapper", disk_size="128M", network="none", memory_mib="128")
    before = take(short_path)
    try:
        built = world.banger("image", "build", "-t", "app", str(short_path / "context"))
        assert (built.returncode, b"Firecracker" in built.stderr) == (0, True), built.stderr.decode()
        world.ok("vm", "create", "--name", "otter", "--image", "app")
        world.ok("vm", "exec", "otter", "--", "/bin/sh", "-c", "echo by a machine > /mine")
        world.ok("vm", "stop", "otter")
        world.ok("image", "commit", "otter", "copy")
        assert world.ok("vm", "run", "--rm", "--image", "copy", *READ) == "by a build\nby a machine\n"
        assert [row["name"] for row in world.rows()] == ["otter"]
        assert (world.row("otter")["vmm"], world.row("otter")["disk"]) == ("firecracker", "devmapper")
        world.ok("vm", "delete", "otter")
        found = take(short_path).beyond(before)
        assert {kind: found[kind] for kind in ("maps", "loops", "mounts") if kind in found} == {}
    finally:
        world.close()
