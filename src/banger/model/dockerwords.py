"""The words of a Dockerfile's line: quotes, what is escaped, and variables, as a shell knows them. Pure.

`$x`, `${x}`, `${x:-y}`, `${x-y}`, `${x:+y}`, `${x+y}`, `${x:?y}` and `${x?y}`; anything else in braces is refused. A variable that is not set is empty.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9@*#?$!-]")
OPERATOR = re.compile(r":?[-+?]")
BLANK = " \t\n"
#: Expansions within expansions, so deep.
DEEPEST = 32


class WordError(ValueError):
    """What is wrong with a line, in words for its writer."""


class _Reader:
    def __init__(self, text: str, variables: Mapping[str, str], escape: str, depth: int = 0) -> None:
        self.text, self.variables, self.escape, self.depth = text, variables, escape, depth
        self.at = 0
        if depth > DEEPEST:
            raise WordError("variables within variables, too deep")

    def more(self) -> bool:
        return self.at < len(self.text)

    def word(self, stop: str) -> tuple[str, bool]:
        """Up to one of `stop` outside of quotes: the text, and whether any of it was quoted."""
        made, quoted = "", False
        while self.more() and (char := self.text[self.at]) not in stop:
            if char == "'":
                made, quoted = made + self._single(), True
            elif char == '"':
                made, quoted = made + self._double(), True
            elif char == "$":
                made += self._variable()
            elif char == self.escape:
                self.at += 1
                if self.more():
                    made, quoted = made + self.text[self.at], True
                    self.at += 1
                else:
                    made += char
            else:
                made += char
                self.at += 1
        return made, quoted

    def plain(self) -> str:
        """All of it, where quotes are characters like others: a here-document."""
        made = ""
        while self.more():
            char = self.text[self.at]
            if char == "$":
                made += self._variable()
            elif char == self.escape and self.text[self.at + 1 : self.at + 2] in ("$", self.escape):
                made += self.text[self.at + 1]
                self.at += 2
            else:
                made += char
                self.at += 1
        return made

    def _single(self) -> str:
        end = self.text.find("'", self.at + 1)
        if end < 0:
            raise WordError("a ' that does not end")
        found = self.text[self.at + 1 : end]
        self.at = end + 1
        return found

    def _double(self) -> str:
        self.at += 1
        made = ""
        while self.more():
            char = self.text[self.at]
            if char == '"':
                self.at += 1
                return made
            if char == "$":
                made += self._variable()
                continue
            if char == self.escape and self.text[self.at + 1 : self.at + 2] in ('"', "$", self.escape):
                self.at += 1
                if not self.more():
                    break
                char = self.text[self.at]
            made += char
            self.at += 1
        raise WordError('a " that does not end')

    def _variable(self) -> str:
        self.at += 1
        if self.text[self.at : self.at + 1] == "{":
            return self._braced()
        found = NAME.match(self.text, self.at)
        if found is None:
            return "$"
        self.at = found.end()
        return self.variables.get(found[0], "")

    def _braced(self) -> str:
        self.at += 1
        found = NAME.match(self.text, self.at)
        if found is None:
            raise WordError("${ without the name of a variable")
        name, self.at, began = found[0], found.end(), 0
        operator = OPERATOR.match(self.text, self.at)
        if operator is not None:
            self.at = operator.end()
            inner = _Reader(self.text, self.variables, self.escape, self.depth + 1)
            inner.at = began = self.at
            other, _ = inner.word("}")
            self.at = inner.at
        if self.text[self.at : self.at + 1] != "}":
            raise WordError(f"${{{name} does not end with }}" if not self.more() else f"${{{name}{self.text[self.at]}...}} is not supported")
        self.at += 1
        value = self.variables.get(name)
        return (value or "") if operator is None else self._choose(name, operator[0], value, other, self.text[began : self.at - 1])

    def _choose(self, name: str, operator: str, value: str | None, other: str, written: str) -> str:
        there = bool(value) if operator[0] == ":" else value is not None
        if operator[-1] == "+":
            return other if there else ""
        if not there and operator[-1] == "?":
            raise WordError(f"the variable {name} is not set: {written}")
        return (value or "") if there else other


def split(text: str, variables: Mapping[str, str], escape: str) -> list[str]:
    """The words of a line. What a variable stands for is not parted any more; a word that comes to nothing counts only if it was quoted."""
    reader, found = _Reader(text, variables, escape), []
    while reader.more():
        if text[reader.at] in BLANK:
            reader.at += 1
            continue
        word, quoted = reader.word(BLANK)
        if word or quoted:
            found.append(word)
    return found


def expand(text: str, variables: Mapping[str, str], escape: str) -> str:
    """A line as one word, blanks and all."""
    return _Reader(text, variables, escape).word("")[0]


def expand_document(text: str, variables: Mapping[str, str], escape: str) -> str:
    """A text with its variables, where quotes mean nothing: a here-document, a word of the exec form."""
    return _Reader(text, variables, escape).plain()


def pairs(text: str, variables: Mapping[str, str], escape: str) -> list[tuple[str, str]]:
    """`NAME=VALUE ...`, or the old form `NAME VALUE` with one value to the end of the line."""
    reader = _Reader(text, variables, escape)
    found: list[tuple[str, str]] = []
    while reader.more():
        if text[reader.at] in BLANK:
            reader.at += 1
            continue
        name, _ = reader.word("=" + BLANK)
        if not name:
            raise WordError("a name is missing before '='")
        if text[reader.at : reader.at + 1] != "=":
            if found or not text[reader.at :].strip():
                raise WordError(f"{name} has no value")
            value, _ = _Reader(text[reader.at :].strip(), variables, escape).word("")
            return [(name, value)]
        reader.at += 1
        value, _ = reader.word(BLANK)
        found.append((name, value))
    return found
