"""What cannot be meant is refused at once, with the reason and the next step, and leaves nothing behind."""

from __future__ import annotations

import hashlib
import json
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.vm.test_build_images import environment
from tests.world import KERNEL, SHELF, SLIM, World, alive, until

BAD_REQUEST, NOT_FOUND, CONFLICT, HOST_LACKS, GUEST_FAILED, BROKEN = 120, 121, 122, 123, 124, 125
QUICKLY = 10.0
NAMES = (
    *("", "-", "-a", "a-", "Otter", "a" * 64, "a.b", "a_b", "a/b", "../a", "a b", "ötter", "a\n", "\u0430bc", "a\x1b[31m", "--", "*", "$(id)"),
    *(".", "..", "%2e"),
)


def refused(world: World, *arguments: str, status: int = BAD_REQUEST, says: str = "", hints: str = "", data: bytes = b"") -> str:
    """The command fails with that exit status and in those words, in no time, says one error and shows no traceback; its stderr."""
    done = world.banger(*arguments, data=data, timeout=QUICKLY)
    said = done.stderr.decode()
    assert done.returncode == status, f"{arguments}: {done.returncode}\n{said}"
    assert says in said
    assert hints in said.partition("hint: ")[2]
    assert "Traceback" not in said
    assert [line for line in said.splitlines() if line.startswith("error: ")]
    assert not done.stdout
    return said


