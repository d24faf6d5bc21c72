"""Commands that hand the daemon a file: it is named as this command sees it, since the daemon has another working folder."""

from __future__ import annotations

import os

from banger.frontends.cli import calls
from banger.frontends.cli.output import clean, talk
from banger.frontends.cli.parse import Given
from banger.model.errors import BadRequest


def register(given: Given) -> int:
    """Register an image; print its name."""
    return calls.each(_with_file(given, "rootfs", "--rootfs"))


def take_kernel(given: Given) -> int:
    """Import a kernel; print its name, and what will not work with it."""
    found = calls.one(_with_file(given, "file", "--from"))
    lacks = found.get("lacks") if isinstance(found, dict) else None
    for name, lost in lacks.items() if isinstance(lacks, dict) else ():
        talk(f"note: it lacks {clean(str(name))}: {clean(str(lost))}")
    return 0


def _with_file(given: Given, parameter: str, flag: str) -> Given:
    if not given.parameters.get(parameter):
        raise BadRequest(f"{given.command.words} needs {flag} FILE", hint=f"see banger {given.command.words} --help")
    given.parameters[parameter] = os.path.abspath(os.path.expanduser(str(given.parameters[parameter])))
    return given
