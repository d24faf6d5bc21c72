"""An image and its kernel go to another host in one file, and boot there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tests.contract.test_web import Site
from tests.signer import Signer
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


def test_a_machine_boots_from_what_a_signed_catalog_offers(world: World, tmp_path: Path) -> None:
    bundle = Path(world.ok("image", "export", SLIM, "-o", str(tmp_path)).strip()).read_bytes()
    other, site, signer = (
        World(tmp_path / "w", images_dir=str(tmp_path / "w" / "images"), kernels_dir=str(tmp_path / "w" / "kernels")),
        Site(),
        Signer(),
    )
    try:
        image = {"name": "mine", "source": "bundle", "kernel": "linux-mine", "url": f"{site.url}/b", "sha256": hashlib.sha256(bundle).hexdigest()}
        document = json.dumps({"version": 1, "serial": 1, "images": [image]}).encode()
        site.pages |= {"/b": bundle, "/team.json": document, "/team.json.minisig": signer.sign(document)}
        other.ok("catalog", "add", f"{site.url}/team.json", "--key", signer.key)
        assert other.ok("vm", "run", "--rm", "--image", "mine", "--", "cat", "/etc/debian_version").startswith("12")
        assert json.loads(other.ok("kernel", "show", "linux-mine", "--json"))["lacks"] == {}
    finally:
        other.close()
        site.shutdown()
        site.server_close()
