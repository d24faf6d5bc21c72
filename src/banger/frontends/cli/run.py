"""`vm run` and `vm create`: a machine, and what is to happen in it.

What the image runs is started with the machine, unless a shell or a command is asked for instead; in the foreground it is run on this terminal the
first time. Variables, folder and user that are given for it are the machine's.

With --rm the stream of the creation stays open while the machine is used: however this process ends, the daemon then deletes the machine. On the
ordinary ways out it is deleted here first, so that the command ends when it is gone.
"""

from __future__ import annotations

import json
import sys

from banger.client import Client
from banger.client.answer import Lines
from banger.frontends.cli.ending import end_by_signal
from banger.frontends.cli.output import clean, complain, data, fold, talk
from banger.frontends.cli.parse import Given
from banger.frontends.cli.progress import Patience, Progress, follow
from banger.frontends.cli.session import attach
from banger.model.errors import BadRequest, BangerError, Corrupt, DaemonUnreachable, NotFound

LEAVE_SECONDS = 10.0


def create(given: Given) -> int:
    """Create a machine and print its name."""
    end_by_signal()
    client, patience = Client(), Patience()
    lines = client.stream("vm.create", **given.parameters)
    try:
        _print(given, follow(client, lines, Progress("vm create", json_lines=given.json), patience))
    finally:
        lines.close()
    return 0


def _print(given: Given, found: object) -> None:
    name = str(found.get("name")) if isinstance(found, dict) else ""
    data(json.dumps(found) + "\n" if given.json else f"{clean(name)}\n")


def run(given: Given) -> int:
    """Create a machine; run a command, or a shell, or nothing in it."""
    detach, bound = "detach" in given.own, given.parameters.get("rm") is True
    _refuse(given, detach=detach, bound=bound)
    wanted = _wanted(given)
    end_by_signal()
    client, patience = Client(), Patience()
    lines = client.stream("vm.create", **given.parameters, **_own_command(given, wanted, detach=detach))
    machine: dict[str, object] = {}
    try:
        machine = _created(client, lines, given, patience)
        if not bound:
            lines.close()
        if detach:
            _print(given, machine)
            return 0
        if given.json:
            talk(json.dumps({"result": machine}))
        return _use(client, machine, wanted)
    finally:
        _leave(client, lines, machine, given, bound=bound)


def _refuse(given: Given, *, detach: bool, bound: bool) -> None:
    if detach and given.rest:
        raise BadRequest("vm run --detach runs no command", hint="banger vm run -d --name NAME, then banger vm exec NAME -- CMD")
    if detach and bound:
        raise BadRequest("--detach and --rm exclude each other: the machine would be deleted at once", hint="leave out one of them")
    if given.separated and not given.rest:
        raise BadRequest("there is no command after --", hint="leave out the -- for what the image runs by itself")
    if "shell" in given.own and (given.rest or detach):
        raise BadRequest(f"--shell and {'--detach' if detach else 'a command'} exclude each other", hint="leave out one of them")


def _created(client: Client, lines: Lines, given: Given, patience: Patience) -> dict[str, object]:
    found = follow(client, lines, Progress("vm run", json_lines=given.json), patience)
    if not isinstance(found, dict):
        raise Corrupt("the daemon's description of the machine cannot be read")
    return found


def _wanted(given: Given) -> dict[str, object]:
    """What `vm.exec` is asked for, but for the machine."""
    env: dict[str, str] = {}
    for pair in given.values.get("env", []):
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise BadRequest(f"--env {pair!r} is not KEY=VALUE")
        env[key] = value
    last = {name: values[-1] for name, values in given.values.items()}
    entrypoint = not given.rest and "shell" not in given.own and given.parameters.get("entrypoint") is not False
    return {"argv": given.rest, "entrypoint": entrypoint, "env": env, "cwd": last.get("workdir"), "user": last.get("user")}


def _own_command(given: Given, wanted: dict[str, object], *, detach: bool) -> dict[str, object]:
    """What the creation is told of what the image runs by itself. Given twice (to it and to `vm.exec`), variables are the same."""
    if not (detach or wanted["entrypoint"]):
        return {} if "entrypoint" in given.parameters else {"entrypoint": False}
    return {"attended": not detach, **{name: wanted[name] for name in ("env", "cwd", "user")}}


def _use(client: Client, machine: dict[str, object], wanted: dict[str, object]) -> int:
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    return attach(client, "vm.exec", {"vm": machine["id"], **wanted}, terminal=terminal, name=str(machine.get("name")))


def _leave(client: Client, lines: Lines, machine: dict[str, object], given: Given, *, bound: bool) -> None:
    """Delete a machine that was to be deleted, or say how to get back to one that is kept. A daemon that has died meanwhile is started for it."""
    last = Client(client.path, seconds=LEAVE_SECONDS)
    try:
        if machine and bound:
            _ask(last, "vm.delete", machine)
        elif machine and not given.json:
            _remind(_ask(last, "vm.show", machine))
    except NotFound:
        return  # it has gone already
    except BangerError as error:
        complain(error, json_lines=given.json, subject=f"{machine.get('name')} {'may not have been deleted' if bound else 'was to be kept'}")
    finally:
        lines.close()


def _ask(client: Client, op: str, machine: dict[str, object]) -> object:
    """Call an op that may be called twice: a daemon that dies just now is followed by one that answers."""
    try:
        return client.call(op, vm=machine["id"])
    except DaemonUnreachable:
        return client.call(op, vm=machine["id"])


def _remind(machine: object) -> None:
    name, state = (clean(str(machine.get(key))) for key in ("name", "state")) if isinstance(machine, dict) else ("", "")
    if state == "running":
        talk(fold(f"{name} is running. Back in: banger vm shell {name} · stop: banger vm stop {name} · delete: banger vm delete {name}"))
    else:
        talk(fold(f"{name} is {state}. Start it: banger vm start {name} · delete: banger vm delete {name}"))
