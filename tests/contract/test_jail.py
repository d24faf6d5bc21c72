"""Jails for real: what is put there, across file systems too; who owns it; and that emptying one touches nothing else. And the real jailer, with a
program that only tells what it sees in Firecracker's place: what is inside is what banger thinks it is.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from banger.backends.jailing import NO_NETWORK, argv
from banger.host.jail import RealJails, Thing, mounts_below
from banger.host.proc import RealProc
from banger.host.stream import RealDialer
from banger.model.errors import GuestFailed, HostLacks
from tests.lab import payload
from tests.vm.test_space import Small, place
from tests.world import until

__all__ = ["place"]
UID = 1879048292
LOOK = """package main
import ("fmt"; "net"; "os"; "os/signal"; "syscall")
func main() {
	fmt.Println(os.Args[1:3], os.Args[len(os.Args)-1], os.Getuid(), os.Getgid(), len(os.Environ()))
	for _, folder := range []string{"/", "/dev"} {
		found, _ := os.ReadDir(folder)
		for _, each := range found { fmt.Println(folder, each.Name()) }
	}
	base, _ := os.ReadFile("/lower")
	_, denied := os.OpenFile("/lower", os.O_WRONLY, 0)
	err := os.WriteFile("/upper", []byte("written inside"), 0)
	fmt.Println(string(base), denied != nil, err)
	net.Listen("unix", "api.sock")
	fmt.Println("done")
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	<-told
}
"""


@pytest.fixture
def sources(place: Path) -> Path:
    """Two files on the same file system as the jail."""
    (place / "base").write_text("the base")
    (place / "base").chmod(0o600)
    (place / "own").write_text("the own")
    return place


def things(folder: Path) -> list[Thing]:
    return [Thing(name="lower", source=str(folder / "base"), read_only=True), Thing(name="upper", source=str(folder / "own"), read_only=False)]


def test_on_one_file_system_they_are_the_same_files(sources: Path) -> None:
    root = sources / "run" / "jail" / "x" / "root"
    RealJails().furnish(root, things(sources), UID)
    assert (root / "lower").samefile(sources / "base")
    assert ((root / "lower").stat().st_uid, stat.S_IMODE((root / "lower").stat().st_mode)) == (0, 0o644)
    assert ((root / "upper").stat().st_uid, stat.S_IMODE(root.stat().st_mode)) == (UID, 0o700)
    assert RealJails().owner(root) == UID
    RealJails().give_back(sources / "own")
    RealJails().empty(sources / "run")
    assert (sources / "own").stat().st_uid == 0
    assert (sources / "base").read_text() == "the base"
    assert not (sources / "run").exists()


def test_a_pipe_has_two_names_and_the_jails_user_writes_to_it(sources: Path) -> None:
    root, pipe = sources / "run" / "jail" / "x" / "root", sources / "pipe"
    os.mkfifo(pipe, 0o600)
    RealJails().furnish(root, [Thing(name="metrics", source=str(pipe), read_only=False)], UID)
    assert (root / "metrics").samefile(pipe)
    assert (pipe.stat().st_uid, stat.S_IMODE(pipe.stat().st_mode)) == (UID, 0o600)
    RealJails().empty(sources / "run")
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_from_another_file_system_they_are_mounted_and_unmounted(sources: Path) -> None:
    Small(sources / "else", 1)
    for name in ("base", "own"):
        (sources / "else" / name).write_text(f"the {name}")
    root = sources / "run" / "jail" / "root"
    RealJails().furnish(root, things(sources / "else"), UID)
    assert (root / "lower").read_text() == "the base"
    with pytest.raises(OSError, match="Read-only"):
        (root / "lower").open("w")
    (root / "upper").write_text("new")
    assert (sources / "else" / "own").read_text() == "new"
    RealJails().empty(sources / "run")
    RealJails().empty(sources / "run")
    assert not (sources / "run").exists()
    assert mounts_below(Path("/proc/self/mountinfo").read_text(), sources / "run") == []
    assert (sources / "else" / "base").read_text() == "the base"


def test_a_file_that_is_only_lent_keeps_its_mode_and_its_links_and_cannot_be_written(sources: Path) -> None:
    root = sources / "run" / "jail" / "root"
    lent = Thing(name="lower", source=str(sources / "base"), read_only=True, lent=True)
    with pytest.raises(HostLacks, match="not readable") as caught:
        RealJails().furnish(root, [lent], UID)
    assert "promote" in caught.value.hint
    RealJails().empty(sources / "run")
    (sources / "base").chmod(0o666)
    RealJails().furnish(root, [lent], UID)
    assert (root / "lower").read_text() == "the base"
    with pytest.raises(OSError, match="Read-only"):
        (root / "lower").open("w")
    found = (sources / "base").stat()
    assert (found.st_nlink, stat.S_IMODE(found.st_mode), found.st_uid) == (1, 0o666, 0)
    RealJails().empty(sources / "run")
    assert (sources / "base").read_text() == "the base"


def test_emptying_follows_no_link_and_takes_nothing_from_a_mounted_folder(sources: Path) -> None:
    root = sources / "run" / "jail"
    root.mkdir(parents=True)
    (root / "away").symlink_to(sources)
    Small(sources / "else", 1)
    (sources / "else" / "precious").touch()
    (root / "mounted").mkdir()
    subprocess.run(["mount", "--bind", sources / "else", root / "mounted"], check=True)
    RealJails().empty(sources / "run")
    assert (sources / "else" / "precious").exists()
    assert (sources / "base").exists()


def test_a_block_device_becomes_a_node_of_the_users(sources: Path) -> None:
    device = next((path for path in sorted(Path("/dev").glob("loop[0-9]*")) if path.is_block_device()), None)
    if device is None:
        pytest.skip("there is no loop device")
    root = sources / "run" / "root"
    RealJails().furnish(root, [Thing(name="root", source=str(device), read_only=False)], UID)
    found = (root / "root").stat()
    assert (found.st_rdev, found.st_uid, stat.S_IMODE(found.st_mode)) == (device.stat().st_rdev, UID, 0o600)
    assert device.stat().st_uid == 0
    RealJails().give_back(device)


@pytest.mark.parametrize("source", ["missing", "folder", "fifo"])
def test_what_is_neither_file_nor_device_is_refused(sources: Path, source: str) -> None:
    (sources / "folder").mkdir()
    os.mkfifo(sources / "fifo")
    with pytest.raises(HostLacks):
        RealJails().furnish(sources / "run" / "root", [Thing(name="x", source=str(sources / source), read_only=True)], UID)


def test_where_devices_or_programs_cannot_be_there_can_be_no_jail(place: Path) -> None:
    assert RealJails().lack(place / "not" / "yet", 1879048192, 2147483645) == ""
    for option in ("nodev", "noexec"):
        folder = place / option
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size=1m,{option}", "banger-test", folder], check=True)
        assert RealJails().lack(folder, 1879048192, 2147483645) == f"the file system of {folder} is mounted {option}"
    assert "do not exist in this user namespace" in RealJails().lack(place, 1879048192, (1 << 32) - 1)


async def test_a_link_in_a_sockets_place_is_not_followed(place: Path) -> None:
    Path(place / "link").symlink_to("/run/somewhere.sock")
    with pytest.raises(GuestFailed, match="cannot reach"):
        await RealDialer().unix(place / "link")


def published(name: str) -> Path:
    """One of Firecracker's binaries, from where the lab machine has them; whoever uses the lab right now is not waited for if they are there."""
    place = payload.PLACE / f"binaries-{payload.digest(words=payload.BINARIES.values())}"
    if not (place / ".whole").exists():
        with payload.alone():
            place = payload.binaries()
    return place / name


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real jailer, and what it starts."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "look.go").write_text(LOOK)
    environment = {**os.environ, "CGO_ENABLED": "0", "GOPROXY": "off", "GOTOOLCHAIN": "local"}
    go = Path(sys.executable).with_name("go")
    subprocess.run([go, "build", "-o", folder / "firecracker", folder / "look.go"], env=environment, check=True)
    (folder / "jailer").write_bytes(published("jailer").read_bytes())
    (folder / "jailer").chmod(0o755)
    return folder


