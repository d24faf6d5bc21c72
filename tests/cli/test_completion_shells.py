"""Completion in the real shells: what each offers, and what the tab key does on a terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from banger.frontends.cli.commands import GROUPS, SINGLE
from tests.cli.command import SECONDS, Banger

#: Say what the shell would offer for the words of a line, one a line, through its own completion.
ASK = {
    "bash": "source ./script; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _banger; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
    "zsh": (
        "compdef() {{ }}; source ./script; _describe() {{ print -l -- ${{(P)${{@[-1]}}}} | sed 's/\\([^\\\\]\\):.*/\\1/' }};"
        " words=({words}); CURRENT=${{#words}}; _banger || true"
    ),
    "fish": "source ./script; complete --do-complete {line} | cut -f 1",
}
START = {"bash": ["bash", "--norc", "--noprofile"], "zsh": ["zsh", "-f"], "fish": ["fish", "--no-config"]}
SHELLS = list(START)


class Shell:
    """One of the shells, with `banger` on its PATH and files around that must never be offered."""

    def __init__(self, name: str, banger: Banger, folder: Path) -> None:
        self.name, self.folder = name, folder
        program = folder / "banger"
        program.write_text(f'#!/bin/sh\nexec {shlex.join(banger.command)} "$@"\n')
        program.chmod(0o755)
        (folder / "script").write_bytes(banger("completion", name).stdout)
        for file in ("vm-of-a-file", "stop-file"):
            (folder / file).touch()
        search = f"{folder}:{os.environ['PATH']}"
        self.environ = banger.environ | {"PATH": search, "HOME": str(folder), "ZDOTDIR": str(folder), "PS1": "@ ", "TERM": "dumb"}

    def offers(self, line: str) -> list[str]:
        """The words that could stand for the last one of the line."""
        words = line.split(" ")
        if self.name == "bash":
            words = [piece for word in words for piece in re.split("(=)", word) if piece or not word]
        script = ASK[self.name].format(words=shlex.join(words), line=shlex.quote(line))
        done = subprocess.run([*START[self.name], "-c", script], env=self.environ, cwd=self.folder, capture_output=True, timeout=SECONDS, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        return [word for word in done.stdout.decode().split("\n") if word]

    def types(self, keys: str, until: str) -> str:
        """What a terminal shows after those keys, up to a match."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            ["setsid", "--ctty", *START[self.name], "-i"], env=self.environ, cwd=self.folder, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        try:
            read(ours, "[@>#] ")
            os.write(ours, b"source ./script; echo rea''dy\n")
            read(ours, "\nready.*[@>#] ")
            os.write(ours, keys.encode())
            return read(ours, until)
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait(SECONDS)
            os.close(ours)


def read(terminal: int, pattern: str) -> str:
    text, deadline = "", time.monotonic() + SECONDS
    while not re.search(pattern, text, re.DOTALL):
        assert select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))[0], text
        text += os.read(terminal, 65536).decode()
    return text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, banger: Banger, folder: Path) -> Shell:
    """Each shell, with three machines: vm0, vm1, vm2."""
    return Shell(request.param, banger, folder)


def test_commands_are_offered(shell: Shell) -> None:
    assert set(shell.offers("banger ")) == {*GROUPS, *(name for name, command in SINGLE.items() if not command.hidden)}
    assert shell.offers("banger vm st") == ["start", "stop"]
    assert shell.offers("banger completion f") == ["fish"]


def test_flags_and_their_values_are_offered(shell: Shell) -> None:
    assert shell.offers("banger vm run --im") == ["--image"]
    assert "--detach" in shell.offers("banger vm run --")
    assert sorted(shell.offers("banger vm run --network ")) == ["bridge", "none", "user"]
    joined = "" if shell.name == "bash" else "--network="
    assert sorted(shell.offers("banger vm run --network=")) == [f"{joined}{kind}" for kind in ("bridge", "none", "user")]
    assert shell.offers("banger vm run --network=n") == [f"{joined}none"]


def test_living_machines_are_offered_each_once(shell: Shell) -> None:
    assert sorted(shell.offers("banger vm stop ")) == ["vm0", "vm1", "vm2"]
    assert sorted(shell.offers("banger vm stop vm1 v")) == ["vm0", "vm2"]
    assert sorted(shell.offers("banger vm exec -u root v")) == ["vm0", "vm1", "vm2"]


def test_files_are_never_offered(shell: Shell) -> None:
    for line in (
        "banger vm stop vm-",
        "banger vm stop /et",
        "banger st",
        "banger vm run --name ",
        "banger vm exec vm1 -- ",
        "banger nothing ",
        "banger ps ",
    ):
        assert shell.offers(line) == [], line


def test_without_a_daemon_there_is_silence_and_none_is_started(alone: Banger, runtime: Path, folder: Path) -> None:
    for name in SHELLS:
        shell = Shell(name, alone, folder)
        assert shell.offers("banger vm stop ") == []
        assert shell.offers("banger vm sto") == ["stop"]
    assert list(runtime.iterdir()) == []


@pytest.mark.parametrize("name", SHELLS)
def test_the_tab_key_completes(daemon: Callable[[int], Banger], folder: Path, name: str) -> None:
    shell = Shell(name, daemon(1), folder)
    assert "error" not in shell.types("banger vm lis\t-q\r", until="\nvm0\r")
    assert "error" not in shell.types("banger vm show v\t\r", until="image .*debian-bookworm")


@pytest.mark.parametrize("name", SHELLS)
def test_the_tab_key_makes_no_file_of_what_is_no_machine(daemon: Callable[[int], Banger], folder: Path, name: str) -> None:
    shell = Shell(name, daemon(1), folder)
    assert "there is no machine vm-" in shell.types("banger vm show vm-\t\r", until="error: .*\n")
