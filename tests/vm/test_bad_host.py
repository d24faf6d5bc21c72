"""What banger finds on its host: catalogs, settings, a database, commands, a runtime folder. What is wrong there is named, and nothing is changed."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.vm.refusal import BROKEN, GUEST_FAILED, HOST_LACKS, QUICKLY, refused
from tests.vm.test_build_images import environment
from tests.world import KERNEL, SHELF, World, alive, until

# --- catalogs and settings


def entry(**more: object) -> dict[str, object]:
    return {"name": "tiny", "source": "debian", "kernel": KERNEL, "suite": "bookworm", "variant": "essential"} | more


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "images.json"),
        ("{", "images.json"),
        ("[]", "images.json"),
        ('{"version": 1}', "entries"),
        (json.dumps({"version": 2, "entries": []}), "version 2"),
        (json.dumps({"version": 1, "entries": [], "extra": 1}), "extra"),
        (json.dumps({"version": 1, "entries": [entry(kernal="x")]}), "kernal"),
        (json.dumps({"version": 1, "entries": [entry(name="../x")]}), "../x"),
        (json.dumps({"version": 1, "entries": [entry(size_mib="big")]}), "size_mib"),
    ],
)
def test_a_catalog_that_cannot_be_read_is_named_with_its_fault(world: World, text: str, says: str) -> None:
    folder = world.root / "catalog"
    folder.mkdir()
    (folder / "images.json").write_text(text)
    world.env["BANGER_CATALOG"] = str(folder)
    said = refused(world, "vm", "list", says=says)
    assert str(folder / "images.json") in said
    assert not world.socket.exists()
    (folder / "images.json").write_text(json.dumps({"version": 1, "entries": [entry()]}))
    assert "tiny" in world.ok("image", "list", "--available")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"suite": "book worm"}, "book worm"),
        ({"suite": ""}, "suite"),
        ({"variant": "huge"}, "huge"),
        ({"packages": ["--x"]}, "--x"),
        ({"source": "nothing"}, "source of images 'nothing'"),
        ({"size_mib": 0}, "0 MiB"),
        ({"kernel": ""}, "kernel"),
    ],
)
def test_a_catalog_entry_that_cannot_be_made_is_refused_before_anything_is_fetched(world: World, change: dict[str, object], says: str) -> None:
    folder = world.root / "config" / "banger" / "catalog"
    folder.mkdir(parents=True)
    (folder / "images.json").write_text(json.dumps({"version": 1, "entries": [entry(**change)]}))
    before = sorted((SHELF / "images").iterdir())
    assert "image tiny" in refused(world, "image", "pull", "tiny", says=says)
    assert sorted((SHELF / "images").iterdir()) == before


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("default_imge = 'x'", "default_imge"),
        ("vcpu = 'many'", "vcpu"),
        ("vcpu = -1", "vcpu"),
        ("boot_timeout = 0", "boot_timeout"),
        ("disk_size = 'huge'", "disk_size"),
        ("disk_size = 8", "disk_size"),
        ("kvm = 'maybe'", "kvm"),
        ("vcpu = ", "TOML"),
        ("\udcff = 1", "TOML"),
    ],
)
def test_settings_that_cannot_be_meant_are_named_and_no_daemon_starts(world: World, text: str, says: str) -> None:
    path = world.root / "config" / "banger" / "config.toml"
    path.parent.mkdir()
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    world.env.pop("BANGER_VCPU")
    said = refused(world, "vm", "list", says=says)
    assert str(path) in said
    assert not world.socket.exists()
    assert world.processes() == {}
    path.write_text("vcpu = 1\n")
    world.ok("vm", "list")


@pytest.mark.parametrize(("name", "value"), [("VCPU", "many"), ("BOOT_TIMEOUT", "-1"), ("KVM", "maybe"), ("DISK_SIZE", "huge"), ("LOG_LEVEL", "loud")])
def test_a_variable_that_cannot_be_meant_is_named(world: World, name: str, value: str) -> None:
    world.env[f"BANGER_{name}"] = value
    refused(world, "vm", "list", says=f"BANGER_{name}")


# --- the database


def _newer(path: Path) -> None:
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA user_version = 99")
    database.close()


def _garbage(path: Path) -> None:
    path.write_bytes(b"no database " * 1000)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(("damage", "says"), [(_newer, "schema 99"), (_garbage, "banger.db"), (_cut, "banger.db")])
def test_a_database_that_cannot_be_used_is_named_and_not_touched(world: World, damage: Callable[[Path], None], says: str) -> None:
    world.ok("vm", "create", "--name", "otter", "--no-start")
    pid = world.daemon_pid()
    world.ok("daemon", "stop")
    until(lambda: not alive(pid), "the daemon's end")
    path = world.state / "banger.db"
    good = path.read_bytes()
    damage(path)
    bad = path.read_bytes()
    said = refused(world, "vm", "list", status=BROKEN, says=says, hints="banger")
    assert str(path) in said
    doctor = world.banger("doctor")
    assert doctor.returncode == HOST_LACKS
    assert b"FAIL  database" in doctor.stdout
    assert path.read_bytes() == bad
    path.write_bytes(good)
    for name in ("banger.db-wal", "banger.db-shm"):
        (world.state / name).unlink(missing_ok=True)
    assert "otter" in world.ok("vm", "list")


# --- the host


HIDE = """
import ctypes, os, sys
where, hidden = sys.argv[1].split(","), sys.argv[2:sys.argv.index("--")]
libc = ctypes.CDLL(None, use_errno=True)
for folder in where:
    for name in hidden:
        path = os.path.join(folder, name)
        if os.path.exists(path) and libc.mount(b"/dev/null", os.path.realpath(path).encode(), None, 4096, None):
            raise OSError(ctypes.get_errno(), "mount " + path)
