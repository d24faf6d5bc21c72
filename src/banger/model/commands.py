"""What a command in a machine runs as: what was asked for, else what the image says (its variables, working directory, user, entrypoint). Pure."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

import msgspec

from banger.model.catalog import ImageConfig
from banger.model.inits import command_of

#: Of Linux's signals, as its C libraries number them.
FIRST_REALTIME, LAST_SIGNAL = 34, 64


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


def overlaid(config: ImageConfig, *, env: Mapping[str, str], cwd: str | None, user: str | None) -> ImageConfig:
    """The image's configuration with what was asked for a machine over it; a `cwd` that is not absolute begins at the root."""
    workdir = str(PurePosixPath("/") / cwd) if cwd else config.workdir
    return msgspec.structs.replace(config, env={**config.env, **env}, workdir=workdir, user=user or config.user)


def stop_signal(config: ImageConfig) -> int:
    """The number of the signal that ends what an image runs: of a name with SIG or without, of `SIGRTMIN+3`, or a number; TERM for anything else."""
    name, _, more = config.stop_signal.upper().removeprefix("SIG").partition("+")
    if name == "RTMIN":
        number = FIRST_REALTIME + (int(more) if more.isdecimal() and more.isascii() and len(more) < 3 else 0)
    elif name.isdecimal() and name.isascii() and len(name) < 3:
        number = int(name)
    else:
        number = next((one.value for one in signal.Signals if one.name == f"SIG{name}"), 0)
    return number if 1 <= number <= LAST_SIGNAL else signal.SIGTERM.value
