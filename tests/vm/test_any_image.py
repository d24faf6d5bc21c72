"""Images of all kinds boot: one program and nothing else, busybox, busybox as init, one that insists on being process 1, Debian with an entrypoint.

One machine an image; what can be seen in it is looked at by several tests.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from banger.model.catalog import ImageConfig
from tests.vm.shelved import BUSYBOX, compile_app, copy_shelved, shelve
from tests.vm.test_terminal import Window
from tests.world import GOLDEN, World

QUICK = ("--network", "none", "--memory", "192M")
PASSWD = b"root:x:0:0:root:/root:/bin/sh\nada:x:1000:1000:Ada:/home/ada:/bin/sh\nweb:x:33:33:web:/srv:/usr/sbin/nologin\n"
GROUP = b"root:x:0:\nada:x:1000:\nweb:x:33:\nstaff:x:50:ada\nbroken\naudio:x:63:web,ada\n"
INITTAB = b"::sysinit:/etc/init.d/rcS\n::shutdown:/bin/echo shut down in order\n"
#: What process 1 is as long as nothing takes its place.
AGENT = "/init (deleted)\n"
ENTRY = "trap 'echo stopped; exit 9' INT; echo entry $0 $1; whoami; tty; pwd; cat /proc/1/comm; sleep 60 & wait"


@pytest.fixture(scope="module")
def zoo(shelf: None) -> Iterator[World]:
    """A world with images of all kinds."""
    folder = Path(tempfile.mkdtemp(prefix="banger-test-", dir="/tmp"))
    images = folder / "images"
    app = compile_app(folder)
    world = World(folder, images_dir=str(images))
    path = {"PATH": "/bin:/sbin"}
    shelve(
        images,
        "one",
        {"app": app},
        config=ImageConfig(entrypoint=("/app",), cmd=("report", "now"), env={"GREETING": "a=b c"}, workdir="/srv/deep", user="65532:7"),
    )
    shelve(images, "nothing", {"app": app}, config=ImageConfig())
    shelve(images, "foreign", {"app": app}, config=ImageConfig(entrypoint=("/app",)), architecture="aarch64")
    shelve(
        images,
        "odd",
        {
            **{
                "bin/busybox": BUSYBOX,
                "bin/sh": "busybox",
                "run": "/var/run",
                "var/run": None,
                "dev": b"a file",
                "tmp": "nowhere",
                "sys": "/proc",
                "proc": "/etc",
            },
            **{"etc/passwd": PASSWD, "etc/group": GROUP, "etc/hosts": None, "etc/resolv.conf": "../run/systemd/resolve/stub-resolv.conf"},
            **{"etc/hostname": "/proc/nothing", "etc/environment": "/dev/zero", "home/ada": None, "sbin/init": "/bin/busybox"},
        },
        config=ImageConfig(cmd=("/bin/sh",), env=path, user="ada"),
    )
    shelve(
        images,
        "alpine",
        {
            **{"bin/busybox": BUSYBOX, "bin/sh": "busybox", "sbin/init": "/bin/busybox", "root": None, "etc/inittab": INITTAB},
            **{"bin/echo": "busybox", "etc/init.d/rcS": b"#!/bin/sh\necho $$ > /tmp/began\n", "etc/passwd": PASSWD},
        },
        config=ImageConfig(cmd=("/bin/sh",), env=path),
    )
    shelve(images, "own", {"init": app}, config=ImageConfig(entrypoint=("/init",), cmd=("--all",), env={"GREETING": "hello"}))
    shelve(images, "hollow", {"app": app}, config=ImageConfig(cmd=("/sbin/init",)))
    entry = ("/bin/sh", "-c", ENTRY, "given")
    copy_shelved(images, GOLDEN, "database", init="systemd", config=ImageConfig(entrypoint=entry, cmd=("x",), user="nobody-there", workdir="/var/lib"))
    before = digests(images)
    yield world
    world.close()
    assert digests(images) == before, "something was written into an image"
    shutil.rmtree(folder)


def digests(images: Path) -> dict[str, str]:
    """What is in the files of the images, but for those that belong to all tests."""
    files = [path for path in images.rglob("rootfs.ext4") if not path.is_symlink()]
    return {path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def one(zoo: World) -> dict[str, str]:
    """What the program that is an image told when its machine `one`, which goes on running, was made."""
    return found(zoo.ok("vm", "run", "--name", "one", "--image", "one", *QUICK))


@contextmanager
def kept(zoo: World, *words: str, data: bytes = b"") -> Iterator[str]:
    """A machine, made by these words, for the length of a test; what was printed."""
    yield zoo.ok("vm", *words, data=data)
    zoo.ok("vm", "delete", words[words.index("--name") + 1])


def found(text: str) -> dict[str, str]:
    """What the app told."""
    return {name: json.loads(value) for name, _, value in (line.partition("=") for line in text.splitlines())}


def test_one_program_is_an_image_and_runs_as_its_image_says(one: dict[str, str]) -> None:
    assert (one["args"], one["GREETING"], one["terminal"]) == ("/app report now", "a=b c", "false")
    assert (one["cwd"], one["ids"], one["HOME"]) == ("/srv/deep", "65532 7", "/")


def test_a_root_without_a_single_folder_gets_those_that_every_machine_has(one: dict[str, str]) -> None:
    assert {path: mode for path, mode in one.items() if path.startswith("/")} == {
        "/proc/self": "dr-xr-xr-x",
        "/dev/null": "Dcrw-rw-rw-",
        "/dev/pts/ptmx": "Dcrw-rw-rw-",
        "/dev/fd": "dr-x------",
        "/dev/shm": "dtrwxrwxrwx",
        "/sys/class": "drwxr-xr-x",
        "/sys/fs/cgroup/cgroup.procs": "-rw-r--r--",
        "/run": "drwxr-xr-x",
        "/tmp": "dtrwxrwxrwx",
    }


def test_what_is_asked_for_wins_over_the_image(zoo: World, one: dict[str, str]) -> None:
    flags = ("-u", "0:33", "-w", "/dev", "-e", "GREETING=mine")
    told = found(zoo.ok("vm", "exec", *flags, "one", "--", "/app", "report", "mine"))
    assert (told["args"], told["GREETING"], told["cwd"], told["ids"]) == ("/app report mine", "mine", "/dev", "0 33")
    assert found(zoo.ok("vm", "exec", "--entrypoint", "one", "--", "report", "mine"))["args"] == "/app report mine"
    assert found(zoo.ok("vm", "exec", "--entrypoint", "one"))["args"] == "/app report now"


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (("shell", "one"), 127, "the image has no shell"),
        (("exec", "one", "--", "sh", "-c", "true"), 127, 'command "sh" is not found: the image has no shell'),
        (("exec", "-u", "ada", "one", "--", "/app"), 121, 'user "ada" is not in /etc/passwd'),
        (("exec", "-u", "0:staff", "one", "--", "/app"), 121, 'group "staff" is not in /etc/group'),
        (("exec", "-w", "/nowhere", "one", "--", "/app"), 121, 'folder "/nowhere" does not exist'),
    ],
)
def test_what_an_image_has_not_is_told(zoo: World, one: dict[str, str], words: tuple[str, ...], status: int, says: str) -> None:
    done = zoo.banger("vm", *words)
    assert (done.returncode, done.stdout) == (status, b"")
    assert says in done.stderr.decode()
    assert ("banger vm exec one -- PROGRAM" in done.stderr.decode()) == ("no shell" in says)


def test_an_image_without_shell_entrypoint_and_cmd_says_so_and_its_throwaway_machine_goes(zoo: World) -> None:
    before = zoo.ok("vm", "list", "-q")
    done = zoo.banger("vm", "run", "--rm", "--image", "nothing", *QUICK)
    assert (done.returncode, done.stdout) == (127, b"")
    assert "the image has no shell" in done.stderr.decode()
    assert zoo.ok("vm", "list", "-q") == before


def test_an_image_for_another_kind_of_processor_is_refused(zoo: World) -> None:
    done = zoo.banger("vm", "run", "--image", "foreign", *QUICK)
    assert done.returncode == 123
    assert "image foreign is for aarch64, and this host is x86_64" in done.stderr.decode()


def test_an_odd_root_is_put_right_and_its_users_are_found(zoo: World) -> None:
    script = b"whoami; id; pwd; ls -ld /dev /proc /run /run/ /sys /tmp; ls -d /sys/class; cat /etc/hosts /etc/hostname; echo $0\n"
    with kept(zoo, "run", "--name", "odd", "--image", "odd", *QUICK[2:], data=script) as printed:
        lines = printed.splitlines()
        assert lines[:3] == ["ada", "uid=1000(ada) gid=1000(ada) groups=50(staff),63(audio)", "/"]
        assert [line[0] for line in lines[3:9]] == ["d", "d", "l", "d", "d", "d"]
        assert (lines[8][:10], lines[9]) == ("drwxrwxrwt", "/sys/class")
        assert lines[10:] == ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback", "127.0.1.1 odd # banger", "odd", "/bin/sh"]
        assert "nameserver" in zoo.ok("vm", "exec", "odd", "--", "/bin/busybox", "cat", "/etc/resolv.conf")
        assert zoo.ok("vm", "exec", "odd", "--", "busybox", "pwd") == "/home/ada\n"
        assert zoo.ok("vm", "exec", "-u", "web", "odd", "--", "/bin/busybox", "id", "-G") == "33 63\n"
        assert zoo.ok("vm", "shell", "-u", "web", "odd", data=b"id -un; echo $0\n") == "web\n-sh\n"
        assert zoo.ok("vm", "exec", "-u", "ada:audio", "odd", "--", "busybox", "id", "-G") == "63\n"
        assert zoo.ok("vm", "exec", "-u", "root", "odd", "--", "busybox", "readlink", "/proc/1/exe") == AGENT


def test_busybox_with_scripts_is_process_1_and_ends_the_machine(zoo: World) -> None:
    with kept(zoo, "create", "--name", "alpine", "--image", "alpine", "--wait", "boot", *QUICK):
        zoo.ok("vm", "exec", "alpine", "--", "sh", "-c", "busybox cat /tmp/began > /root/kept; busybox sync")
        assert zoo.ok("vm", "exec", "alpine", "--", "busybox", "readlink", "/proc/1/exe") == "/bin/busybox\n"
        zoo.ok("vm", "stop", "alpine")
        assert "shut down in order" in zoo.ok("vm", "logs", "alpine")
        zoo.ok("vm", "start", "alpine")
        assert zoo.ok("vm", "exec", "alpine", "--", "busybox", "cat", "/root/kept").strip().isdigit()


def test_an_entrypoint_that_is_an_init_is_process_1_with_the_images_variables(zoo: World) -> None:
    with kept(zoo, "create", "--name", "own", "--image", "own", "--wait", "boot", *QUICK):
        told = zoo.ok("vm", "exec", "own", "--", "/init", "cat", "/proc/1/cmdline", "/proc/1/environ")
        assert r'/proc/1/cmdline="/init\x00--all\x00"' in told
        assert "GREETING=hello" in told
        assert found(zoo.ok("vm", "exec", "own", "--", "/init"))["first"] == "/init"
        done = zoo.banger("vm", "exec", "--entrypoint", "own")
        assert (done.returncode, b"the image has no shell" in done.stderr) == (127, True)


def test_where_the_init_that_an_image_names_is_missing_the_agent_stays_and_says_so(zoo: World) -> None:
    with kept(zoo, "create", "--name", "hollow", "--image", "hollow", "--wait", "boot", *QUICK):
        assert 'init does not start, the agent stays: command "/sbin/init" is not found' in zoo.ok("vm", "logs", "hollow")
        assert found(zoo.ok("vm", "exec", "hollow", "--", "/app"))["first"] == AGENT.strip()


def test_an_entrypoint_keeps_the_agent_process_1_and_ctrl_c_on_its_terminal_is_its_own(zoo: World) -> None:
    window = Window(zoo, "vm", "run", "--rm", "--image", "database", "--user", "games", *QUICK)
    try:
        window.read(rb"entry given x\r\n")
        assert window.read(rb"\ninit\r\n").split(b"\r\n")[:3] == [b"games", b"/dev/pts/0", b"/var/lib"]
        window.type(b"\x03")
        window.read(rb"stopped")
        assert window.ended() == 9
    finally:
        window.close()