command = sys.argv[sys.argv.index("--") + 1:]
os.execv(command[0], command)
"""
BINARIES = "/usr/local/sbin,/usr/local/bin,/usr/sbin,/usr/bin,/sbin,/bin"


def without(*commands: str) -> tuple[str, ...]:
    """A prefix under which these commands are not on the host: something that is no program lies over each, in a mount namespace."""
    user = () if os.geteuid() == 0 else ("--map-root-user",)
    return ("unshare", *user, "--mount", "--", sys.executable, "-c", HIDE, BINARIES, *commands, "--")


@pytest.fixture
def empty_shelves(short_path: Path) -> dict[str, str]:
    """Settings for a banger that has no image and no kernel yet."""
    return {"images_dir": str(short_path / "images"), "kernels_dir": str(short_path / "kernels")}


@pytest.mark.parametrize(
    ("command", "package", "flags"),
    [
        ("qemu-system-x86_64", "qemu-system-x86", ()),
        ("passt", "passt", ()),
        ("mkfs.ext4", "e2fsprogs", ("--network", "none")),
    ],
)
def test_a_host_that_lacks_a_command_is_told_its_package_before_anything_is_built(
    short_path: Path, empty_shelves: dict[str, str], command: str, package: str, flags: tuple[str, ...]
) -> None:
    world = World(short_path, prefix=without(command), **empty_shelves)
    try:
        said = refused(world, "vm", "create", "--name", "otter", *flags, status=HOST_LACKS, says=command)
        assert package in said
        assert world.rows() == []
        assert list((short_path / "images").iterdir()) == []
        doctor = world.banger("doctor")
        assert doctor.returncode == HOST_LACKS
        assert package.encode() in doctor.stdout
    finally:
        world.close()


def test_a_host_that_lacks_much_is_told_all_of_it_at_once(short_path: Path, empty_shelves: dict[str, str]) -> None:
    world = World(short_path, prefix=without("qemu-system-x86_64", "passt", "mkfs.ext4", "mmdebstrap"), **empty_shelves)
    try:
        said = refused(world, "vm", "create", "--name", "otter", status=HOST_LACKS, says="qemu-system-x86_64 is not installed")
        for lack in ("mkfs.ext4 is not installed", "passt is not installed", "the command mmdebstrap is missing"):
            assert lack in said
        assert "apt-get install qemu-system-x86 e2fsprogs passt mmdebstrap" in said
        refused(world, "vm", "create", "--network", "none", status=HOST_LACKS, hints="apt-get install qemu-system-x86 e2fsprogs mmdebstrap")
    finally:
        world.close()


def test_a_request_that_cannot_be_is_refused_before_anything_is_built(short_path: Path, empty_shelves: dict[str, str]) -> None:
    world = World(short_path, firecracker="/nowhere/firecracker", **empty_shelves)
    try:
        refused(world, "vm", "create", "--disk-size", "1")
        refused(world, "vm", "create", "--vmm", "firecracker", status=HOST_LACKS, says="/nowhere/firecracker is not installed")
        assert list((short_path / "images").iterdir()) == []
    finally:
        world.close()


def test_a_vmm_that_ends_at_once_is_told_with_its_own_words(world: World) -> None:
    """A processor model that QEMU's KVM cannot give: there is no KVM here, or it is not ours to use."""
    world.env["BANGER_KVM"] = "yes"
    world.env["PATH"] = f"{world.root}/bin:{world.env['PATH']}"
    (world.root / "bin").mkdir()
    fake = world.root / "bin" / "qemu-system-x86_64"
    fake.write_text("#!/bin/sh\necho 'qemu: \033[31mno such accelerator' >&2\nexit 1\n")
    fake.chmod(0o755)
    done = world.banger("vm", "create", "--name", "otter", "--network", "none", timeout=QUICKLY)
    said = done.stderr.decode()
    assert done.returncode == GUEST_FAILED
    assert "QEMU ended at once: qemu: no such accelerator" in said
    assert "stage: machine" in said
    assert "\x1b" not in said
    assert world.rows() == []
    fake.unlink()
    world.env["BANGER_KVM"] = "no"
    world.kill_daemon()
    world.ok("vm", "create", "--name", "otter", "--network", "none")


