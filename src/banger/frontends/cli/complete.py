"""Completion: scripts for three shells that all ask `banger __complete WORD…`, and the answer, with the names of living things.

Silent when the daemon is down, and never file names: what is offered can be meant.
"""

from __future__ import annotations

from banger.frontends.cli.commands import GROUPS, SINGLE
from banger.frontends.cli.output import clean, data
from banger.frontends.cli.parse import Flag, Given, flags_of, lookup, near, places_of, shown_for
from banger.frontends.cli.words import Command
from banger.model.errors import BadRequest, BangerError

LIVE_SECONDS = 1.0
BASH = """_banger() {
    local IFS=$'\\n'
    COMPREPLY=($(banger __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null | cut -f1))
}
complete -F _banger banger
"""
ZSH = """#compdef banger
_banger() {
    local -a found
    local line
    while IFS=$'\\t' read -r line note; do
        found+=("${line//:/\\\\:}${note:+:$note}")
    done < <(banger __complete "${(@)words[2,CURRENT]}" 2>/dev/null)
    (( ${#found} )) && _describe -V banger found
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
compdef _banger banger
"""
FISH = """function __banger_complete
    set -l words (commandline -opc) (commandline -ct)
    banger __complete $words[2..-1] 2>/dev/null
end
complete -c banger -f -a '(__banger_complete)'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def script(given: Given) -> int:
    """Print the script for a shell."""
    if len(given.rest) != 1 or given.rest[0] not in SCRIPTS:
        word = given.rest[0] if given.rest else ""
        raise BadRequest(f"there is no completion for {word!r}", hint=near(word, list(SCRIPTS)) or "banger completion bash, zsh or fish")
    data(SCRIPTS[given.rest[0]])
    return 0


def candidates(words: list[str]) -> int:
    """Print what could stand for the last of the words, a line each: the word, a tab, a note."""
    words = _rejoined(words or [""])
    try:
        found = offered(words[:-1], words[-1])
    except BangerError:
        return 0  # completion never talks
    data("".join(f"{word}\t{note}\n" if note else f"{word}\n" for word, note in found if word.startswith(words[-1])))
    return 0


def _rejoined(words: list[str]) -> list[str]:
    """bash hands over `--flag=value` as three words, of which only the last is replaced: as if a space stood for the sign."""
    if words[-1] == "=" and len(words) > 1:
        return [*words[:-1], ""]
    return [*words[:-2], words[-1]] if words[-2:-1] == ["="] else words


def offered(before: list[str], word: str) -> list[tuple[str, str]]:
    """Everything that may follow `before`."""
    from banger.frontends.cli.help import about

    if not before:
        groups = [(noun, says) for noun, (says, _) in GROUPS.items()]
        return groups + [(name, about(command)) for name, command in SINGLE.items() if not command.hidden]
    if before[0] in GROUPS and len(before) == 1:
        return [(command.verb, about(command)) for command in GROUPS[before[0]][1]]
    command, rest = lookup(before)
    return [] if command is None or "--" in rest else _within(command, rest, word)


def _within(command: Command, rest: list[str], word: str) -> list[tuple[str, str]]:
    flags = flags_of(command)
    last = rest[-1] if rest else ""
    for flag in flags:
        if flag.takes_value and last in (f"--{flag.long}", f"-{flag.shown.short}"):
            return _values(flag.shown.choices, flag.shown.live)
        if flag.takes_value and word.startswith(f"--{flag.long}="):
            return [(f"--{flag.long}={value}", note) for value, note in _values(flag.shown.choices, flag.shown.live)]
    if word.startswith("-"):
        return [(f"--{flag.long}", flag.shown.help) for flag in flags]
    if command.rest == "SHELL":
        return [(shell, "") for shell in SCRIPTS]
    placed, places = _placed(rest, flags), places_of(command)
    if places and (command.many or len(placed) < len(places)):
        place = places[0 if command.many else len(placed)]
        found = _values((), shown_for(command.op, place).live)
        return [(name, note) for name, note in found if name not in placed]
    return []


def _placed(words: list[str], flags: list[Flag]) -> list[str]:
    takers = {spelt for flag in flags if flag.takes_value for spelt in (f"--{flag.long}", f"-{flag.shown.short}")}
    return [word for before, word in zip(["", *words], words, strict=False) if not word.startswith("-") and before not in takers]


def _values(choices: tuple[str, ...], live: str) -> list[tuple[str, str]]:
    if not live:
        return [(choice, "") for choice in choices]
    from banger.client import Client

    op, _, switch = live.partition("?")
    rows = Client(start=False, seconds=LIVE_SECONDS).call(op, **({switch: True} if switch else {}))
    return [(clean(str(row["name"])), _note(row)) for row in rows] if isinstance(rows, list) else []


def _note(row: dict[str, object]) -> str:
    return clean(str(row.get("state") or row.get("description") or ""))
