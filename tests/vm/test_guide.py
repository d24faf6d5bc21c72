"""The console blocks of the README and the guide, run as a reader would run them: on a terminal, one after the other, in one fresh banger a page.

What is printed must be what the page shows. Numbers, sizes, ages, machines' names and ids may differ, and a stage that took long may leave its line;
`...` stands for any text in a line, or for any lines when alone. A block marked `sh` is not run. Python blocks are run as they are.
"""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger.model.ids import ADJECTIVES, NOUNS
from tests.pages import ROOT, pages
from tests.registry import certificates, registry, tar
from tests.world import World

SECONDS = 120.0
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: What differs from one run to the next, and what stands for it.
DIFFERS = (
    (re.compile(rf"\b(?:{'|'.join(ADJECTIVES)})-(?:{'|'.join(NOUNS)})\b"), "NAME"),
    (re.compile(r"\b[0-9a-f]{12}\b"), "ID"),
    (re.compile(r"QEMU with (?:TCG|KVM): [^\"]*"), "QEMU"),
    (re.compile(r"\b\d+(?:\.\d+)?[KMGTsmhd]?\b"), "N"),
    (re.compile(r"[ \t]+"), " "),
)
#: What a stage leaves that took long, as it may on a busy host.
STAGE = re.compile(r"[a-z ]+ \d+\.\d+s")


@pytest.fixture
def reader(short_path: Path) -> Iterator[World]:
    """A world as a reader has it: the default image, and `banger` on PATH and in the folder at hand. Machines are small."""
    world = World(short_path)
    world.env.pop("BANGER_DEFAULT_IMAGE")
    here = short_path / "checkout"
    here.mkdir()
    script = here / "banger"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m banger "$@"\n')
    script.chmod(0o755)
    world.env |= {"PATH": f"{here}:{world.env['PATH']}", "TERM": "xterm", "NO_COLOR": "1", "LANG": "C.UTF-8"}
    yield world
    world.close()


def typed(world: World, command: str, status: int) -> tuple[int, list[str]]:
    """Run a line on a terminal of its own; `status` is what `$?` holds at its begin. Its status, and its lines as they stand in the end."""
    ours, theirs = pty.openpty()
    words = ["setsid", "--ctty", "--wait", "bash", "-c", f"(exit {status}); {command}"]
    with subprocess.Popen(words, env=world.env, cwd=world.root / "checkout", stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        try:
            printed = all_of(ours)
            ended = process.wait(SECONDS)
        finally:
            process.kill()
            os.close(ours)
    lines = printed.decode("utf-8", "replace").replace("\r\n", "\n").removesuffix("\n").split("\n") if printed else []
    return ended, [line for line in (line.rpartition("\x1b[2K")[2].rstrip() for line in lines) if not STAGE.fullmatch(line)]


def all_of(terminal: int) -> bytes:
    """What is printed until the terminal's last holder has gone (EIO, as pty(7) has it)."""
    printed = bytearray()
    deadline = time.monotonic() + SECONDS
    while True:
        readable, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert readable, f"the command goes on and on, after:\n{printed.decode('utf-8', 'replace')}"
        try:
            printed += os.read(terminal, 65536)
        except OSError:
            return bytes(printed)


def levelled(line: str) -> str:
    """A line without what differs from one run to the next; a number alone is an exit status, and stays."""
    if line.strip().isdigit():
        return line.strip()
    for pattern, word in DIFFERS:
        line = pattern.sub(word, line)
    return line.rstrip()


def fits(shown: list[str], printed: list[str]) -> bool:
    """Whether what was printed is what the page shows."""
    pattern = "".join(
        r"(?:.*\n)*?" if line == "..." else ".*".join(re.escape(piece) for piece in levelled(line).split("...")) + r"\n" for line in shown
    )
    return re.fullmatch(pattern, "".join(f"{levelled(line)}\n" for line in printed)) is not None


def steps(block: str) -> Iterator[tuple[str, list[str]]]:
    """Each command of a console block with the lines that it prints."""
    for text in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, *lines = text.rstrip("\n").split("\n")
        yield command, lines


@pytest.fixture
def hub(reader: World, tmp_path: Path) -> Iterator[None]:
    """Docker Hub, as far as the guide goes: a mirror on loopback that has the one image, and no way to the real one. The images are the page's own."""
    certificate = certificates(tmp_path / "tls")
    program = Path(shutil.which("busybox") or "").read_bytes()
    with registry(tmp_path / "registry", certificate=certificate) as made:
        made.image("library/alpine", "3.20", [tar({"bin/busybox": program, "bin/cat": program, "etc/alpine-release": b"3.20.3\n"})])
        trusted = reader.root / "config" / "banger" / "certs.d" / made.host
        trusted.mkdir(parents=True)
        shutil.copy(certificate.with_name("ca.crt"), trusted)
        reader.env |= {"BANGER_REGISTRY_MIRRORS": f"docker.io={made.host}", "HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
        reader.env["BANGER_IMAGES_DIR"] = str(reader.root / "images")
        yield


WITH_BLOCKS = [path for path in pages() if BLOCK.search(path.read_text())]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", WITH_BLOCKS, ids=[path.stem for path in WITH_BLOCKS])
def test_a_page_shows_what_is_printed(page: Path, reader: World, request: pytest.FixtureRequest) -> None:
    if page.stem == "images":
        request.getfixturevalue("hub")
    status = 0
    for kind, block in BLOCK.findall(page.read_text()):
        if kind == "python":
            done = subprocess.run([sys.executable, "-c", block], env=reader.env, cwd=ROOT, capture_output=True, timeout=SECONDS, check=False)
            assert done.returncode == 0, done.stderr.decode()
            continue
        for command, shown in steps(block):
            status, printed = typed(reader, command, status)
            said = "\n".join(printed)
            assert fits(shown, printed), f"{page.name}: $ {command}\n{said}\n-- instead of --\n" + "\n".join(shown)