# --- the runtime folder in /tmp


UID = 61234


@pytest.fixture
def throwaway() -> Iterator[Path]:
    """A banger of a user that does not exist otherwise, without XDG_RUNTIME_DIR, so that its sockets are to be in /tmp."""
    if os.geteuid():
        pytest.skip("root is needed to be another user")
    runtime = Path(f"/tmp/banger-runtime-{UID}")
    assert not os.path.lexists(runtime)
    yield runtime
    if runtime.is_symlink():
        runtime.unlink()
    else:
        subprocess.run(["rm", "-rf", str(runtime)], check=True)


def as_throwaway(home: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run the CLI as that user."""
    os.chown(home, UID, UID)
    become = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
    command = [*become, python_for(become), "-P", "-m", "banger", *arguments]
    return subprocess.run(command, env=environment() | {"HOME": str(home)}, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, timeout=30)


def python_for(become: list[str]) -> str:
    """An interpreter that this user may run; ours may lie in root's home."""
    for place in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        probe = [*become, place, "-c", "import banger, msgspec, lz4.block, os; assert os.access(os.sys.executable, os.X_OK)"]
        if subprocess.run(probe, env=environment(), capture_output=True, cwd="/").returncode == 0:
            return place
    pytest.skip("no python3 of this version that an ordinary user may run (Debian's package python3)")


@pytest.mark.parametrize("what", ["another's folder", "a link to a folder of ours", "a file", "open to others"])
def test_a_runtime_folder_that_others_could_have_put_there_is_refused(short_path: Path, throwaway: Path, what: str) -> None:
    mine = short_path / "mine"
    mine.mkdir()
    os.chown(mine, UID, UID)
    if what == "another's folder":
        throwaway.mkdir()
    elif what == "a file":
        throwaway.touch()
        os.chown(throwaway, UID, UID)
    elif what == "open to others":
        throwaway.mkdir()
        os.chown(throwaway, UID, UID)
        throwaway.chmod(0o777)
    else:
        throwaway.symlink_to(mine)
    done = as_throwaway(short_path, "vm", "list")
    said = done.stderr.decode()
    assert done.returncode == BROKEN
    assert str(throwaway) in said
    assert "hint: " in said
    assert list(mine.iterdir()) == []
    assert throwaway.is_symlink() or throwaway.is_file() or list(throwaway.iterdir()) == []


def test_without_a_runtime_folder_one_is_made_for_this_user_alone(short_path: Path, throwaway: Path) -> None:
    try:
        assert as_throwaway(short_path, "vm", "list").returncode == 0
        assert throwaway.stat().st_mode & 0o777 == 0o700
        assert (throwaway / "bangerd.sock").stat().st_mode & 0o777 == 0o600
    finally:
        pid = json.loads(as_throwaway(short_path, "daemon", "status", "--json").stdout)["pid"]
        assert as_throwaway(short_path, "daemon", "stop").returncode == 0
        until(lambda: not alive(pid), "the daemon's end")
