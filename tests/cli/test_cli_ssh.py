"""`vm ssh`, `vm sshd` and `ssh-config` as commands; ssh is a script that says how it was called."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.cli.command import Banger


@pytest.fixture
def ssh(banger: Banger, runtime: Path) -> Banger:
    """`banger` with such an ssh on its PATH."""
    script = runtime / "bin" / "ssh"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\nfor word; do printf '%s\\n' \"$word\"; done\ncat\ngrep SigIgn /proc/self/status\nexit 7\n")
    script.chmod(0o755)
    banger.environ["PATH"] = f"{script.parent}:{banger.environ['PATH']}"
    return banger


def test_vm_ssh_becomes_ssh_with_our_configuration_and_its_status(ssh: Banger, runtime: Path) -> None:
    config = runtime / "state" / "ssh" / "config"
    done = ssh("vm", "ssh", "000000000001", "-N", "-L", "1:b:2", "--", "ls", "--user", "a b", stdin=b"input\n")
    assert done.returncode == 7
    *words, ignored = done.stdout.decode().splitlines()
    assert words == ["-F", str(config), "-l", "root", "vm1.vm", "-N", "-L", "1:b:2", "--", "ls", "--user", "a b", "input"]
    mask = int(ignored.split()[1], 16)  # bit n - 1 for signal n, see proc(5); what our own parent ignores is not ours to judge
    assert not [number for number in (signal.SIGPIPE, signal.SIGXFSZ) if mask >> number - 1 & 1]  # as for any program, not as Python has it
    assert "Host *.vm" in config.read_text()


def test_the_user_may_be_another(ssh: Banger) -> None:
    assert ssh("vm", "ssh", "--user", "wren", "vm1").stdout.decode().splitlines()[2:5] == ["-l", "wren", "vm1.vm"]


def test_what_keeps_ssh_from_beginning_is_bangers_own_error(ssh: Banger) -> None:
    for name, status, code in (("vm2", 127, "no-command"), ("nope", 121, "not-found")):
        done = ssh("vm", "ssh", "--json", name)
        assert (done.returncode, done.stdout, json.loads(done.stderr)["error"]["code"]) == (status, b"", code)
    assert b"hint: use: banger vm exec vm2 -- CMD" in ssh("vm", "ssh", "vm2").stderr


def test_without_ssh_on_the_host_it_says_so(banger: Banger, runtime: Path) -> None:
    banger.environ["PATH"] = str(runtime)
    done = banger("vm", "ssh", "vm1")
    assert done.returncode == 123
    assert b"ssh is not installed" in done.stderr


@pytest.mark.parametrize("name", ["vm1", "vm1.vm", "000000000001"])
def test_the_proxy_passes_bytes(banger: Banger, name: str) -> None:
    assert banger("vm", "sshd", name, stdin=b"\0\xffbytes").stdout == b"\0\xffbytes"


def test_the_configuration_is_printed_installed_and_taken_out(banger: Banger, runtime: Path) -> None:
    printed, file = banger("ssh-config"), runtime / "file"
    assert (runtime / "state" / "ssh" / "config").read_bytes() == printed.stdout
    file.write_bytes(b"Host a\r\n User b")
    for told in (b"now includes", b"includes already"):
        done = banger("ssh-config", "--install", str(file))
        assert (done.returncode, done.stdout) == (0, b"")
        assert told in done.stderr
    assert file.read_bytes().endswith(b"\r\nHost a\r\n User b")
    for told in (b"without banger again", b"nothing of banger in it"):
        assert told in banger("ssh-config", "--uninstall", str(file)).stderr
    assert file.read_bytes() == b"Host a\r\n User b"


@pytest.mark.parametrize("words", [["--install", "--uninstall", "f"], ["a", "b"], ["f"], ["--instal"]])
def test_what_cannot_be_meant_is_refused(banger: Banger, words: list[str]) -> None:
    assert banger("ssh-config", *words).returncode == 120


def test_taking_out_needs_no_daemon(alone: Banger, runtime: Path) -> None:
    assert alone("ssh-config", "--uninstall", str(runtime / "none")).returncode == 0
    assert not (runtime / "banger").exists()


def test_machines_are_offered_to_complete_the_name(banger: Banger) -> None:
    assert banger("__complete", "vm", "ssh", "").stdout.decode().split("\n")[:1] == ["vm0\trunning"]
    assert banger("__complete", "vm", "ssh", "vm1", "").stdout == b""
    assert b"--uninstall" in banger("__complete", "ssh-config", "--").stdout
