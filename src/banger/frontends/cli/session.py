"""`exec`, `shell`, `dial` and `sshd`: this process's stdin, stdout and stderr joined to a stream in a guest."""

from __future__ import annotations

import os
import sys

from banger.client import Client
from banger.frontends.cli.parse import Given
from banger.frontends.cli.pump import Pump
from banger.model.errors import BadRequest, NoCommand, NotFound

ENDED_BY_SIGNAL = 128
DOMAIN = ".vm"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from banger.frontends.cli.terminal import raw_terminal


def execute(given: Given) -> int:
    """Run a command; without -t: on pipes."""
    if not given.rest and "entrypoint" not in given.parameters:
        raise BadRequest("vm exec needs a command", hint="banger vm exec NAME -- CMD; a shell: banger vm shell NAME")
    terminal = "tty" in given.own
    if terminal and not sys.stdin.isatty():
        raise BadRequest("vm exec --tty needs a terminal on stdin", hint="leave out -t")
    stdin = "no-stdin" not in given.own
    return attach(Client(), "vm.exec", given.parameters | {"argv": given.rest}, terminal=terminal, stdin=stdin)


def shell(given: Given) -> int:
    """A login shell; on a terminal where there is one."""
    return attach(Client(), "vm.exec", given.parameters | {"argv": []}, terminal=sys.stdin.isatty() and sys.stdout.isatty())


def dial(given: Given) -> int:
    """stdin and stdout to a port in the guest."""
    return attach(Client(), "vm.dial", given.parameters, terminal=False, dial=True)


def sshd(given: Given) -> int:
    """stdin and stdout to an ssh server in the guest. ssh says `NAME.vm`."""
    name = str(given.parameters["vm"]).removesuffix(DOMAIN)
    return attach(Client(), "vm.sshd", given.parameters | {"vm": name}, terminal=False, dial=True)


def attach(client: Client, op: str, parameters: dict[str, object], *, terminal: bool, stdin: bool = True, dial: bool = False, name: str = "") -> int:
    """Open the stream and carry bytes until it ends; returns the exit status of what ran in the guest. `name` is the machine's, if `vm` is not."""
    stdin = stdin and _open(0)
    extra: dict[str, object] = {} if dial else {"stdin": stdin}
    if terminal:
        rows, columns = size_of_terminal()
        extra |= {"rows": rows, "cols": columns, "term": os.environ.get("TERM", "")}
    conversation = client.duplex(op, **(parameters | extra))
    pump = Pump(conversation, stdin=stdin, dial=dial)
    try:
        if not terminal:
            return _carry(pump, name or str(parameters.get("vm")))
        from banger.frontends.cli.terminal import raw_terminal

        with raw_terminal() as terminal_state:
            status = _carry(pump, name or str(parameters.get("vm")), terminal_state)
            terminal_state.abrupt = status >= ENDED_BY_SIGNAL
            return status
    finally:
        conversation.close()


def _carry(pump: Pump, name: str, terminal: raw_terminal | None = None) -> int:
    """Run the pump; what can be done with an image that has no shell, or not the user that it names, is the hint of the error that says so."""
    try:
        return pump.run(terminal)
    except NoCommand as error:
        if error.message.endswith("has no shell"):
            error.hint = f"a program of the image's own: banger vm exec {name} -- PROGRAM; what it runs by itself: banger vm exec --entrypoint {name}"
        raise
    except NotFound as error:
        if error.message.startswith("user "):
            error.hint = "choose another user with --user: a name that is there, or a number"
        raise


def _open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def size_of_terminal() -> tuple[int, int]:
    """Rows and columns; what a terminal that does not know its size is taken for."""
    try:
        found = os.get_terminal_size(0)
    except OSError:
        return 24, 80
    return found.lines or 24, found.columns or 80
