"""Help: composed from the commands' words and the operations' docstrings, with the examples that a newcomer, or a program, would try first."""

from __future__ import annotations

from banger.frontends.cli.commands import GROUPS, SINGLE
from banger.frontends.cli.parse import Flag, flags_of, op_of, places_of, shown_for, usage
from banger.frontends.cli.words import Command

STATUS = """Exit status: that of the guest's command (128 + N if signal N ended it), 126 if it cannot be
executed, 127 if there is no such command. banger's own failures: 120 wrong usage, 121 not found,
122 taken or in the wrong state, 123 the host lacks something, 124 the guest or its VMM failed,
125 internal, 130 cancelled.
"""
OVERVIEW = """banger: a real Linux machine in one command.

  banger vm run                     a shell in a new machine
  banger vm run --rm -- uname -a    one command in a throwaway machine; the exit status is the command's

A machine's life:
  banger vm run -d --name web       create, boot, leave it running
  banger vm exec web -- CMD         run commands in it, as often as you like
  banger vm shell web               a login shell in it
  banger vm list                    what there is
  banger vm stop web                stop; its files are kept
  banger vm start web               go on
  banger vm delete web              gone

"""


def about(command: Command) -> str:
    """One line: what the command does."""
    op = op_of(command)
    return command.about or (op.summary if op else "")


def _columns(rows: list[tuple[str, str]], indent: str = "  ") -> str:
    width = max((len(left) for left, _ in rows), default=0)
    return "".join(f"{indent}{left:{width}}  {right}".rstrip() + "\n" for left, right in rows)


def overview() -> str:
    """`banger --help`."""
    groups = [(f"banger {noun}", says) for noun, (says, _) in GROUPS.items()]
    single = [(f"banger {name}", about(command)) for name, command in SINGLE.items() if not command.hidden]
    ends = "Each has --help with examples, and --json for programs: stdout is data, stderr is talk.\n"
    return f"{OVERVIEW}Commands:\n{_columns(groups + single)}\n{ends}{STATUS}"


def of_group(noun: str) -> str:
    """`banger vm --help`."""
    says, commands = GROUPS[noun]
    rows = [(f"banger {command.words}", about(command)) for command in commands]
    examples = [(text, note) for command in commands for text, note in command.examples[:1]]
    return f"banger {noun}: {says}\n\nCommands:\n{_columns(rows)}\nExamples:\n{_columns(examples)}"


def of_command(command: Command) -> str:
    """`banger vm run --help`."""
    op = op_of(command)
    more = (op.function.__doc__ or "").partition("\n")[2].strip() if op and not command.about else ""
    parts = [f"{about(command)}\n", f"Usage: {usage(command)}\n"]
    if more:
        parts.append("\n".join(line.strip() for line in more.splitlines()) + "\n")
    places = [(shown_for(command.op, name).metavar, shown_for(command.op, name).help) for name in places_of(command)]
    if places:
        parts.append("Arguments:\n" + _columns(places))
    parts.append("Flags:\n" + _columns([(spelling(flag), describe(flag)) for flag in flags_of(command)]))
    if command.examples:
        parts.append("Examples:\n" + _columns(list(command.examples)))
    if command.aliases:
        parts.append(f"Also: {', '.join(f'banger {command.noun} {alias}' for alias in command.aliases)}\n")
    if command.rest == "CMD" or command.words == "vm shell":
        parts.append(STATUS)
    return "\n".join(parts)


def spelling(flag: Flag) -> str:
    """`-e, --env KEY=VALUE`."""
    short = f"-{flag.shown.short}, " if flag.shown.short else ""
    return f"{short}--{flag.long}" + (f" {flag.shown.metavar}" if flag.takes_value else "")


def describe(flag: Flag) -> str:
    """The flag's words, and its default where the signature has one."""
    default = f" (default: {flag.default})" if flag.takes_value and flag.default is not None else ""
    return flag.shown.help + default
