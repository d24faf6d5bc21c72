"""What a command in a machine runs as: what was asked for, else what the image says (its variables, working directory, user, entrypoint). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from banger.model.catalog import ImageConfig
from banger.model.inits import command_of


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A command as it was asked for; None leaves it to the image. `tty`: as in the agent's request (docs/wire.md).

    `entrypoint`: the image's comes before `argv`, or before its own cmd if that is empty.
    """

    argv: Sequence[str]
    entrypoint: bool = False
    env: Mapping[str, str] = {}
    cwd: str | None = None
    user: str | None = None
    tty: Mapping[str, object] | None = None
    stdin: bool = True


def request(asked: Asked, config: ImageConfig, init: tuple[str, ...] | None) -> dict[str, object]:
    """The agent's `exec` request; without any command it is a login shell. `init` is what became process 1 (model/inits.py, `first`)."""
    argv = command(asked, config, init)
    cwd = asked.cwd or config.workdir or ("/" if asked.entrypoint and argv else None)
    return {
        "op": "exec",
        "argv": argv,
        "env": {**config.env, **asked.env},
        "cwd": cwd,
        "user": asked.user or config.user or None,
        "tty": asked.tty,
        "stdin": asked.stdin,
    }


def command(asked: Asked, config: ImageConfig, init: tuple[str, ...] | None) -> list[str]:
    """The words to run; none where the image runs nothing by itself, or what it runs is process 1 already."""
    if not asked.entrypoint or init != ():
        return list(asked.argv)
    return [*config.entrypoint, *asked.argv] if asked.argv else list(command_of(config))
