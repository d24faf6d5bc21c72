"""Commands that hand the daemon a file: it is named as this command sees it, since the daemon has another working folder."""

from __future__ import annotations

import os

from banger.frontends.cli import calls
from banger.frontends.cli.parse import Given
from banger.model.errors import BadRequest


def register(given: Given) -> int:
    """Register an image; print its name."""
    return _with_file(given, "rootfs", "--rootfs")


def _with_file(given: Given, parameter: str, flag: str) -> int:
    if not given.parameters.get(parameter):
        raise BadRequest(f"{given.command.words} needs {flag} FILE", hint=f"see banger {given.command.words} --help")
    given.parameters[parameter] = os.path.abspath(os.path.expanduser(str(given.parameters[parameter])))
    return calls.each(given)
