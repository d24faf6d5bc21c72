"""What a machine of an image starts as: its own init becomes process 1, or the agent stays that and runs what the image is for.

Pure. `init_of` looks at the names of an image's files; the agent has the same rule for images that nobody has looked through (agent/boot/init.go), and
`tests/vectors/inits.json` holds both to it. `first` adds what the image's configuration says.
"""

from __future__ import annotations

from collections.abc import Container
from pathlib import PurePosixPath

from banger.model.catalog import ImageConfig

#: The init of an image whose files nobody has looked through: the agent does, when it boots.
UNKNOWN = "unknown"
#: Where the program is that a kernel would start; with /sbin a link to /usr/sbin, or to /usr/bin.
PLACES = ("sbin/init", "usr/sbin/init", "usr/bin/init")
#: What gives each kind of init away, beside the program itself; in this order.
SIGNS = (
    ("systemd", ("usr/lib/systemd/systemd", "lib/systemd/systemd")),
    ("openrc", ("sbin/openrc", "usr/sbin/openrc", "usr/bin/openrc")),
    ("runit", ("etc/runit/1",)),
    ("sysvinit", ("etc/init.d/rc", "etc/rc.d/rc", "etc/rc.d/rc.sysinit")),
    ("busybox", ("etc/init.d/rcS",)),
)
#: Where busybox is, whose init comes with every container image of Alpine's and has nothing there to start.
BUSYBOX = ("bin/busybox", "usr/bin/busybox")
#: Programs that an image names as its entrypoint, or its cmd, when it means to be booted by them: they insist on being process 1.
PROGRAMS = frozenset({"init", "systemd", "openrc-init", "runit-init", "s6-linux-init"})
SHELLS = frozenset({"sh", "bash", "ash", "dash", "zsh", "fish", "busybox"})
FOLDERS = frozenset({".", "/", "/bin", "/sbin", "/usr/bin", "/usr/sbin", "/lib/systemd", "/usr/lib/systemd"})
#: Every path that `init_of` asks for.
LOOK = (*PLACES, *(sign for _, signs in SIGNS for sign in signs), *BUSYBOX)


def init_of(paths: Container[str]) -> str:
    """Which init a root file system has, by the paths of its files and links (`usr/sbin/init`); empty: none that would bring the system up.

    `other` is an init of nobody's that is known here. Busybox's counts where it has scripts to run.
    """
    if not any(place in paths for place in PLACES):
        return ""
    for name, signs in SIGNS:
        if any(sign in paths for sign in signs):
            return name
    return "" if any(place in paths for place in BUSYBOX) else "other"


def is_init(argv: tuple[str, ...]) -> bool:
    """Whether this command is to be process 1 and nothing else: `/sbin/init`, `/lib/systemd/systemd --system`, `/init` of s6-overlay."""
    if not argv:
        return False
    path = PurePosixPath(argv[0])
    return path.name in PROGRAMS and str(path.parent) in FOLDERS


def command_of(config: ImageConfig) -> tuple[str, ...]:
    """What the image runs: its entrypoint, with its cmd after it."""
    return config.entrypoint + config.cmd


def first(init: str, config: ImageConfig) -> tuple[str, ...] | None:
    """What becomes process 1: a command; `()`: the agent stays it and runs what it is asked to; None: the image's own init, which the agent finds.

    An entrypoint is what an image is for, and so is a cmd: with either the agent stays, unless it is an init itself. A cmd that is a shell says
    nothing: images have one so that there is something to run.
    """
    command = command_of(config)
    if is_init(command):
        return command
    if _meant(config):
        return ()
    return None if init else ()


def _meant(config: ImageConfig) -> bool:
    return bool(config.entrypoint or (config.cmd and PurePosixPath(config.cmd[0]).name not in SHELLS))


def runs(config: ImageConfig) -> bool:
    """Whether the image runs something by itself that goes on without anybody at its terminal, beside the agent as process 1."""
    return _meant(config) and not is_init(command_of(config))