@pytest.fixture
def proc() -> RealProc:
    return RealProc(os.environ.get("PATH", ""))


async def test_the_real_jailer_confines_what_it_starts_and_it_is_found_again(sources: Path, commands: Path, proc: RealProc) -> None:
    base, jails = sources / "run", RealJails()
    root = base / "firecracker" / "banger-0123456789ab" / "root"
    jails.furnish(root, things(sources), UID)
    words = [str(commands / "firecracker"), "--id", "banger-0123456789ab", "--config-file", "machine.json"]
    command = argv(words, jailer=str(commands / "jailer"), uid=UID, base=base)
    process = await proc.spawn(command, cwd=base, output=sources / "said")
    said = b""

    def done() -> bool:
        nonlocal said
        said += proc.said(sources / "said")
        return b"done" in said

    try:
        until(done, "what it says")
        first, *lines = said.decode().splitlines()
        assert first == f"[--id banger-0123456789ab] machine.json {UID} {UID} 0"
        seen = {line.split()[1] for line in lines if line.startswith("/ ")}
        assert {"dev", "lower", "upper", "firecracker"} <= seen <= {"dev", "lower", "upper", "firecracker", "firecracker.pid", "run"}
        assert {"kvm", "net"} <= {line.split()[1] for line in lines if line.startswith("/dev ")}
        assert "the base true <nil>" in lines
        assert (sources / "own").read_text() == "written inside"
        mark = ("banger-0123456789ab", "machine.json")
        assert proc.find(mark) is None
        assert proc.find(mark, UID) == process
        stream = await RealDialer().unix(root / "api.sock")
        stream.close()
    finally:
        os.kill(process.pid, 9)
        await proc.gone(process)
    jails.empty(base)
    jails.give_back(sources / "own")
    assert not base.exists()


@pytest.mark.parametrize("network", ["the host's", "another's", "none"])
async def test_the_network_it_has_is_the_one_that_was_asked_for(sources: Path, commands: Path, proc: RealProc, network: str) -> None:
    base = sources / "run"
    root = base / "firecracker" / "banger-0123456789ab" / "root"
    RealJails().furnish(root, things(sources), UID)
    words = [str(commands / "firecracker"), "--id", "banger-0123456789ab", "--config-file", "machine.json"]
    with subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE) as other:  # noqa: ASYNC220 (it is at once there)
        until(lambda: os.readlink(f"/proc/{other.pid}/ns/net") != os.readlink("/proc/self/ns/net"), "its namespace")
        netns = {"the host's": "", "another's": f"/proc/{other.pid}/ns/net", "none": NO_NETWORK}[network]
        command = argv(words, jailer=str(commands / "jailer"), uid=UID, base=base, netns=netns)
        process = await proc.spawn(command, cwd=base, output=sources / "said")
        try:
            until((root / "api.sock").exists, "its socket")
            spaces = [os.readlink(f"/proc/{pid}/ns/net") for pid in ("self", other.pid, process.pid)]
            assert spaces.index(spaces[2]) == {"the host's": 0, "another's": 1, "none": 2}[network]
        finally:
            os.kill(process.pid, 9)
            await proc.gone(process)
            other.communicate()
    RealJails().empty(base)
