"""Words to a command and its parameters: what argparse does, for just the command at hand, at a fraction of its cost, and with errors that suggest.

Pure. A `--` ends the flags; flags may stand before, between and after places; where a command takes a rest, the rest begins at `--` or, when it has
places, at the first word after them.
"""

from __future__ import annotations

from banger.frontends.cli.commands import GROUPS, SINGLE
from banger.frontends.cli.words import PARAMETERS, Command, Own, Shown
from banger.model.errors import BadRequest
from banger.model.sizes import parse_size
from banger.ops import Op, ops_of


def lookup(words: list[str]) -> tuple[Command | None, list[str]]:
    """The command that the words begin with (None: a group alone), and the words after it."""
    noun = words[0]
    if noun in SINGLE:
        return SINGLE[noun], words[1:]
    if noun not in GROUPS:
        raise _unknown(noun, [*GROUPS, *(name for name, one in SINGLE.items() if not one.hidden), "help"], "banger --help")
    if len(words) == 1 or words[1] in ("-h", "--help", "help"):
        return None, []
    long = find(noun, " ".join(words[1:3]))
    if long is not None and len(words) > 2:
        return long, words[3:]
    found = find(noun, words[1])
    if found is None:
        raise _unknown(words[1], [command.verb for command in GROUPS[noun][1]], f"banger {noun} --help", f"{noun} ")
    return found, words[2:]


def _unknown(word: str, words: list[str], help: str, prefix: str = "") -> BadRequest:
    return BadRequest(f"there is no command {prefix}{word}", hint=near(word, words) or f"see {help}")


def find(noun: str, verb: str) -> Command | None:
    """A group's command by its verb or an alias of it."""
    for command in GROUPS[noun][1]:
        if verb == command.verb or verb in command.aliases:
            return command
    return None


class Flag:
    """One flag of a command. `kind`: switch, off (a switch that says no), int, size, pairs or text."""

    __slots__ = ("default", "kind", "long", "own", "parameter", "shown")

    def __init__(self, parameter: str, long: str, kind: str, shown: Shown, *, default: object = None, own: bool = False) -> None:
        self.parameter, self.long, self.kind, self.shown, self.default, self.own = parameter, long, kind, shown, default, own

    @property
    def takes_value(self) -> bool:
        """Whether a value follows."""
        return self.kind not in ("switch", "off")


class Given:
    """What the words said: parameters for the op, the command line's own switches and values, targets (of a command for many), and the rest."""

    __slots__ = ("command", "own", "parameters", "rest", "separated", "targets", "values")

    def __init__(self, command: Command) -> None:
        self.command = command
        self.parameters: dict[str, object] = {}
        self.own: set[str] = set()
        self.values: dict[str, list[str]] = {}
        self.targets: list[str] = []
        self.rest: list[str] = []
        self.separated = False

    @property
    def json(self) -> bool:
        """Whether --json was given."""
        return "json" in self.own


def shown_for(op: str, parameter: str) -> Shown:
    """The words for an op's parameter."""
    return PARAMETERS.get(f"{op}.{parameter}") or PARAMETERS[parameter]


def op_of(command: Command) -> Op | None:
    """The operation behind a command."""
    return ops_of(command.op.partition(".")[0])[command.op] if command.op else None


def places_of(command: Command) -> tuple[str, ...]:
    """The parameters that are given without a flag: those in the op's path, unless the command says otherwise."""
    op = op_of(command)
    if command.places or op is None:
        return command.places
    return tuple(name for name in op.parameters if f"{{{name}}}" in op.path)


JSON = Own("json", "", "print the result as JSON; errors and progress are JSON lines on stderr")
HELP = Own("help", "h", "print this help")


