"""The reference page: every command, flag, error and setting, from where they are declared. `docs/guide/reference.md` is this, as a test sees to."""

from __future__ import annotations

from banger.frontends.cli.commands import GROUPS, SINGLE
from banger.frontends.cli.help import STATUS, about, describe, spelling
from banger.frontends.cli.output import data
from banger.frontends.cli.parse import Given, flags_of, places_of, shown_for, usage
from banger.frontends.cli.words import Command
from banger.model.errors import CODES, every_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from banger.ops import Op

HEAD = """# Reference

Made by `banger reference` from the declarations in the code; do not edit.

stdout is data, stderr is talk. `--json` on a command prints the daemon's answer unchanged on stdout; errors, and the progress of what takes long,
are then JSON objects on stderr, one a line: `{"error": …}`, `{"event": …}`. NO_COLOR is honoured; colour never carries meaning.
"""


def write(given: Given) -> int:
    """Print the page."""
    data(page())
    return 0


def page() -> str:
    """The page's text."""
    parts = [HEAD]
    for noun, (says, commands) in GROUPS.items():
        parts.append(f"## banger {noun}\n\n{says[0].upper()}{says[1:]}.\n")
        parts += [_command(command) for command in commands]
    parts.append("## Other commands\n")
    parts += [_command(command) for command in SINGLE.values() if not command.hidden]
    return "\n".join([*parts, _errors(), _settings(), _routes()])


def _command(command: Command) -> str:
    lines = [f"### banger {command.words}\n", f"{about(command)}\n", f"    {usage(command)}\n"]
    rows = [(f"`{shown_for(command.op, name).metavar}`", shown_for(command.op, name).help) for name in places_of(command)]
    rows += [(f"`{spelling(flag)}`", describe(flag)) for flag in flags_of(command) if flag.long != "help"]
    lines.append(_table(("argument or flag", "meaning"), rows))
    if command.examples:
        lines.append("```console\n" + "".join(f"$ {text}" + (f"    # {note}" if note else "") + "\n" for text, note in command.examples) + "```\n")
    if command.aliases:
        lines.append(f"Also: {', '.join(f'`banger {command.noun} {alias}`' for alias in command.aliases)}.\n")
    return "\n".join(lines)


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _errors() -> str:
    classes = every_error()
    meaning = {code: (kind.__doc__ or "").strip() for code, kind in classes.items()}
    meaning["internal"] = "Nobody foresaw this; the daemon's log has the details."
    rows = [(f"`{code}`", meaning[code], str(http), str(status)) for code, (http, status) in CODES.items()]
    return f"## Errors and exit status\n\n{STATUS}\n" + _table(("code", "meaning", "HTTP", "exit status"), rows)


def _settings() -> str:
    import msgspec

    from banger.model.config import Settings

    rows: list[tuple[str, ...]] = []
    properties = msgspec.json.schema_components([Settings])[1]["Settings"]["properties"]
    for name, schema in properties.items():
        rows.append((f"`{name}`", f"`BANGER_{name.upper()}`", f"`{schema.get('default')!r}`", schema.get("description", "")))
    words = "In `config.toml`, or as a variable in the environment of the command that starts the daemon; the variable wins.\n"
    return f"## Settings\n\n{words}\n" + _table(("key", "variable", "default", "meaning"), rows)


def _place(op: Op) -> int:
    nouns = [*GROUPS, "ssh", "doctor"]
    return nouns.index(op.name.partition(".")[0])


def _routes() -> str:
    from banger.ops import every_op

    rows = [(f"`{op.name}`", f"`{op.method} {op.path}`", op.result.replace("|", "or"), op.summary) for op in sorted(every_op().values(), key=_place)]
    words = (
        "The daemon speaks HTTP over its Unix socket; `GET /openapi.json` describes it. Results are JSON, lines of JSON (`AsyncIterator`), or a\n"
        "connection upgraded to `banger-wire` (`Duplex`), which carries the frames of docs/wire.md with stream 1 and tag 1.\n"
    )
    return f"## HTTP\n\n{words}\n" + _table(("operation", "route", "result", "what it does"), rows)
