"""The command line's entry: finds the command, reads its flags, calls its handler, and turns errors into words and an exit status.

The hot path: whatever only some commands need is imported by them.
"""

from __future__ import annotations

import os
import sys

from banger.frontends.cli.ending import Ended
from banger.frontends.cli.parse import lookup, parse
from banger.frontends.cli.words import Command
from banger.model.errors import BangerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

INTERRUPTED = 130
BROKEN_PIPE = 141


def main() -> NoReturn:
    """Run the command in `sys.argv` and leave with its exit status."""
    words = sys.argv[1:]
    try:
        status = run(words)
        sys.stdout.flush()
    except BangerError as error:
        from banger.frontends.cli.output import complain

        status = complain(error, json_lines="--json" in words[: words.index("--")] if "--" in words else "--json" in words)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except Ended as ended:
        status = ended.status
    except BrokenPipeError:
        status = BROKEN_PIPE
    leave(status)


def leave(status: int) -> NoReturn:
    """End the process without taking the interpreter apart, which would cost more than a short command itself."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue  # nobody reads it any more
    os._exit(status)


def run(words: list[str]) -> int:
    """What the words ask for; returns the exit status."""
    if words and words[0] == "__complete":
        from banger.frontends.cli.complete import candidates

        return candidates(words[1:])
    if words and words[0] == "--version":
        return run(["version"])
    if not words or words[0] in ("help", "-h", "--help"):
        return _help([word for word in words[1:] if not word.startswith("-")])
    command, rest = lookup(words)
    return _help([words[0]]) if command is None else execute(command, rest)


def execute(command: Command, words: list[str]) -> int:
    """Parse the words after a command and call its handler."""
    given = parse(command, words)
    if "help" in given.own:
        return _help(command.words.split())
    file, _, function = command.handler.partition(":")
    module = __import__(f"banger.frontends.cli.{file}", fromlist=[function])
    return int(getattr(module, function)(given))


def _help(words: list[str]) -> int:
    from banger.frontends.cli.help import of_command, of_group, overview
    from banger.frontends.cli.output import data

    if not words:
        data(overview())
        return 0
    command, _ = lookup(words)
    data(of_group(words[0]) if command is None else of_command(command))
    return 0
