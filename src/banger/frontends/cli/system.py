"""`banger system`: installs the privileged helper and the daemon for one user, as units of systemd, says how they stand, and takes them out again."""

from __future__ import annotations

import asyncio
import os
import pwd
import sys
from pathlib import Path

from banger.daemon.system import PACKAGES, Installation, Standing, Step, System
from banger.frontends.cli.output import data, talk
from banger.frontends.cli.parse import Given
from banger.host.files import RealFiles
from banger.host.frozen import packages, refusal
from banger.host.proc import RealProc
from banger.model import codec
from banger.model.errors import BadRequest, HostLacks, NotFound

HOST_LACKS = 123
RUNTIME = "/run/bangerd"
SAFE_PYTHON = "use a Python that belongs to root, the distribution's for example: it makes .venv when that is removed"


def _system() -> System:
    import banger

    return System(RealFiles(), RealProc(""), Path(banger.__file__).parent / "catalog" / "units")


def installation(owner: str, roots: list[str]) -> Installation:
    """What to install for a user: NotFound without such a user, HostLacks when root must not run this Python."""
    try:
        user = pwd.getpwnam(owner)
    except KeyError:
        raise NotFound(f"there is no user {owner!r}") from None
    if user.pw_uid == 0:
        raise BadRequest("root needs no helper", hint="name the user who is to use banger: --owner USER")
    python = Path(sys.executable).resolve()
    if trouble := refusal(python):
        raise HostLacks(f"root cannot trust this Python: {trouble}", hint=SAFE_PYTHON)
    found = tuple(map(_root, [f"{user.pw_dir}/.local/state/banger", *roots]))
    environment = {"XDG_RUNTIME_DIR": RUNTIME} | {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    daemon = (sys.executable, "-P", "-m", "banger.bangerd", "replace")
    return Installation(
        owner=owner, uid=user.pw_uid, gid=user.pw_gid, roots=tuple(dict.fromkeys(found)), python=str(python), daemon=daemon, environment=environment
    )


def _root(text: str) -> str:
    """One of the user's folders; the helper follows no link, so it must be written as it is."""
    path = Path(text)
    if not path.is_absolute() or len(path.parts) < 3 or not text.isprintable():
        raise BadRequest(f"{text!r} is no absolute path of a user's folder")
    if path.resolve() != path:
        raise BadRequest(
            f"{text} leads over a link to {path.resolve()}", hint=f"give it as it really is, and set banger to it: --root {path.resolve()}"
        )
    return str(path)


def _owner(given: Given) -> str:
    named = given.values.get("owner", [])
    found = named[-1] if named else os.environ.get("SUDO_USER", "")
    if not found:
        raise BadRequest("system install needs the user who is to use banger", hint="banger system install --owner USER")
    return found


def install(given: Given) -> int:
    """Make it so, and say what is done."""
    system = _system()
    wanted = installation(_owner(given), given.values.get("root", []))
    steps = system.plan(wanted, packages(PACKAGES))
    _perform(given, steps)
    if not given.json:
        data(f"the privileged helper serves {wanted.owner}, for files in {', '.join(wanted.roots)}\n" if "dry-run" not in given.own else "")
    return 0


def uninstall(given: Given) -> int:
    """Take away what install made, and say what stays."""
    system = _system()
    owner = system.installed_for()
    steps = system.plan_removal()
    if not steps:
        talk("note: nothing is installed")
        return 0
    _perform(given, steps)
    talk(f"note: machines, images and settings of {owner or 'the user'} stay where they are, and machines that run go on running")
    return 0


def _perform(given: Given, steps: list[Step]) -> None:
    dry = "dry-run" in given.own
    if not dry and os.geteuid() != 0:
        raise HostLacks(f"{given.command.words} needs root", hint=f"sudo banger {given.command.words}; or see what it would do: --dry-run")
    if given.json:
        data(codec.encode({"steps": [step.words for step in steps], "done": not dry}).decode() + "\n")
    asyncio.run(_each(steps, dry=dry, quiet=given.json))


async def _each(steps: list[Step], *, dry: bool, quiet: bool) -> None:
    for step in steps:
        if not quiet:
            data(f"{'would: ' if dry else ''}{step.words}\n")
            sys.stdout.flush()
        if not dry:
            await step.act()


def status(given: Given) -> int:
    """How it stands; 123 when there is no installation or a unit of it is not active."""
    found = asyncio.run(_system().standing(packages(PACKAGES)))
    data(codec.encode(found).decode() + "\n" if given.json else shown(found))
    resting = {name for name, state in found.units.items() if state not in ("active", "activating") and name != "banger-helper.service"}
    return 0 if found.owner and not resting else HOST_LACKS


def shown(found: Standing) -> str:
    """The standing for people."""
    if not found.owner:
        return "not installed; as root: banger system install --owner USER\n"
    rows = [("installed for", found.owner), *found.units.items()]
    rows.append(("the helper's code", "is this build's" if found.current else "is another build's; as root: banger system install"))
    width = max(len(name) for name, _ in rows)
    return "".join(f"{name:{width}}  {value}\n" for name, value in rows)
