"""Commands that are one call: print the result; or one call for each target, at the same time, with a result of its own for each."""

from __future__ import annotations

import json
import time

from banger.client import Client
from banger.frontends.cli.output import clean, complain, data, talk
from banger.frontends.cli.parse import Given, places_of
from banger.model.errors import BadRequest, BangerError, DaemonStale, DaemonUnreachable, exit_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def call(given: Given) -> int:
    """Call the op and print what it returns."""
    client, op = Client(), given.command.op
    if given.json:
        data(client.call_raw(op, **given.parameters).decode() + "\n")
        return 0
    found = client.call(op, **given.parameters)
    if "quiet" in given.own and isinstance(found, list):
        data("".join(f"{clean(str(row['name']))}\n" for row in found))
        return 0
    from banger.frontends.cli.render import result

    data(result(op, found, time.time()))
    return 0


def stop_daemon(given: Given) -> int:
    """Stop the daemon; none is started for that, and one whose code is old steps down when it is asked anything."""
    try:
        Client(start=False).call_raw(given.command.op, **given.parameters)
    except DaemonStale:
        return 0
    except DaemonUnreachable as error:
        talk(f"note: {error}")
    if given.json:
        data("null\n")
    return 0


def logs(given: Given) -> int:
    """Print a machine's console as it comes; the daemon has made it harmless."""
    import sys

    with_json = given.json
    for line in Client().stream("vm.logs", **given.parameters):
        found = line.get("result")
        if isinstance(found, dict):
            data(json.dumps(found) + "\n" if with_json else str(found.get("text", "")))
            sys.stdout.flush()
    return 0


def prune(given: Given) -> int:
    """Delete what does not run, after asking on a terminal or with --force."""
    if not confirmed(given, "Delete all machines that are not running?"):
        return 0
    raw = Client().call_raw("vm.prune")
    if given.json:
        data(raw.decode() + "\n")
    found = json.loads(raw)
    failed = [row for row in found if not row["ok"]]
    if not given.json:
        data("".join(f"{clean(row['target'])}\n" for row in found if row["ok"]))
        for row in failed:
            complain(error_of(row["failure"]), subject=row["target"])
    return exit_status(str((failed[0]["failure"] or {}).get("code"))) if failed else 0


def confirmed(given: Given, question: str) -> bool:
    """Whether to go on: --force, or a yes on a terminal; BadRequest where there is none to ask on."""
    import sys

    if "force" in given.own:
        return True
    if not sys.stdin.isatty():
        words = given.command.words
        raise BadRequest(f"{words} asks before it deletes, and there is no terminal to ask on", hint=f"banger {words} --force")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def error_of(failure: object) -> BangerError:
    """What a row of several says went wrong."""
    from banger.client import answer

    return answer.error_of(failure)


class _Outcome:
    """What became of one target."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.result: object = None
        self.error: BangerError | None = None

    def row(self) -> dict[str, object]:
        """For --json."""
        found: dict[str, object] = {"target": self.target, "ok": self.error is None}
        if self.error is not None:
            return found | {"failure": {"code": self.error.code, "message": str(self.error), "hint": self.error.hint}}
        return found | {"result": self.result}


def each(given: Given) -> int:
    """Call the op for each target. One: its result, or its error. Several: all at once; the exit status is the first failure's."""
    place = places_of(given.command)[0]
    targets = given.targets or [str(given.parameters.pop(place))]
    if len(targets) == 1:
        _alone(given, place, targets[0])
        return 0
    outcomes = [_Outcome(target) for target in _folded(given, targets)]
    _together([_work(outcome, given, place) for outcome in outcomes])
    if given.json:
        data(json.dumps([outcome.row() for outcome in outcomes]) + "\n")
    for outcome in outcomes:
        if outcome.error is not None:
            complain(outcome.error, json_lines=given.json, subject=outcome.target)
        elif not given.json:
            data(f"{_name(outcome.result, outcome.target)}\n")
    failed = [outcome.error for outcome in outcomes if outcome.error is not None]
    return exit_status(failed[0].code) if failed else 0


def one(given: Given) -> object:
    """Call the op for its one target, and print that; its result."""
    place = places_of(given.command)[0]
    return _alone(given, place, str(given.parameters.pop(place)))


def _alone(given: Given, place: str, target: str) -> object:
    found = _one(Client(), given, place, target)
    data(json.dumps(found) + "\n" if given.json else f"{_name(found, target)}\n")
    return found


def _name(found: object, target: str) -> str:
    return clean(str(found.get("name", target))) if isinstance(found, dict) else clean(target)


def _one(client: Client, given: Given, place: str, target: str) -> object:
    op = given.command.op
    parameters = given.parameters | {place: target}
    if not _streams(op):
        return client.call(op, **parameters)
    from banger.frontends.cli.progress import Patience, Progress, follow

    several = len(given.targets) > 1
    progress = Progress(f"{given.command.words} {target}", json_lines=given.json, target=target if several else "")
    patience = Patience(hold=not several)
    lines = client.stream(op, **parameters)
    try:
        return follow(client, lines, progress, patience)
    finally:
        lines.close()


def _streams(name: str) -> bool:
    from banger.ops import ops_of

    return ops_of(name.partition(".")[0])[name].result.startswith("AsyncIterator[")


def _work(outcome: _Outcome, given: Given, place: str) -> Callable[[], None]:
    def work() -> None:
        try:
            outcome.result = _one(Client(), given, place, outcome.target)
        except BangerError as error:
            outcome.error = error

    return work


def _together(works: list[Callable[[], None]]) -> None:
    """Run all at the same time, in threads that end with the process: after Ctrl-C nobody waits for them."""
    from threading import Thread

    threads = [Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _folded(given: Given, targets: list[str]) -> list[str]:
    """The targets in the order first seen, one for each machine; names and ids of the same machine are recognised from one list."""
    if not given.command.op.startswith("vm."):
        return targets
    rows = Client().call("vm.list")
    seen: dict[str, str] = {}
    for target in targets:
        fits = {str(row["id"]) for row in rows if target in (row["name"], row["id"])} if isinstance(rows, list) else set()
        if not fits and isinstance(rows, list) and len(target) > 2:
            fits = {str(row["id"]) for row in rows if str(row["id"]).startswith(target)}
        key = fits.pop() if len(fits) == 1 else target
        if key in seen:
            talk(f"note: {clean(target)} is {clean(seen[key])}, named before")
        seen.setdefault(key, target)
    return list(seen.values())
