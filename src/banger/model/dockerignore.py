"""Patterns of paths: what a `.dockerignore` leaves out of a context, and which of its files a COPY means. Pure.

Both are Go's: `*` and `?` match within a name, `[a-z]` and `[^a-z]` one character of it; in a `.dockerignore` `**` matches any number of folders, `!`
takes back what earlier lines have left out, and of all lines that match a path (or a folder it is in) the last one counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from banger.model.errors import BadRequest

#: Lines of a .dockerignore.
MOST = 10_000


def translate(pattern: str) -> str:
    """A pattern as a regular expression for whole paths; ValueError when it is malformed."""
    made, at = "", 0
    while at < len(pattern):
        char = pattern[at]
        if pattern.startswith("**", at):
            at += 2
            if pattern.startswith("/", at):
                made, at = made + "(?:.*/)?", at + 1
            else:
                made += ".*"
            continue
        at += 1
        if char == "*":
            made += "[^/]*"
        elif char == "?":
            made += "[^/]"
        elif char == "[":
            group, at = _group(pattern, at)
            made += group
        elif char == "\\":
            if at == len(pattern):
                raise ValueError("it ends with a backslash")
            made, at = made + re.escape(pattern[at]), at + 1
        else:
            made += re.escape(char)
    return made


def _group(pattern: str, at: int) -> tuple[str, int]:
    """The characters of a `[...]`, and where it has ended."""
    negated = pattern.startswith("^", at)
    at += negated
    made, first = "", True
    while first or not pattern.startswith("]", at):
        low, at = _character(pattern, at)
        high = low
        if pattern.startswith("-", at):
            high, at = _character(pattern, at + 1)
        if high < low:
            raise ValueError(f"{low}-{high} is no range")
        made, first = made + re.escape(low) + "-" + re.escape(high), False
    return f"(?!/)[{'^' if negated else ''}{made}]", at + 1


def _character(pattern: str, at: int) -> tuple[str, int]:
    if pattern.startswith("\\", at):
        at += 1
    elif pattern[at : at + 1] in ("-", "]"):
        raise ValueError("a [ that does not end")
    if at >= len(pattern):
        raise ValueError("a [ that does not end")
    return pattern[at], at + 1


def compiled(pattern: str) -> re.Pattern[str]:
    """A pattern for whole paths; ValueError when it is malformed."""
    return re.compile(rf"(?:{translate(pattern)})\Z", re.DOTALL)


class Ignored:
    """What a `.dockerignore` says."""

    def __init__(self, lines: Sequence[tuple[re.Pattern[str], bool]] = ()) -> None:
        self.lines = list(lines)
        #: Whether something in a folder that is left out may stay.
        self.exceptions = any(kept for _, kept in self.lines)

    def __call__(self, path: str) -> bool:
        """Whether a path (from the context, with '/') is left out."""
        parts = path.split("/")
        ways = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
        for pattern, kept in reversed(self.lines):
            if any(pattern.match(way) for way in ways):
                return not kept
        return False


def parse_ignored(text: str, *, file: str) -> Ignored:
    """A `.dockerignore`; BadRequest names file and line of a pattern that is malformed."""
    lines = []
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        pattern = line.strip()
        if not pattern or line.startswith("#"):
            continue
        kept = pattern.startswith("!")
        pattern = _plain(pattern[1:].strip() if kept else pattern)
        if kept and not pattern:
            raise BadRequest(f"{file}:{number}: '!' without a pattern")
        if not pattern:
            continue
        try:
            lines.append((compiled(pattern), kept))
        except (ValueError, re.error) as error:
            raise BadRequest(f"{file}:{number}: {pattern[:100]!r} is no pattern: {error}") from None
        if len(lines) > MOST:
            raise BadRequest(f"{file}:{number}: more than {MOST} patterns")
    return Ignored(lines)


def _plain(pattern: str) -> str:
    """Without `.`, `..` and slashes that mean nothing."""
    parts: list[str] = []
    for part in pattern.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)
