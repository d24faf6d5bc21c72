"""Real builds from the Debian archive, as whoever runs this and as an ordinary user: what comes out, and that a stopped build leaves nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import lz4
import msgspec
import pytest

import banger
from banger.host.kmod import RealKmod
from banger.model import codec
from banger.model.catalog import ImageManifest, KernelManifest

BUILDER = Path(__file__).with_name("build_artefact.py")
NAME = "banger-build-test"
AS_USER = [shutil.which("runuser", path="/usr/sbin:/sbin:/usr/bin:/bin") or "runuser", "-u", NAME, "--"]


class Builder:
    """Runs the builder in a folder, as us or as another user."""

    def __init__(self, folder: Path, prefix: list[str]) -> None:
        self.folder, self.prefix = folder, prefix

    def __call__(self, kind: str, name: str, stop: str = "") -> subprocess.CompletedProcess[str]:
        command = [*self.prefix, str(BUILDER), kind, name, str(self.folder / "made"), *([stop] if stop else [])]
        return subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment())

    def leftovers(self) -> list[str]:
        """Files, processes and mounts that a build left."""
        found = [str(path) for path in self.folder.iterdir()]
        found += [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(self.folder) in line]
        for process in Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
            if str(self.folder).encode() in command:
                found.append(command.decode("utf-8", "replace"))
        return found


def environment() -> dict[str, str]:
    packages = {Path(module.__file__ or "").parents[1] for module in (banger, msgspec, lz4)}
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": os.pathsep.join(map(str, packages)), "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture
def ours(tmp_path: Path) -> Builder:
    (tmp_path / "place").mkdir()
    return Builder(tmp_path / "place", [sys.executable])


@pytest.fixture
def users() -> Iterator[Builder]:
    """As an ordinary user: made for the test when root runs it."""
    if os.geteuid():
        pytest.skip("root is needed to make a user; the other tests build as the ordinary user that you are")
    home = Path(f"/var/tmp/{NAME}")
    subprocess.run(["useradd", "--create-home", "--home-dir", home, NAME], check=True, capture_output=True)
    try:
        place = home / "place"
        subprocess.run(["install", "-d", "-m", "700", "-o", NAME, place], check=True)
        yield Builder(place, [*AS_USER, python_for_others()])
    finally:
        subprocess.run(["userdel", NAME], check=True, capture_output=True)
        shutil.rmtree(home)


def python_for_others() -> str:
    """An interpreter that another user may run; ours may lie in root's home."""
    for place in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        probe = [*AS_USER, place, "-c", "import banger, msgspec, lz4.block"]
        if subprocess.run(probe, env=environment(), capture_output=True, cwd="/").returncode == 0:
            return place
    pytest.skip("no python3 of this version that an ordinary user may run (Debian's package python3)")


def manifest(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()[-1]


def check_kernel(result: subprocess.CompletedProcess[str], made: Path) -> None:
    found = codec.decode(manifest(result).encode(), KernelManifest, what="manifest")
    assert sorted(path.name for path in made.iterdir()) == ["config", "modules", "vmlinux"]
    assert (made / "vmlinux").read_bytes()[:4] == b"\x7fELF" or found.architecture != "x86_64"
    assert found.release.startswith("6.1.")
    order = [path.stem for path in RealKmod().closure(made / "modules", ["virtio_net", "virtio_blk", "virtio_console", "overlay", "ext4"])]
    assert order.index("virtio_ring") < order.index("virtio_blk")


def ask(image: Path, question: str) -> str:
    tool = shutil.which("debugfs", path="/usr/sbin:/sbin")
    assert tool is not None, "debugfs comes with mkfs.ext4"
    return subprocess.run([tool, "-R", question, image], capture_output=True, text=True, check=True).stdout


def check_slim(result: subprocess.CompletedProcess[str], made: Path) -> None:
    found = codec.decode(manifest(result).encode(), ImageManifest, what="manifest")
    image = made / "rootfs.ext4"
    assert [path.name for path in made.iterdir()] == ["rootfs.ext4"]
    assert (found.init, found.size_bytes) == ("", image.stat().st_size)
    assert 80 < found.packages < 200
    assert found.used_bytes < 200 << 20
    assert "Mode:  04755" in ask(image, "stat /usr/bin/passwd")
    assert "User:     0   Group:    42" in ask(image, "stat /etc/shadow")
    assert "root:*:" in ask(image, "cat /etc/shadow")
    assert ask(image, "cat /etc/machine-id") == ask(image, "cat /etc/resolv.conf") == ask(image, "cat /etc/fstab") == ""
    assert ask(image, "ls -p /dev").count("\n") <= 3


def test_a_kernel_is_made_with_its_modules(ours: Builder) -> None:
    check_kernel(ours("kernel", "debian-6.1"), ours.folder / "made")


def test_an_ordinary_user_makes_the_same_kernel(users: Builder) -> None:
    check_kernel(users("kernel", "debian-6.1"), users.folder / "made")


@pytest.mark.slow
def test_an_image_without_init_is_made(ours: Builder) -> None:
    result = ours("image", "debian-bookworm-slim")
    check_slim(result, ours.folder / "made")
    events = [json.loads(line) for line in result.stdout.splitlines()[:-1]]
    for detail, unit in (("download", "bytes"), ("unpack", "packages"), ("configure", "packages")):
        counted = [event for event in events if event["detail"] == detail and event.get("unit") == unit]
        assert counted
        assert all(event["done"] <= event["total"] for event in counted)


@pytest.mark.slow
def test_an_ordinary_users_image_has_roots_owners_and_setuid_bits(users: Builder) -> None:
    check_slim(users("image", "debian-bookworm-slim"), users.folder / "made")


@pytest.mark.parametrize("stage", ["making debian-bookworm-slim", "update package lists", "extract packages", "install essential packages"])
def test_a_cancelled_build_leaves_nothing(ours: Builder, stage: str) -> None:
    assert ours("image", "debian-bookworm-slim", stage).returncode == 3
    assert ours.leftovers() == []


def test_an_ordinary_users_cancelled_build_leaves_nothing(users: Builder) -> None:
    assert users("image", "debian-bookworm-slim", "install essential packages").returncode == 3
    assert users.leftovers() == []


def test_a_full_disk_is_told_before_anything_is_fetched(ours: Builder) -> None:
    if os.geteuid():
        pytest.skip("root is needed to mount a small file system")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64M", "tmpfs", ours.folder], check=True)
    try:
        result = ours("kernel", "debian-6.1")
        assert result.returncode == 4
        assert "needs about 768M" in result.stderr
        assert list(ours.folder.iterdir()) == []
    finally:
        subprocess.run(["umount", ours.folder], check=True)


def test_a_disk_that_fills_up_during_the_build_is_told_and_nothing_is_left(ours: Builder) -> None:
    if os.geteuid():
        pytest.skip("root is needed to mount a small file system")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2G,nr_inodes=1500", "tmpfs", ours.folder], check=True)
    try:
        result = ours("kernel", "debian-6.1")
        assert result.returncode == 4
        assert "no space left while making kernel debian-6.1" in result.stderr
        assert list(ours.folder.iterdir()) == []
    finally:
        subprocess.run(["umount", ours.folder], check=True)
