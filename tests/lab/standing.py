"""A lab machine that is kept between calls, for all checkouts of a user: one at a time uses it, each brings its own code.

It is driven by a copy of the code that started it: a checkout in the midst of an edit, or of another age, neither breaks nor restarts its daemon.
Owns `payload.PLACE/standing`; `end` takes it away.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.lab import payload
from tests.lab.laboratory import NAME, Lab, environment, pytest_command
from tests.world import ROOT


class Standing:
    """The kept lab machine."""

    def __init__(self) -> None:
        self.root = payload.PLACE / "standing"
        self.made_of = self.root / "made-of"

    def lab(self) -> Lab:
        """Seen through the code that started it."""
        lab = Lab(self.root)
        lab.world.env["PYTHONPATH"] = str(self.root / "driver")
        return lab

    def up(self) -> Lab:
        """Running, and made of what this checkout needs."""
        lab = self.lab()
        wanted = f"{lab.image} {payload.disk()} {payload.digest(*(ROOT / 'tests/lab' / name for name in ('processor.py', 'anchor.py')))}"
        if self.made_of.exists() and self.made_of.read_text() == wanted and lab.run("true").returncode == 0:
            return lab
        self.end()
        say("starting it (a minute; some more the first time)")
        lab = self.lab()
        shutil.copytree(ROOT / "src" / "banger", self.root / "driver" / "banger")
        lab.start()
        self.made_of.write_text(wanted)
        return lab

    def end(self) -> None:
        """Stop it and remove all of it."""
        if (self.root / "driver").exists():
            lab = self.lab()
            lab.world.banger("vm", "delete", NAME)
            lab.world.banger("daemon", "stop", "--force")
            left = lab.world.processes()
            assert not left, f"the lab's processes do not end: {left}"
        shutil.rmtree(self.root, ignore_errors=True)

    def enter(self, lab: Lab, words: Sequence[str], *, terminal: bool) -> int:
        """A command in it, on our own terminal or streams; its status."""
        command = lab.world.command("vm", "exec", "-t" if terminal else "-n", NAME, "--", *words)
        return subprocess.run(command, env=lab.world.env, check=False).returncode


def say(text: str) -> None:
    """Talk goes to stderr."""
    print(f"lab: {text}", file=sys.stderr, flush=True)


def call(nodes: Sequence[str], *, settings: str, shell: bool, down: bool) -> int:
    """What `python -m tests.lab` does; the tests' status."""
    with payload.alone():
        standing = Standing()
        if down:
            standing.end()
            return 0
        lab = standing.up()
        lab.bring(Path(ROOT / "src"))
        more = {"BANGER_TEST_SETTINGS": settings} if settings else {}
        if shell:
            return standing.enter(lab, [*environment({**more, "TERM": os.environ.get("TERM", "dumb")}), "bash"], terminal=True)
        return standing.enter(lab, pytest_command(*nodes, more=more), terminal=False) if nodes else 0
