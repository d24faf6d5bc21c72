"""An image and its kernel go to another host in one file, and boot there."""

from __future__ import annotations

from pathlib import Path

from tests.world import KERNEL, SLIM, World


def test_a_machine_boots_from_what_came_in_a_bundle(world: World, tmp_path: Path) -> None:
    file = Path(world.ok("image", "export", SLIM, "-o", str(tmp_path)).strip())
    assert file.name.startswith(f"{SLIM}-x86_64-")
    other = World(tmp_path / "w", images_dir=str(tmp_path / "w" / "images"), kernels_dir=str(tmp_path / "w" / "kernels"))
    try:
        assert other.ok("bundle", "load", str(file)) == f"kernel {KERNEL}\nimage {SLIM}\n"
        assert "here already" in other.banger("image", "import", str(file)).stderr.decode()
        assert other.ok("vm", "run", "--rm", "--image", SLIM, "--", "cat", "/etc/debian_version").startswith("12")
        file.write_bytes(file.read_bytes()[:-1000])
        other.ok("image", "delete", SLIM)
        cut = other.banger("bundle", "load", str(file))
        assert cut.returncode == 125
        assert "cut short" in cut.stderr.decode()
        assert list((tmp_path / "w" / "images").iterdir()) == []
    finally:
        other.close()
