"""Dockerfiles: text to instructions, each with its line. What is not of the common subset is refused with file and line. Pure.

Comments, the directive `escape`, lines that go on, flags and here-documents are taken as BuildKit's documentation of the Dockerfile describes them.
What the instructions amount to is worked out by model/recipe.py, once the image that they start from is known.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

import msgspec

from banger.model.errors import BadRequest

#: Bytes of a Dockerfile.
LONGEST = 1 << 20
FLAGS = {"FROM": {"platform"}, "COPY": {"chown", "chmod", "link"}, "ADD": {"chown", "chmod", "link"}}
KNOWN = (
    *("FROM", "ARG", "RUN", "COPY", "ADD", "ENV", "WORKDIR", "USER", "ENTRYPOINT", "CMD", "SHELL"),
    *("LABEL", "EXPOSE", "STOPSIGNAL", "MAINTAINER"),
)
#: What takes here-documents.
TAKES_DOCUMENTS = ("RUN", "COPY", "ADD")
DIRECTIVE = re.compile(r"#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.*?)\s*\Z")
DOCUMENT = re.compile(r"(\d*)<<(-?)(['\"]?)([A-Za-z_][A-Za-z0-9_.-]*)\3\Z")
FLAG = re.compile(r"--([a-z][a-z-]*)(?:=(.*))?\Z", re.DOTALL)


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A here-document: its word as it stands in the line (`<<-"EOF"`), its name, its text, and whether variables in it count."""

    word: str
    name: str
    text: str
    expand: bool


class Instruction(msgspec.Struct, frozen=True, kw_only=True):
    """One instruction: `text` is what follows its name and flags, lines joined; `line` is where it begins, from 1."""

    name: str
    line: int
    text: str
    flags: dict[str, str] = {}
    documents: tuple[Document, ...] = ()

    @property
    def words(self) -> tuple[str, ...] | None:
        """The words of the exec form, a JSON list of texts; None for the shell form."""
        if not self.text.startswith("["):
            return None
        try:
            found = json.loads(self.text)
        except (ValueError, RecursionError):
            return None
        return tuple(found) if isinstance(found, list) and all(isinstance(word, str) for word in found) else None

    @property
    def shown(self) -> str:
        """It as people know it again, in one line; variables stand as they are written."""
        line = " ".join(f"{self.name} {self.text}".split())
        return line if len(line) <= 120 else line[:117] + "..."


class Dockerfile(msgspec.Struct, frozen=True, kw_only=True):
    """A whole file: its name for people, the character that quotes, the ARGs before FROM, FROM itself, and what follows it."""

    file: str
    escape: str
    globals: tuple[Instruction, ...]
    start: Instruction
    body: tuple[Instruction, ...]

    def wrong(self, line: int, message: str, *, hint: str = "") -> BadRequest:
        """The error that names file and line."""
        return BadRequest(f"{self.file}:{line}: {message}", hint=hint)


def parse(text: str, *, file: str) -> Dockerfile:
    """The instructions of a Dockerfile; BadRequest names `file` and the line of whatever is not understood or not supported."""
    if len(text) > LONGEST:
        raise BadRequest(f"{file} has more than {LONGEST} characters")
    if "\0" in text:
        raise BadRequest(f"{file}:{text[: text.index(chr(0))].count(chr(10)) + 1}: a zero byte")
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    escape = directives(lines, file)
    found = [_checked(instruction, file) for instruction in _instructions(lines, escape, file)]
    starts = [at for at, one in enumerate(found) if one.name == "FROM"]
    if not starts:
        raise BadRequest(f"{file} has no FROM", hint="begin with FROM IMAGE")
    before, start, body = found[: starts[0]], found[starts[0]], found[starts[0] + 1 :]
    made = Dockerfile(file=file, escape=escape, globals=tuple(before), start=start, body=tuple(body))
    for one in before:
        if one.name != "ARG":
            raise made.wrong(one.line, f"{one.name} before FROM", hint="only ARG may stand there")
    if len(starts) > 1:
        raise made.wrong(found[starts[1]].line, "a second FROM: builds of several stages are not supported", hint="write one file for each stage")
    return made


def directives(lines: Sequence[str], file: str) -> str:
    """The character that quotes and joins lines: what the directive at the top says, else a backslash."""
    seen: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        found = DIRECTIVE.match(line.strip())
        if found is None:
            break
        name, value = found[1].lower(), found[2]
        if name in seen:
            raise BadRequest(f"{file}:{number}: the directive {name} stands twice")
        seen[name] = value
        if name == "escape" and value not in ("\\", "`"):
            raise BadRequest(f"{file}:{number}: escape={value!r}", hint="it may be \\ or `")
        if name not in ("escape", "syntax", "check"):
            break
    return seen.get("escape", "\\")


