"""Images are built by machines: every kind of step, what is kept of earlier builds, what goes wrong; and a stopped machine becomes an image."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger.model.catalog import ImageConfig
from tests.internet import FAR, WEB, Internet, missing
from tests.vm.shelved import BUSYBOX, Node, shelve
from tests.world import World, until

APPLETS = (
    "sh",
    "cat",
    "ls",
    "id",
    "env",
    "pwd",
    "stat",
    "readlink",
    "mkdir",
    "rm",
    "touch",
    "ln",
    "mkfifo",
    "sleep",
    "sync",
    "true",
    "nc",
    "seq",
    "kill",
)
PASSWD = b"root:x:0:0:root:/root:/bin/sh\nada:x:1000:1001:Ada:/home/ada:/bin/sh\n"
SECONDS = 240.0
DOCKERFILE = r"""
# escape=\
ARG BASE=box
FROM ${BASE} AS only
ARG WORD
ENV GREETING="hello ${WORD:-nobody}" PLACE=/srv
LABEL a=b
EXPOSE 80
WORKDIR $PLACE
COPY --chown=ada --chmod=640 a.txt copied/
COPY src/ ./src
COPY *.txt docs/
COPY a.txt one
COPY <<note.txt <<'raw.txt' /etc/notes/
$GREETING
note.txt
$GREETING
raw.txt
ADD files.tar.gz /unpacked/
RUN echo "$GREETING" > said && \
    # between
    id -u > who
RUN ["/bin/sh", "-c", "echo exec form > form"]
RUN <<END
set -e
pwd > here
echo two >> here
END
RUN cat <<A <<B > both
one
A
two
B
RUN <<'SCRIPT'
#!/bin/busybox cat
not a shell's
SCRIPT
SHELL ["/bin/sh", "-ec"]
COPY odd /odd
RUN sleep 1000 & echo $! > /tmp/left
RUN ! kill -0 $(cat /tmp/left); rm /tmp/left; touch /odd/.wh.etc; mkdir /odd/.wh..wh..opq; seq 3000
RUN mkfifo fifo; ln one twin; ln -s /etc/passwd way; rm /etc/gone; rm -r /opt/old; mkdir -m 1777 sticky; mkdir -m 777 /open; \
    echo busy > /run/busy; echo x > /tmp/kept
