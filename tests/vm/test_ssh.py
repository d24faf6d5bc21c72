"""ssh, scp, rsync and sftp of this system into real machines, by the agent's channel: with and without a network, no open port, no key put anywhere."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.namespace import missing, private_network
from tests.vm.test_ordinary_user import User
from tests.world import GOLDEN, KERNEL, SHELF, SLIM, World, until

SECONDS = 240.0
SWAP = "rm /etc/ssh/ssh_host_ed25519_key*; ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key"
LISTEN = (
    '$| = 1; my $s = IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1", LocalPort => 4000) or die; print "ready\\n";'
    ' my $c = $s->accept; print $c "hello\\n"'
)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Reached:
    """A world with a running machine `web` that has an ssh server, and a configuration of ssh's in a file."""

    def __init__(self, root: Path, **settings: str) -> None:
        self.world = World(root, default_image=GOLDEN, memory_mib="512", **settings)
        self.config = root / "ssh.conf"

    def create(self) -> None:
        self.world.ok("vm", "create", "--name", "web", timeout=SECONDS)
        self.config.write_text(self.world.ok("ssh-config"))

    def run(self, *words: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """A program of this system, in the world's environment."""
        return subprocess.run(words, env=self.world.env, cwd=self.world.root, input=data, capture_output=True, timeout=SECONDS, check=False)

    def ok(self, *words: str, data: bytes = b"") -> bytes:
        """The same, which must succeed: what it printed."""
        done = self.run(*words, data=data)
        assert done.returncode == 0, f"{shlex.join(words)}: {done.returncode}\n{done.stderr.decode()}\n{self.world.log()[-2000:]}"
        return done.stdout

    def ssh(self, *words: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """`banger vm ssh web`."""
        return self.world.banger("vm", "ssh", "web", *words, data=data, timeout=SECONDS)

    def known(self) -> str:
        """The file of pinned keys."""
        return (self.world.state / "ssh" / "known_hosts").read_text()


@pytest.fixture(scope="module", params=["none"] if os.environ.get("BANGER_LAB") else ["none", "bridge"])
def web(request: pytest.FixtureRequest, shelf: None) -> Iterator[Reached]:
    """Shared by the tests that leave it as it is; without a network, and on the bridge of a namespace of its own."""
    with ExitStack() as stack:
        if request.param == "bridge":
            if lacking := missing():
                pytest.skip(lacking)
            stack.enter_context(private_network())
        root = Path(tempfile.mkdtemp(prefix="banger-test-", dir="/tmp"))
        stack.callback(shutil.rmtree, root)
        made = Reached(root, network=request.param)
        stack.callback(made.world.close)
        made.create()
        yield made


@pytest.mark.conformance
def test_status_and_bytes_pass_both_ways(web: Reached) -> None:
    data = os.urandom(1 << 20)
    done = web.ssh("--", "cat; echo err >&2; exit 7", data=data)
    assert (done.returncode, done.stdout == data, done.stderr) == (7, True, b"err\n")


def test_it_is_root_in_a_login_of_its_own_and_nothing_of_the_guests_was_changed(web: Reached) -> None:
    done = web.ssh("--", "id -un; pwd; ls -A .ssh 2>/dev/null; ls /sys/class/net")
    cards = [] if web.world.row("web")["network"] == "none" else ["eth0"]
    assert done.stdout.decode().split() == ["root", "/root", *cards, "lo"]


def test_the_machines_keys_are_shown_as_ssh_keygen_prints_them(web: Reached) -> None:
    script = "for key in /etc/ssh/ssh_host_*_key.pub; do ssh-keygen -l -f $key; done"
    printed = [line.split()[1] for line in web.world.ok("vm", "exec", "web", "--", "sh", "-c", script).splitlines()]
    assert web.world.row("web")["ssh_fingerprints"] == printed != []


def test_a_terminal_is_one(web: Reached) -> None:
    assert web.ssh("-tt", "--", "tty").stdout.startswith(b"/dev/pts/")


def test_a_server_that_cannot_start_says_why(web: Reached) -> None:
    script = "mv /etc/ssh/ssh_host_ed25519_key /etc/ssh/aside; echo junk > /etc/ssh/ssh_host_ed25519_key; chmod 600 /etc/ssh/ssh_host_ed25519_key"
    web.world.ok("vm", "exec", "web", "--", "sh", "-c", script)
    try:
        done = web.ssh("--", "true")
        assert done.returncode == 255
        assert b"sshd ended with status 1: " in done.stderr
        assert b"no hostkeys available" in done.stderr
    finally:
        web.world.ok("vm", "exec", "web", "--", "mv", "/etc/ssh/aside", "/etc/ssh/ssh_host_ed25519_key")


def test_another_user_of_the_guests_logs_in_without_a_key_in_the_home(web: Reached) -> None:
    web.world.ok("vm", "exec", "web", "--", "useradd", "-m", "wren")
    until(lambda: web.world.banger("vm", "exec", "web", "--", "test", "-e", "/run/nologin").returncode == 1, "the end of the guest's boot", SECONDS)
    done = web.world.banger("vm", "ssh", "--user", "wren", "web", "--", "id -un; pwd", timeout=SECONDS)
    assert (done.stdout, done.stderr) == (b"wren\n/home/wren\n", b"")
    assert web.ok("ssh", "-F", str(web.config), "wren@web.vm", "id -un") == b"wren\n"
    assert web.world.banger("vm", "ssh", "--user", "nobody-of-that-name", "web", "--", "id").returncode == 255


@pytest.mark.conformance
def test_scp_rsync_and_sftp_carry_files_both_ways(web: Reached) -> None:
    config, here = str(web.config), web.world.root
    data = os.urandom(300_000)
    (here / "sent").write_bytes(data)
    web.ok("scp", "-q", "-F", config, "sent", "web.vm:/srv/by scp")
    web.ok("scp", "-q", "-F", config, "web.vm:/srv/by scp", "scp")
    web.ok("rsync", "-e", f"ssh -F {config}", "sent", "web.vm:/srv/rsynced")
    web.ok("rsync", "-e", f"ssh -F {config}", "web.vm:/srv/rsynced", "rsync")
    web.ok("sftp", "-q", "-F", config, "-b", "-", "web.vm", data=b"put sent /srv/put\nget /srv/put sftp\n")
    assert [(here / name).read_bytes() == data for name in ("scp", "rsync", "sftp")] == [True, True, True]


def test_a_port_of_the_guests_is_forwarded_as_editors_do(web: Reached) -> None:
    server = web.world.begin("vm", "exec", "-n", "web", "--", "perl", "-MIO::Socket::INET", "-e", LISTEN)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    assert web.ok("ssh", "-F", str(web.config), "-W", "127.0.0.1:4000", "web.vm") == b"hello\n"
    assert server.wait(SECONDS) == 0


def test_our_keys_are_offered_and_no_others(web: Reached) -> None:
    done = web.ssh("-v", "--", "true")
    tried = [line for line in done.stderr.decode().splitlines() if "Offering public key" in line or "Will attempt key" in line]
    assert tried
    assert all(str(web.world.state / "ssh" / "id_ed25519") in line for line in tried), tried
    assert (web.world.state / "ssh" / "id_ed25519").stat().st_mode & 0o777 == 0o600
    assert (web.world.state / "ssh").stat().st_mode & 0o777 == 0o700


def test_a_machine_that_is_not_pinned_is_refused(web: Reached) -> None:
    pinned = web.known()
    try:
        (web.world.state / "ssh" / "known_hosts").write_text("")
        done = web.ssh("--", "true")
        assert done.returncode == 255
        assert b"strict checking" in done.stderr
    finally:
        (web.world.state / "ssh" / "known_hosts").write_text(pinned)
    assert web.ssh("--", "true").returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="root is needed to have another home")
def test_installed_it_is_there_for_plain_ssh_and_taken_out_it_is_not(web: Reached) -> None:
    banger, home, passwd = shlex.join([sys.executable, "-P", "-m", "banger"]), web.world.root / "home", web.world.root / "passwd"
    home.mkdir(mode=0o700)
    passwd.write_text(f"root:x:0:0:root:{home}:/bin/sh\n")
    script = f"""set -e
mount --bind {passwd} /etc/passwd
{banger} ssh-config --install
ssh web.vm hostname
stat -c %a {home}/.ssh {home}/.ssh/config
{banger} ssh-config --uninstall
wc -c < {home}/.ssh/config
"""
    assert web.ok("unshare", "--mount", "sh", "-c", script).split() == [b"web", b"700", b"600", b"0"]


@pytest.fixture
def fresh(short_path: Path) -> Iterator[Reached]:
    """One that may be changed; with the network that is usual."""
    made = Reached(short_path)
    yield made
    made.world.close()


def refused(web: Reached) -> None:
    """Both ways to log in are."""
    for done in (web.ssh("--", "true"), web.run("ssh", "-F", str(web.config), "web.vm", "true")):
        assert done.returncode == 255
        assert b"REMOTE HOST IDENTIFICATION HAS CHANGED" in done.stderr


def test_a_key_that_is_swapped_is_refused_until_the_machine_tells_it_and_goes_with_it(fresh: Reached) -> None:
    fresh.create()
    first = fresh.known()
    assert fresh.ssh("--", "true").returncode == 0
    fresh.world.ok("vm", "exec", "web", "--", "sh", "-c", SWAP)
    refused(fresh)
    fresh.world.kill_daemon()
    refused(fresh)
    assert fresh.known() == first
    fresh.world.ok("vm", "restart", "web", timeout=SECONDS)
    assert fresh.ssh("--", "true").returncode == 0
    assert fresh.known() != first
    fresh.world.ok("vm", "delete", "web")
    assert fresh.known() == ""
    assert fresh.run("ssh", "-F", str(fresh.config), "web.vm", "true").returncode == 255
    fresh.create()
    assert fresh.known() not in ("", first)
    assert fresh.ok("ssh", "-F", str(fresh.config), "web.vm", "hostname") == b"web\n"


def test_an_image_without_an_ssh_server_is_told_as_that(world: World) -> None:
    world.ok("vm", "create", "--name", "bare", "--image", SLIM)
    done = world.banger("vm", "ssh", "bare", "--", "true")
    assert done.returncode == 127
    assert done.stderr.decode().splitlines() == [
        "error: ssh-keys in bare: the image has no ssh server: sshd is not found",
        "  hint: use: banger vm exec bare -- CMD, or an image with openssh-server",
    ]
    assert b"no ssh server" in world.banger("vm", "sshd", "bare").stderr
    world.ok("vm", "stop", "bare")
    stopped = world.banger("vm", "ssh", "bare")
    assert (stopped.returncode, stopped.stderr) == (122, b"error: machine bare is not running\n  hint: run: banger vm start bare\n")


@pytest.fixture
def user() -> Iterator[User]:
    """An ordinary user, who has the image and the kernel already."""
    if os.geteuid() != 0:
        pytest.skip("root is needed to make a user")
    made = User()
    try:
        state = made.home / ".local" / "state" / "banger"
        for kind, name in (("images", GOLDEN), ("kernels", KERNEL)):
            (state / kind).mkdir(parents=True)
            subprocess.run(["cp", "-r", "--sparse=always", SHELF / kind / name, state / kind], check=True)
        subprocess.run(["chown", "-R", f"{made.uid}:{made.gid}", made.home], check=True)
        for folder in (state, state / "images", state / "kernels"):
            folder.chmod(0o700)
        yield made
    finally:
        made.close()


def test_an_ordinary_user_of_the_host_has_all_of_it_too(user: User) -> None:
    user.environ["BANGER_MEMORY_MIB"] = "512"
    done = user.banger("vm", "create", "--name", "web", "--image", GOLDEN)
    assert done.returncode == 0, done.stderr.decode()
    assert user.banger("vm", "ssh", "web", "--", "id -un; cat", data=b"input").stdout == b"root\ninput"
    assert user.banger("ssh-config", "--install").returncode == 0
    done = subprocess.run(user.command("ssh", "web.vm", "hostname"), env=user.environ, cwd=user.home, capture_output=True, timeout=SECONDS, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"web\n", b"")
    assert {path.name for path in (user.home / ".ssh").iterdir()} == {"config"}
    assert user.banger("vm", "delete", "web").returncode == 0
    assert user.banger("daemon", "stop").returncode == 0
