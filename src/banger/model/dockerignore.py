"""Patterns of paths: what a `.dockerignore` leaves out of a context, and which of its files a COPY means. Pure.

Both are Go's: `*` and `?` match within a name, `[a-z]` and `[^a-z]` one character of it; in a `.dockerignore` `**` matches any number of folders, `!`
takes back what earlier lines have left out, and of all lines that match a path (or a folder it is in) the last one counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from banger.model.errors import BadRequest

#: Lines of a .dockerignore, and characters of one.
MOST, LONGEST = 10_000, 4096
#: Where a name ends; a folder on the way.
END, FOLDERS = r"(?=/|\Z)", "(?:[^/]++/)"


def segment(part: str) -> str:
    """One name's pattern as a regular expression that ends where the name ends; ValueError when it is malformed.

    What stands between two stars is found where it comes first, which is as good as anywhere else: so nothing is tried twice.
    """
    chunks, at = [""], 0
    while at < len(part):
        char = part[at]
        at += 1
        if char == "*":
            chunks.append("")
        elif char == "?":
            chunks[-1] += "[^/]"
        elif char == "[":
            group, at = _group(part, at)
            chunks[-1] += group
        elif char == "\\":
            if at == len(part):
                raise ValueError("it ends with a backslash")
            chunks[-1], at = chunks[-1] + re.escape(part[at]), at + 1
        else:
            chunks[-1] += re.escape(char)
    first, *more = chunks
    if not more:
        return f"{first}{END}"
    between = "".join(f"(?>[^/]*?{chunk})" for chunk in more[:-1] if chunk)
    return f"(?>{first}{between}[^/]*{more[-1]}{END})"


def translate(pattern: str) -> str:
    """A pattern of whole paths as a regular expression; ValueError when it is malformed. Folders between two `**` are found where they come first."""
    groups: list[list[str]] = [[]]
    parts = pattern.split("/")
    for place, part in enumerate(parts, 1):
        if part.startswith("**"):
            groups.append([])
        name = part.lstrip("*") if part.startswith("**") else part
        if "**" in (name.rstrip("*") if place == len(parts) else name):
            raise ValueError("** stands for whole folders: **/name")
        if name:
            groups[-1].append(segment(name))
    first, *more = ["/".join(group) for group in groups]
    if not more:
        return first
    made = f"{first}/" if first else ""
    made += "".join(f"(?>{FOLDERS}*?{group})/" for group in more[:-1] if group)
    return made + (f"{FOLDERS}*{more[-1]}" if more[-1] else ".*")


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
    return _compiled(pattern, translate)


def compiled_name(pattern: str) -> re.Pattern[str]:
    """A pattern for one name, where two stars are as one; ValueError when it is malformed."""
    return _compiled(pattern, segment)


def _compiled(pattern: str, translated: Callable[[str], str]) -> re.Pattern[str]:
    if len(pattern) > LONGEST:
        raise ValueError(f"it has more than {LONGEST} characters")
    return re.compile(rf"(?:{translated(pattern)})\Z", re.DOTALL)


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
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        pattern = line.strip()
        if not pattern or line.startswith("#"):
            continue
        kept = pattern.startswith("!")
        pattern = "/".join(plain_parts(pattern[1:].strip() if kept else pattern))
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


def plain_parts(path: str) -> list[str]:
    """A path or pattern from its root: without `.`, `..` and slashes that mean nothing."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return parts