@pytest.fixture(autouse=True)
def _nothing_new(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests with the shared machine leave it as the only one."""
    shared = request.getfixturevalue("shared") if "shared" in request.fixturenames else None
    yield
    if shared is not None:
        row = shared.row("otter")
        assert (len(shared.rows()), row["state"]) == (1, "running")
        assert {path.split("/")[3] for path in shared.machine_files() if path.count("/") > 2} == {row["id"]}


# --- names and sizes


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_no_dns_label_is_refused(shared: World, name: str) -> None:
    said = refused(shared, "vm", "create", f"--name={name}", says="is not a machine name", hints="1 to 63")
    assert "\x1b" not in said


@pytest.mark.parametrize("name", ["a", "0", "a" * 63, "a-1", "1-a"])
def test_every_dns_label_is_a_name(world: World, name: str) -> None:
    assert world.ok("vm", "create", "--name", name, "--no-start") == f"{name}\n"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--vcpu", "0"), "0 virtual CPUs"),
        (("--vcpu=-1",), "-1 virtual CPUs"),
        (("--vcpu", "65"), "65 virtual CPUs"),
        (("--vcpu", "9" * 30), "--vcpu"),
        (("--image", "\udcff"), "not UTF-8"),
        (("--vcpu", "1.5"), "--vcpu"),
        (("--vcpu", "many"), "--vcpu"),
        (("--memory", "0"), "memory"),
        (("--memory=-1G",), "-1G"),
        (("--memory", "1M"), "1 MiB of memory"),
        (("--memory", "1023T"), "memory"),
        (("--memory", "lots"), "lots"),
        (("--memory", "1e400"), "1e400"),
        (("--memory", "nan"), "nan"),
        (("--disk-size", "0"), "0"),
        (("--disk-size=-8G",), "-8G"),
        (("--disk-size", "1"), "a disk of 1B"),
        (("--disk-size", "17T"), "a disk of 17T"),
        (("--disk-size", "9999999T"), "9999999T"),
        (("--disk-size", "67108865"), "67108865 bytes"),
        (("--disk-size", "8X"), "8X"),
        (("--disk-size", ""), ""),
        (("--wait", "forever"), "forever"),
        (("--network", "bridged"), "bridged"),
        (("--vmm", "xen"), "xen"),
        (("--vm", "x"), "--vm"),
        (("--nmae", "x"), "--nmae"),
        (("otter",), "otter"),
        (("--rm",), "--rm"),
        (("--image", "../etc"), "../etc"),
        (("--image", "a/b"), "a/b"),
        (("--image", "\x1b[2J"), "image"),
    ],
    ids=lambda value: " ".join(value).replace("\x1b", "ESC")[:30] if isinstance(value, tuple) else "",
)
def test_sizes_choices_and_flags_that_cannot_be_meant_are_refused(shared: World, flags: tuple[str, ...], says: str) -> None:
    said = refused(shared, "vm", "create", "--name", "wren", *flags, says=says)
    assert "hint: " in said
    assert "\x1b" not in said


def test_a_flag_that_nearly_fits_is_suggested(shared: World) -> None:
    refused(shared, "vm", "create", "--nmae", "x", hints="--name")
    refused(shared, "vm", "crate", hints="create")
    refused(shared, "vm", "create", "--network", "usr", hints="user")


# --- what is not there


def test_an_unknown_image_is_an_error_that_names_both_places_and_close_matches(shared: World) -> None:
    said = refused(shared, "vm", "create", "--image", "debian-bokworm", status=NOT_FOUND, says="'debian-bokworm'", hints="debian-bookworm")
    assert str(SHELF / "images") in said
    assert "catalog" in said
    assert "stage: image" in said
    refused(shared, "image", "pull", "debian-bokworm", status=NOT_FOUND, hints="debian-bookworm")
    refused(shared, "kernel", "pull", "debian-6.2", status=NOT_FOUND, hints=KERNEL)


def test_what_is_in_use_is_not_removed(shared: World) -> None:
    refused(shared, "image", "delete", SLIM, status=CONFLICT, says="otter")
    refused(shared, "kernel", "delete", KERNEL, status=CONFLICT, says="otter")
    refused(shared, "image", "pull", "--force", SLIM, status=CONFLICT, says="otter")


@pytest.mark.parametrize("reference", ["oter", "000000000000", "../../x", "a b", "ö", "%2e%2e", "?x=1"])
def test_a_machine_that_is_not_there_is_not_found(shared: World, reference: str) -> None:
    for command in (("show",), ("start",), ("stop",), ("restart",), ("kill",), ("delete",), ("logs",), ("exec",), ("dial",)):
        rest = {"exec": ("true",), "dial": ("22",)}.get(command[0], ())
        refused(shared, "vm", *command, reference, *rest, status=NOT_FOUND, says="there is no machine")


def test_a_running_machines_name_is_taken_and_its_id_stays_its_own(shared: World) -> None:
    refused(shared, "vm", "create", "--name", "otter", status=CONFLICT, says="there is a machine otter already", hints="banger vm delete otter")
    refused(shared, "vm", "run", "--rm", "--name", "otter", "--", "true", status=CONFLICT, says="there is a machine otter already")
    refused(shared, "vm", "create", "--name", "otter", "--no-start", status=CONFLICT)


def test_the_id_of_a_deleted_machine_never_means_a_later_one(world: World) -> None:
    world.ok("vm", "create", "--name", "otter", "--no-start")
    identity = str(world.row("otter")["id"])
    world.ok("vm", "delete", identity)
    world.ok("vm", "create", "--name", "otter", "--no-start")
    for command in ("show", "start", "delete", "logs"):
        refused(world, "vm", command, identity, status=NOT_FOUND, says=identity)
    assert world.row("otter")["id"] != identity


# --- commands in a guest


def test_bytes_pass_both_ways_as_they_are(shared: World) -> None:
    sent = random.Random(2).randbytes(3_000_017) + bytes(range(256)) + b"\xff\xfe\x00\xc3\x28"
    done = shared.banger("vm", "exec", "-i", "otter", "--", "cat", data=sent)
    assert (done.returncode, len(done.stdout), hashlib.sha256(done.stdout).digest()) == (0, len(sent), hashlib.sha256(sent).digest())
    both = shared.banger("vm", "exec", "otter", "--", "sh", "-c", r"printf '\377\000\033[2J'; printf '\376\000' >&2")
    assert (both.stdout, both.stderr) == (b"\xff\x00\x1b[2J", b"\xfe\x00")


def test_what_a_guest_prints_on_its_console_is_made_harmless(shared: World) -> None:
    shared.ok("vm", "exec", "otter", "--", "sh", "-c", r"printf 'begin \033]0;owned\007\033[2J\233\377\376\000\302\205\302\233 end\n' > /dev/console")
    until(lambda: " end\n" in shared.ok("vm", "logs", "otter"), "the console's line")
    done = shared.banger("vm", "logs", "otter")
    text = done.stdout.decode("utf-8")
    assert "begin " in text
    assert {sign for sign in text if not sign.isprintable()} <= {"\n", "\t"}


@pytest.mark.parametrize(
    ("flags", "argv", "status", "says"),
    [
        ((), ("no-such-command",), NOT_FOUND, "no-such-command"),
        ((), ("/no/such/command",), NOT_FOUND, "/no/such/command"),
        ((), ("/etc/passwd",), GUEST_FAILED, "not executable"),
        ((), ("/etc",), GUEST_FAILED, "/etc"),
        ((), ("",), BAD_REQUEST, "empty"),
        ((), ("echo", "\udcff"), BAD_REQUEST, "not UTF-8"),
        (("-u", "nobody-here"), ("true",), NOT_FOUND, "nobody-here"),
        (("-u", "0:nogroup-here"), ("true",), NOT_FOUND, "nogroup-here"),
        (("-u", "99999999999"), ("true",), NOT_FOUND, "99999999999"),
        (("-w", "/no/such/folder"), ("true",), NOT_FOUND, "/no/such/folder"),
        (("-w", "/etc/passwd"), ("true",), NOT_FOUND, "/etc/passwd"),
        (("-e", "A"), ("true",), BAD_REQUEST, "KEY=VALUE"),
        (("-e", "=b"), ("true",), BAD_REQUEST, "KEY=VALUE"),
        (("-e", ""), ("true",), BAD_REQUEST, "KEY=VALUE"),
        ((), (), BAD_REQUEST, "needs a command"),
        (("-t",), ("true",), BAD_REQUEST, "terminal"),
    ],
)
def test_a_command_that_cannot_run_is_an_error_of_its_kind(
    shared: World, flags: tuple[str, ...], argv: tuple[str, ...], status: int, says: str
) -> None:
    refused(shared, "vm", "exec", *flags, "otter", "--", *argv, status=status, says=says)


def test_a_request_that_does_not_fit_is_refused_and_the_machine_answers_on(shared: World) -> None:
    refused(shared, "vm", "exec", "otter", "--", "true", "x" * 70_000, says="the request does not fit")
    assert shared.ok("vm", "exec", "otter", "--", "echo", "x" * 60_000).strip() == "x" * 60_000


def test_the_environment_may_hold_anything_but_a_nul(shared: World) -> None:
    given = ("A=", "B=b=c", "C= d ", "D=ö", "E=a\nb", "F=-e", "A=second")
    flags = [word for pair in given for word in ("-e", pair)]
    lines = shared.ok("vm", "exec", *flags, "otter", "--", "env", "-0").split("\0")
    assert {"A=second", "B=b=c", "C= d ", "D=ö", "E=a\nb", "F=-e"} <= set(lines)
    assert "A=" not in lines


@pytest.mark.parametrize("name", ["NOPE", "", "0", "99", "KILL TERM", "sigstop!"])
def test_a_signal_that_there_is_not_is_refused(shared: World, name: str) -> None:
    refused(shared, "vm", "kill", f"--signal={name}", "otter", hints="KILL")


@pytest.mark.parametrize("port", ["0", "-1", "65536", "http", ""])
def test_a_port_that_there_is_not_is_refused(shared: World, port: str) -> None:
    refused(shared, "vm", "dial", "--", "otter", port)


def test_dialling_where_nobody_listens_is_refused_by_the_guest(shared: World) -> None:
    refused(shared, "vm", "dial", "otter", "9", status=GUEST_FAILED, says="refused")


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


def test_a_request_that_cannot_be_is_refused_before_anything_is_built(short_path: Path, empty_shelves: dict[str, str]) -> None:
    world = World(short_path, **empty_shelves)
    try:
        refused(world, "vm", "create", "--disk-size", "1")
        refused(world, "vm", "create", "--vmm", "firecracker")
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
        assert as_throwaway(short_path, "daemon", "stop").returncode == 0
        until(lambda: not (throwaway / "bangerd.sock").exists(), "the daemon's end")