def flags_of(command: Command) -> list[Flag]:
    """All flags of a command, the op's first."""
    op, places = op_of(command), places_of(command)
    flags: list[Flag] = []
    for name, annotation in op.parameters.items() if op else ():
        if name not in places and name not in command.hide:
            assert op is not None
            flags += _flags(name, annotation, shown_for(op.name, name), op.defaults.get(name))
    own = [*command.own, HELP] if command.handler in ("complete:script", "reference:write") else [*command.own, JSON, HELP]
    return flags + [
        Flag(one.long, one.long, "text" if one.metavar else "switch", Shown(one.help, one.metavar, short=one.short), own=True) for one in own
    ]


def _flags(name: str, annotation: str, shown: Shown, default: object) -> list[Flag]:
    """One flag; two for what can be yes, no, or not said."""
    plain = annotation.removesuffix(" | None")
    long = shown.name or name.replace("_", "-")
    if annotation == "bool | None":
        return [Flag(name, long, "switch", shown), Flag(name, f"no-{long}", "off", Shown(f"the contrary of --{long}"))]
    if plain == "bool":
        return [Flag(name, f"no-{long}" if default else long, "off" if default else "switch", shown, default=default)]
    kind = "pairs" if plain.startswith("dict[") else "size" if shown.unit else plain if plain == "int" else "text"
    return [Flag(name, long, kind, shown, default=default)]


#: What follows the places of commands whose rest is not a command of the guest's.
MORE = {"SSH": " [SSH OPTIONS…] [-- CMD…]", "FILE": " [FILE]", "CATALOG": " [CATALOG…]"}


def usage(command: Command) -> str:
    """`banger vm stop NAME…`."""
    places = [shown_for(command.op, name).metavar for name in places_of(command)]
    if command.many and places:
        places[0] += "…"
    rest = {"": "", "SHELL": " bash|zsh|fish", "CMD": " [-- CMD…]" if command.verb == "run" else " -- CMD…"} | MORE
    return " ".join(["banger", command.words, *(["[FLAGS]"]), *places]) + rest[command.rest]


def near(word: str, words: list[str]) -> str:
    """A hint with the words that look like `word`, or nothing."""
    from difflib import get_close_matches  # only after a mistake

    found = get_close_matches(word, words, 3)
    return f"did you mean {' or '.join(found)}?" if found else ""


def parse(command: Command, words: list[str]) -> Given:
    """What `words` (all after the command) say; BadRequest with a hint when they cannot be meant."""
    return _Parser(command).run(words)