USER ada
WORKDIR /home/ada
RUN id -u > /open/ada; touch /open/mine
ENTRYPOINT ["/bin/sh", "-c", "echo entry $GREETING $0 $(id -u) $(pwd)"]
CMD ["given"]
STOPSIGNAL SIGINT
"""


def box() -> dict[str, Node]:
    nodes: dict[str, Node] = {"bin/busybox": BUSYBOX, **{f"bin/{name}": "busybox" for name in APPLETS}}
    return {**nodes, "etc/passwd": PASSWD, "etc/gone": b"x", "opt/old/file": b"x", "tmp": None, "root": None, "home/ada": None}


@pytest.fixture(scope="module")
def forge(shelf: None) -> Iterator[World]:
    """A world with a small image to build from."""
    folder = Path(tempfile.mkdtemp(prefix="banger-test-", dir="/tmp"))
    shelve(folder / "images", "box", box(), config=ImageConfig(env={"PATH": "/bin"}, cmd=("/bin/sh",)))
    world = World(folder, images_dir=str(folder / "images"), network="none", memory_mib="192")
    yield world
    world.close()
    left = [path.name for path in (folder / "images").iterdir() if path.name.startswith(".")]
    shutil.rmtree(folder)
    assert left == []


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A folder to build from."""
    place = tmp_path / "context"
    (place / "src/deep").mkdir(parents=True)
    for name in ("a.txt", "b.txt", "left.txt", "src/deep/x", "src/skip"):
        (place / name).write_text(f"{name.rpartition('/')[2][0]}\n")
    (place / "odd").mkdir()
    (place / "odd/.wh.one").write_text("mine\n")
    os.link(place / "odd/.wh.one", place / "odd/one")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / "odd/socket"))
    (place / ".dockerignore").write_text("left*\nsrc/skip\n")
    (place / "src/deep/x").chmod(0o755)
    (place / "src/way").symlink_to("deep/x")
    with tarfile.open(place / "files.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("in/it")
        member.size, member.uid, member.mode = 3, 7, 0o4711
        archive.addfile(member, io.BytesIO(b"it\n"))
    return place


def build(world: World, context: Path, text: str, *words: str, name: str = "app") -> subprocess.CompletedProcess[bytes]:
    (context / "Dockerfile").write_text(text)
    return world.banger("image", "build", "-t", name, *words, str(context), timeout=SECONDS)


def look(world: World, image: str, script: str) -> list[str]:
    return world.ok("vm", "run", "--rm", "--image", image, "-u", "root", "--", "/bin/sh", "-c", script).splitlines()


@pytest.mark.timeout(600)
def test_every_kind_of_step_does_what_it_says(forge: World, context: Path) -> None:
    done = build(forge, context, DOCKERFILE, "--build-arg", "WORD=you")
    assert (done.returncode, done.stdout) == (0, b"app\n"), done.stderr.decode()
    assert b"not a shell's\n" in done.stderr
    assert [line for line in done.stderr.decode().splitlines() if line.isdecimal()] == [str(number) for number in range(1, 3001)]
    manifest = json.loads(forge.ok("image", "show", "app", "--json"))
    assert (manifest["source"], manifest["init"], manifest["config"]["stop_signal"]) == ("build", "", "SIGINT")
    assert forge.ok("vm", "run", "--rm", "--image", "app") == "entry hello you given 1000 /home/ada\n"
    script = """cd /srv; cat copied/a.txt src/deep/x docs/b.txt one /etc/notes/note.txt /etc/notes/raw.txt /unpacked/in/it said who form here both
        cat /tmp/kept /open/ada; ls docs src; readlink src/way; readlink way
        stat -c '%a %u %g %F' copied/a.txt copied src/deep/x /unpacked/in/it fifo sticky /open/mine; stat -c %h one
        ls -A /odd; cat /odd/one /odd/.wh.one; ls /etc /opt; ls /run/busy /etc/ssh; ls -a / | cat"""
    lines = look(forge, "app", script)
    assert lines[:7] == ["a", "x", "b", "a", "hello you", "$GREETING", "it"]
    assert lines[7:13] == ["hello you", "0", "exec form", "/srv", "two", "two"]
    lines = lines[13:]
    assert lines[:9] == ["x", "1000", "docs:", "a.txt", "b.txt", "", "src:", "deep", "way"]
    assert lines[9:11] == ["deep/x", "/etc/passwd"]
    assert lines[11:19] == [
        *("640 1000 1001 regular file", "755 1000 1001 directory", "755 0 0 regular file", "4711 7 0 regular file"),
        *("644 0 0 fifo", "1777 0 0 directory", "644 1000 1001 regular empty file", "2"),
    ]
    assert lines[19:25] == [".wh..wh..opq", ".wh.etc", ".wh.one", "one", "mine", "mine"]
    assert not {"gone", "old", ".dockerignore", "banger-build-script"} & set(lines[19:])


@pytest.mark.timeout(600)
def test_what_was_done_is_not_done_again_and_a_failure_names_its_line(forge: World, context: Path) -> None:
    text = "FROM box\nRUN echo first > /first; cat /proc/sys/kernel/random/boot_id > /id\nCOPY a.txt /\n"
    bad = build(forge, context, text + "RUN echo out; echo err >&2; exit 7\n", name="steps")
    assert bad.returncode == 125
    said = bad.stderr.decode()
    assert "Dockerfile:4: RUN echo out; echo err >&2; exit 7: ended with status 7" in said
    assert "\nout\n" in said
    assert "\nerr\n" in said
    assert "steps" not in forge.ok("image", "list", "-q")
    good = build(forge, context, text + "RUN cat /id /a.txt > /second\n", name="steps")
    assert good.returncode == 0, good.stderr.decode()
    assert "step 1 of 3, as before: RUN echo first" in good.stderr.decode()
    ids = look(forge, "steps", "cat /id /second")
    assert (ids[0], ids[2]) == (ids[1], "a")
    before = forge.rows()
    assert build(forge, context, text + "RUN cat /id /a.txt > /second\n", name="again").returncode == 0
    assert look(forge, "again", "cat /id")[0] == ids[0]
    assert forge.rows() == before == []
    pruned = json.loads(forge.ok("image", "cache", "prune", "--json"))
    assert pruned["removed"] >= 2
    assert not list((forge.root / "cache").rglob("*.disk"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("FROM box\nCOPY --chown=nobody a.txt /\n", 'Dockerfile:2: unpack in build-.*user "nobody" is not in /etc/passwd'),
        ("FROM box\nUSER eve\nRUN true\n", 'Dockerfile:3: .*user "eve"'),
        ("FROM box\nRUN /bin/none\nRUN true\n", "Dockerfile:2: RUN /bin/none: ended with status 127"),
    ],
)
def test_what_the_image_has_not_is_told_with_its_line(forge: World, context: Path, text: str, says: str) -> None:
    done = build(forge, context, text, name="bad")
    assert done.returncode != 0
    assert re.search(says, done.stderr.decode()), done.stderr.decode()
    assert forge.rows() == []


#: Where a daemon is killed: what is told last, before that.
STAGES = ("read the context", "disk", "step 1 of 2", "read the machine's disk", "make image")


@pytest.mark.timeout(600)
def test_wherever_the_daemon_is_killed_nothing_is_left_and_the_same_build_succeeds(forge: World, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM box\nRUN echo $(pwd) > /where\nCOPY large /\n")
    (context / "large").write_bytes(os.urandom(1 << 20))
    for stage in STAGES:
        building = forge.begin("image", "build", "--no-cache", "-t", "gone", str(context))
        assert building.stderr is not None
        assert any(f"] {stage}".encode() in line for line in building.stderr), stage
        forge.kill_daemon()
        building.communicate(timeout=60)
        assert building.returncode == 125
        assert forge.ok("vm", "list", "-q", timeout=60) == ""
        until(lambda: forge.machine_files() == [], "the end of the builder's files")
        until(lambda: not [line for line in forge.processes().values() if "qemu" in line], "the end of its machine")
        left = [path.name for path in (forge.root / "images").iterdir() if path.name.startswith(".") or path.name == "gone"]
        left += [path.name for path in (forge.root / "cache").rglob("*.new")]
        assert left == [], stage
    assert build(forge, context, (context / "Dockerfile").read_text(), name="gone").returncode == 0
    assert look(forge, "gone", "cat /where") == ["/"]


@pytest.mark.timeout(300)
def test_ctrl_c_and_a_killed_daemon_leave_nothing_of_a_build(forge: World, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM box\nRUN echo begun; sleep 1000\n")
    for kill in (False, True):
        building = forge.begin("image", "build", "-t", "never", str(context))
        assert building.stderr is not None
        for line in building.stderr:
            if b"begun" in line and b"RUN" not in line:
                break
        (row,) = forge.rows()
        assert str(row["name"]).startswith("build-")
        if kill:
            forge.kill_daemon()
        else:
            os.kill(building.pid, signal.SIGINT)
        building.communicate(timeout=60)
        assert building.returncode == (125 if kill else 130)
        assert forge.ok("vm", "list", "-q", timeout=60) == ""
        until(lambda: forge.machine_files() == [], "the end of the builder's files")
        assert "never" not in forge.ok("image", "list", "-q").split()
        assert not list((forge.root / "cache").rglob("*.new"))


@pytest.mark.timeout(300)
@pytest.mark.skipif(bool(missing()), reason=missing())
def test_commands_reach_the_internet_unless_they_are_not_to(shelf: None, context: Path, short_path: Path) -> None:
    with Internet() as internet:
        shelve(short_path / "images", "box", box(), config=ImageConfig(env={"PATH": "/bin"}))
        world = World(short_path, internet.prefix, images_dir=str(short_path / "images"), network="user", memory_mib="192")
        text = f"FROM box\nRUN (printf 'GET / HTTP/1.0\\r\\n\\r\\n'; sleep 2) | timeout 9 nc {WEB} 8000 > /page\nRUN ls /sys/class/net; cat /page\n"
        bad = build(world, context, text, "--network", "none")
        assert (bad.returncode, b"Dockerfile:2: RUN (printf" in bad.stderr) == (125, True), bad.stderr.decode()
        good = build(world, context, text)
        assert (good.returncode, {FAR, "eth0"} <= {*good.stderr.decode().splitlines()}) == (0, True), good.stderr.decode()
        again = build(world, context, text + "RUN cd /sys/class/net; ls\n", "--network", "none", name="app2")
        said = again.stderr.decode()
        assert (again.returncode, "as before: RUN (printf" in said, {"lo", "eth0"} & {*said.splitlines()}) == (0, True, {"lo"}), said
        world.close()


@pytest.mark.timeout(300)
def test_a_stopped_machine_becomes_an_image_without_what_is_only_its_own(forge: World) -> None:
    forge.ok("vm", "create", "--name", "zebra", "--image", "box")
    script = "echo kept > /srv/file 2>/dev/null || { mkdir /srv; echo kept > /srv/file; }; rm -r /opt; echo 10.1.1.1 mine >> /etc/hosts; sync"
    forge.ok("vm", "exec", "zebra", "--", "/bin/sh", "-c", script)
    running = forge.banger("image", "commit", "zebra", "mine")
    assert (running.returncode, b"banger vm stop zebra" in running.stderr) == (122, True)
    forge.ok("vm", "stop", "zebra")
    assert forge.ok("image", "commit", "zebra", "mine", timeout=SECONDS) == "mine\n"
    assert [row["name"] for row in forge.rows()] == ["zebra"]
    lines = look(forge, "mine", "cat /srv/file; ls /opt; cat /etc/hosts /etc/hostname")
    assert lines[0] == "kept"
    assert "10.1.1.1 mine" in lines
    assert not any("zebra" in line for line in lines)
    assert json.loads(forge.ok("image", "show", "mine", "--json"))["config"]["cmd"] == ["/bin/sh"]
    forge.ok("vm", "start", "zebra")
    assert forge.ok("vm", "exec", "zebra", "--", "/bin/cat", "/srv/file") == "kept\n"
    forge.ok("vm", "delete", "zebra")