def _instructions(lines: Sequence[str], escape: str, file: str) -> Iterator[Instruction]:
    quoted = re.escape(escape)
    goes_on = re.compile(rf"(?:\A|(?<=[^{quoted}])){quoted}[ \t]*\Z")
    at = 0
    while at < len(lines):
        line = lines[at].strip()
        at += 1
        if not line or line.startswith("#"):
            continue
        begin, pieces, more = at, [], True
        piece = lines[at - 1].lstrip()
        while True:
            shorter = goes_on.sub("", piece)
            more = shorter != piece
            pieces.append(shorter if more else piece)
            while more and at < len(lines) and (not lines[at].strip() or lines[at].lstrip().startswith("#")):
                at += 1
            if not more or at >= len(lines):
                break
            piece, at = lines[at], at + 1
        name, flags, rest = _head("".join(pieces).strip(), begin, file)
        documents: list[Document] = []
        if name in TAKES_DOCUMENTS:
            documents, at = _documents(rest, lines, at, begin, escape, file)
        yield Instruction(name=name, line=begin, text=rest, flags=flags, documents=tuple(documents))


def _head(text: str, line: int, file: str) -> tuple[str, dict[str, str], str]:
    """Name, flags, and the rest."""
    name, *more = text.split(None, 1) or [""]
    flags: dict[str, str] = {}
    rest = more[0] if more else ""
    while rest.startswith("--") and name.upper() not in ("CMD", "ENTRYPOINT", "SHELL"):
        word, *after = rest.split(None, 1)
        found = FLAG.match(word)
        if found is None:
            raise BadRequest(f"{file}:{line}: {word!r} is no flag")
        if found[1] in flags:
            raise BadRequest(f"{file}:{line}: the flag --{found[1]} stands twice")
        flags[found[1]] = found[2] if found[2] is not None else "true"
        rest = after[0] if after else ""
    return name.upper(), flags, rest


def raw_words(text: str, escape: str) -> Iterator[str]:
    """The words of a line as they are written, quotes and all; blanks inside of quotes part nothing."""
    word, quote, at = "", "", 0
    while at < len(text):
        char = text[at]
        if char == escape and quote != "'" and at + 1 < len(text):
            word += text[at : at + 2]
            at += 2
            continue
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in " \t\n":
            if word:
                yield word
            word, at = "", at + 1
            continue
        word += char
        at += 1
    if word:
        yield word


def _documents(rest: str, lines: Sequence[str], at: int, begin: int, escape: str, file: str) -> tuple[list[Document], int]:
    """The here-documents that a line announces, and where the lines go on after them."""
    found = []
    for word in raw_words(rest, escape):
        match = DOCUMENT.match(word)
        if match is None:
            continue
        text = []
        while True:
            if at >= len(lines):
                raise BadRequest(f"{file}:{begin}: the here-document {match[4]} does not end", hint=f"it ends with a line that is just {match[4]}")
            line = lines[at].lstrip("\t") if match[2] else lines[at]
            at += 1
            if line == match[4]:
                break
            text.append(line + "\n")
        found.append(Document(word=word, name=match[4], text="".join(text), expand=not match[3]))
    return found, at


def _checked(one: Instruction, file: str) -> Instruction:
    where = f"{file}:{one.line}"
    if one.name not in KNOWN:
        raise BadRequest(f"{where}: {one.name[:40]!r} is not supported", hint=f"there are: {', '.join(KNOWN)}")
    if one.name in ("COPY", "ADD") and "from" in one.flags:
        raise BadRequest(f"{where}: {one.name} --from: builds of several stages are not supported", hint="copy from the context")
    for flag in one.flags:
        if flag not in FLAGS.get(one.name, ()):
            raise BadRequest(f"{where}: {one.name} --{flag} is not supported")
    if not one.text:
        raise BadRequest(f"{where}: {one.name} of nothing")
    if one.name == "SHELL" and not one.words:
        raise BadRequest(f"{where}: SHELL takes a JSON list of words", hint='SHELL ["/bin/sh", "-c"]')
    if one.words == () and one.name == "RUN":
        raise BadRequest(f"{where}: RUN of nothing")
    if one.words is not None and any("\0" in word for word in one.words):
        raise BadRequest(f"{where}: a zero byte")
    return one