class _Parser:
    def __init__(self, command: Command) -> None:
        self.command, self.given = command, Given(command)
        self.flags = flags_of(command)
        self.by_long = {flag.long: flag for flag in self.flags}
        self.by_short = {flag.shown.short: flag for flag in self.flags if flag.shown.short}
        self.placed: list[str] = []
        self.places = places_of(command)

    def run(self, words: list[str]) -> Given:
        todo = list(reversed(words))
        while todo:
            word = todo.pop()
            if self._another_programs(word):
                self.given.rest = [word, *reversed(todo)]
                break
            if word == "--":
                self._separated(list(reversed(todo)))
                break
            if word.startswith("--"):
                self._long(word[2:], todo)
            elif word.startswith("-") and len(word) > 1:
                self._short(word[1:], todo)
            elif self._rest_begins():
                self.given.rest = [word, *reversed(todo)]
                break
            else:
                self.placed.append(word)
                if self.command.rest == "CMD" and len(self.placed) > len(self.places):
                    break  # the flags that follow are the command's, which is in the wrong place
        if "help" not in self.given.own:
            self._place()
        return self.given

    def _another_programs(self, word: str) -> bool:
        """ssh's own words begin after the name, with all that are not ours; it knows what `--` is, too."""
        if self.command.rest != "SSH" or len(self.placed) < len(self.places):
            return False
        return not word.startswith("--") or word[2:].partition("=")[0] not in self.by_long

    def _rest_begins(self) -> bool:
        return bool(self.command.rest) and bool(self.places) and len(self.placed) == len(self.places)

    def _separated(self, words: list[str]) -> None:
        self.given.separated = True
        if self.command.rest:
            self.given.rest = words
        else:
            self.placed += words

    def _long(self, text: str, todo: list[str]) -> None:
        name, equals, value = text.partition("=")
        flag = self.by_long.get(name)
        if flag is None:
            raise self._wrong(f"{self.command.words} has no flag --{name}", near(f"--{name}", [f"--{long}" for long in self.by_long]))
        if equals and not flag.takes_value:
            raise self._wrong(f"--{name} takes no value")
        self._set(flag, value if equals else None, todo, f"--{name}")

    def _short(self, text: str, todo: list[str]) -> None:
        while text:
            flag = self.by_short.get(text[0])
            if flag is None:
                raise self._wrong(f"{self.command.words} has no flag -{text[0]}")
            rest, text = text[1:], text[1:]
            if flag.takes_value:
                self._set(flag, rest.removeprefix("=") or None, todo, f"-{flag.shown.short}")
                return
            self._set(flag, None, todo, f"-{flag.shown.short}")

    def _set(self, flag: Flag, value: str | None, todo: list[str], spelt: str) -> None:
        if not flag.takes_value and flag.own:
            self.given.own.add(flag.long)
        elif not flag.takes_value:
            self.given.parameters[flag.parameter] = flag.kind == "switch"
        else:
            if value is None and not todo:
                raise self._wrong(f"{spelt} needs a value: {flag.shown.metavar}")
            self._value(flag, todo.pop() if value is None else value, spelt)

    def _value(self, flag: Flag, text: str, spelt: str) -> None:
        if flag.own:
            self.given.values.setdefault(flag.long, []).append(text)
        elif flag.kind == "pairs":
            key, equals, value = text.partition("=")
            if not equals or not key:
                raise self._wrong(f"{spelt} {text!r} is not {flag.shown.metavar}")
            pairs = self.given.parameters.setdefault(flag.parameter, {})
            assert isinstance(pairs, dict)
            pairs[key] = value
        else:
            self.given.parameters[flag.parameter] = self._scalar(flag, text, spelt)

    def _scalar(self, flag: Flag, text: str, spelt: str) -> object:
        if flag.kind == "int":
            return self._integer(text, spelt)
        if flag.kind == "size":
            return self._size(flag, text, spelt)
        return text

    def _integer(self, text: str, what: str) -> int:
        if not text.removeprefix("-").isdecimal() or not text.isascii() or len(text) > 18:
            raise self._wrong(f"{what} {text!r} is not a whole number")
        return int(text)

    def _size(self, flag: Flag, text: str, spelt: str) -> int:
        try:
            size = parse_size(text, bare=flag.shown.unit) // flag.shown.unit
        except BadRequest as error:
            raise self._wrong(f"{spelt}: {error.message}", error.hint) from None
        if size < 1:
            raise self._wrong(f"{spelt} {text!r} is too small")
        return size

    def _place(self) -> None:
        names, given = list(self.places), self.given
        wanted = [shown_for(self.command.op, name).metavar for name in names]
        if len(self.placed) < len(names):
            raise self._wrong(f"{self.command.words} needs {wanted[len(self.placed)]}")
        if self.command.many:
            given.targets = list(dict.fromkeys(self.placed))
            return
        if self.command.rest in ("SHELL", "FILE", "CATALOG"):
            given.rest, self.placed = self.placed + given.rest, []
        if len(self.placed) > len(names):
            hint = "write the command after --" if self.command.rest else ""
            raise self._wrong(f"{self.command.words}: {self.placed[len(names)]!r} is one word too many", hint)
        op = op_of(self.command)
        for name, word in zip(names, self.placed, strict=True):
            assert op is not None
            given.parameters[name] = self._integer(word, name) if op.parameters[name] == "int" else word

    def _wrong(self, message: str, hint: str = "") -> BadRequest:
        return BadRequest(message, hint=hint or f"usage: {usage(self.command)}; see banger {self.command.words} --help")
