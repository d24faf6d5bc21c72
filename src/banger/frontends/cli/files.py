"""Commands about files: whoever hands one to the daemon names it as seen from here, since the daemon works elsewhere; and the space they take."""

from __future__ import annotations

import json
import os

from banger.client import Client
from banger.frontends.cli import calls
from banger.frontends.cli.output import clean, complain, data, talk
from banger.frontends.cli.parse import Given
from banger.frontends.cli.progress import Patience, Progress, follow
from banger.model.errors import BadRequest, exit_status
from banger.model.sizes import show_size


def register(given: Given) -> int:
    """Register an image; print its name."""
    return calls.each(_with_file(given, "rootfs", "--rootfs"))


def take_kernel(given: Given) -> int:
    """Import a kernel; print its name. What will not work with it is among what is told meanwhile."""
    calls.one(_with_file(given, "file", "--from"))
    return 0


def build(given: Given) -> int:
    """Build an image; print its name."""
    context = os.path.abspath(os.path.expanduser(str(given.parameters["context"])))
    given.parameters["context"] = context
    given.parameters["name"] = given.parameters.get("name") or os.path.basename(context)
    if given.parameters.get("file"):
        _with_file(given, "file", "--file")
    return _made(given)


def commit(given: Given) -> int:
    """Make an image of a machine; print its name."""
    return _made(given)


def _made(given: Given) -> int:
    found = _followed(given, str(given.parameters["name"]))
    if not given.json:
        data(f"{clean(str(found['name']))}\n")
    return 0


def save(given: Given) -> int:
    """Save a bundle; print where it is."""
    given.parameters["file"] = given.parameters.get("file") or "."
    found = _followed(_with_file(given, "file", "--output"), ", ".join(given.targets), names=given.targets)
    if not given.json:
        data(f"{clean(str(found['file']))}\n")
        talk(f"{show_size(int(str(found['size_bytes'])))}, {clean(str(found['digest']))}")
    return 0


def load(given: Given) -> int:
    """Load a bundle; print what came."""
    subject = str(given.parameters["file"])
    found = _followed(given if "://" in subject else _with_file(given, "file", ""), subject)
    for key, word in () if given.json else (("kernels", "kernel"), ("images", "image")):
        names = found[key]
        data("".join(f"{word} {clean(str(name))}\n" for name in (names if isinstance(names, list) else [])))
    present = found["present"]
    if present and isinstance(present, list):
        talk(f"here already: {clean(', '.join(map(str, present)))}")
    return 0


def _followed(given: Given, subject: str, **more: object) -> dict[str, object]:
    """The result of an operation that has no name among its targets."""
    client = Client()
    lines = client.stream(given.command.op, **given.parameters, **more)
    try:
        found = follow(client, lines, Progress(f"{given.command.words} {subject}", json_lines=given.json), Patience())
    finally:
        lines.close()
    assert isinstance(found, dict), "the operation's result is a record"
    if given.json:
        data(json.dumps(found) + "\n")
    return found


def prune(given: Given) -> int:
    """Remove what nothing needs, after asking; print what went, or would go."""
    dry = bool(given.parameters.get("dry_run"))
    if not dry and not calls.confirmed(given, "Remove images and kernels that nothing uses and that can be had again, and the cache?"):
        return 0
    raw = Client().call_raw("system.prune", **given.parameters, keep=given.values.get("keep", []))
    if given.json:
        data(raw.decode() + "\n")
    rows = json.loads(raw)
    failed = [row for row in rows if row.get("failure")]
    for row in () if given.json else rows:
        if row.get("failure"):
            complain(calls.error_of(row["failure"]), subject=row["name"])
        else:
            data(f"{clean(row['kind'])} {clean(row['name'])} {show_size(row['freed_bytes'])}\n")
    if not given.json:
        talk(f"{show_size(sum(row['freed_bytes'] for row in rows))} {'would be freed' if dry else 'freed'}")
    return exit_status(str(failed[0]["failure"].get("code"))) if failed else 0


def _with_file(given: Given, parameter: str, flag: str) -> Given:
    if not given.parameters.get(parameter):
        raise BadRequest(f"{given.command.words} needs {flag} FILE", hint=f"see banger {given.command.words} --help")
    given.parameters[parameter] = os.path.abspath(os.path.expanduser(str(given.parameters[parameter])))
    return given
