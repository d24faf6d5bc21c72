"""What a Dockerfile amounts to: the steps that change files, each with all that it runs with, and the configuration of the image that comes out. Pure.

A step's key is a digest of the key before it, of the step, and of what it copies; two builds with one key have made the same files of the same image.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping

import msgspec

from banger.model.catalog import ImageConfig
from banger.model.dockerfile import Dockerfile, Document, Instruction
from banger.model.dockerignore import plain_parts
from banger.model.dockerwords import WordError, expand, expand_document, pairs, split
from banger.model.errors import BadRequest

#: Changes when steps come to mean something else.
GENERATION = "banger build 1"
SHELL = ("/bin/sh", "-c")
#: What commands have as PATH where the image says nothing (the agent's DefaultPath).
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
MODE = re.compile(r"0?[0-7]{1,4}\Z")
PORT = re.compile(r"\d{1,5}(-\d{1,5})?(/(tcp|udp|sctp))?\Z", re.IGNORECASE)
#: Variables that a build may be given though no ARG names them.
PROXIES = frozenset(name for word in ("http", "https", "ftp", "no", "all") for name in (f"{word}_proxy", f"{word}_proxy".upper()))


class BuildSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A build as it was asked for: `file` (empty: the context's) and `context` are absolute; `args` are for its ARGs; without `cache` all is done."""

    name: str
    file: str
    context: str
    args: Mapping[str, str]
    cache: bool = True
    force: bool = False
    network: str | None = None
    vcpu: int | None = None
    memory_mib: int | None = None


class Inline(msgspec.Struct, frozen=True, kw_only=True):
    """A file that stands in the Dockerfile."""

    name: str
    text: str


class Step(msgspec.Struct, frozen=True, kw_only=True, tag_field="step"):
    """What every step has: its line and how people know it again."""

    line: int
    shown: str


class Run(Step, frozen=True, kw_only=True, tag="run"):
    """A command, and the script that is laid down for it, if that has an interpreter of its own. `user` empty: root.

    `proxies` are given to it as well; how a build gets at what it fetches makes no difference to what comes out.
    """

    argv: tuple[str, ...]
    script: str = ""
    env: dict[str, str]
    proxies: dict[str, str]
    workdir: str
    user: str


class Copy(Step, frozen=True, kw_only=True, tag="copy"):
    """Files of the context (patterns) and of the Dockerfile itself. `target` is absolute; `into`: it is a folder, whether it is there already or not.

    `owner` is `user:group` as the image knows them, or empty; `mode` is that of all that is copied, or None; `unpack`: archives are taken apart.
    """

    sources: tuple[str, ...]
    files: tuple[Inline, ...]
    target: str
    into: bool
    owner: str = ""
    mode: int | None = None
    unpack: bool = False


class Folder(Step, frozen=True, kw_only=True, tag="folder"):
    """A folder that is made unless it is there."""

    target: str


AnyStep = Run | Copy | Folder


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """The steps in order, and how the image that comes out wants its commands run."""

    steps: tuple[AnyStep, ...]
    config: ImageConfig


def start_of(made: Dockerfile, given: Mapping[str, str]) -> str:
    """The image that a build starts from; BadRequest where it cannot be."""
    scope = globals_of(made, given)
    one = made.start
    words = _words(made, one, scope)
    if "platform" in one.flags:
        raise made.wrong(one.line, "FROM --platform is not supported", hint="a machine runs only what is made for its host")
    if len(words) not in (1, 3) or (len(words) == 3 and words[1].upper() != "AS"):
        raise made.wrong(one.line, "FROM takes one image", hint="FROM IMAGE, or FROM IMAGE AS NAME")
    if words[0] == "scratch":
        raise made.wrong(one.line, "FROM scratch is not supported: there would be nothing to boot", hint="begin with an image")
    return words[0]


def globals_of(made: Dockerfile, given: Mapping[str, str]) -> dict[str, str]:
    """The ARGs before FROM, with what was given for them."""
    scope: dict[str, str] = {}
    for one in made.globals:
        for name, default in _arguments(made, one, scope):
            if name in given:
                scope[name] = given[name]
            elif default is not None:
                scope[name] = default
    return scope


def unclaimed(made: Dockerfile, given: Mapping[str, str]) -> list[str]:
    """Names that were given and that no ARG has."""
    named = {word.partition("=")[0] for one in (*made.globals, *made.body) if one.name == "ARG" for word in one.text.split()}
    return sorted(set(given) - named - PROXIES)


def recipe(made: Dockerfile, base: ImageConfig, given: Mapping[str, str]) -> Recipe:
    """All of it, from an image with that configuration, with `given` for its ARGs; BadRequest names the line that is wrong."""
    cook = _Cook(made, base, given)
    for one in made.body:
        cook.take(one)
    return Recipe(steps=tuple(cook.steps), config=cook.config)


class _Cook:
    """What holds at a line: configuration, arguments."""

    def __init__(self, made: Dockerfile, base: ImageConfig, given: Mapping[str, str]) -> None:
        self.made, self.config, self.given = made, base, given
        self.globals = globals_of(made, given)
        self.proxies = {name: value for name, value in given.items() if name in PROXIES}
        self.arguments: dict[str, str] = {}
        self.steps: list[AnyStep] = []
        self.has_cmd = False

    @property
    def variables(self) -> dict[str, str]:
        """What stands for what in a line; ENV wins over ARG."""
        return {"PATH": PATH, **self.proxies, **self.arguments, **self.config.env}

    def take(self, one: Instruction) -> None:
        """One more instruction."""
        ways: dict[str, Callable[[Instruction], None]] = {
            "RUN": lambda one: self.steps.append(self._run(one)),
            "COPY": lambda one: self.steps.append(self._copy(one)),
            "ADD": lambda one: self.steps.append(self._copy(one)),
            "ARG": self._argument,
            "ENV": lambda one: self._set(env={**self.config.env, **dict(self._pairs(one))}),
            "WORKDIR": self._workdir,
            "USER": lambda one: self._set(user=self._one(one)),
            "SHELL": lambda one: self._set(shell=one.words),
            "STOPSIGNAL": lambda one: self._set(stop_signal=self._one(one)),
            "ENTRYPOINT": lambda one: self._set(entrypoint=self._command(one), **({} if self.has_cmd else {"cmd": ()})),
            "CMD": self._cmd,
            "EXPOSE": self._expose,
            "LABEL": lambda one: self._drop(self._pairs(one)),
            "MAINTAINER": self._drop,
        }
        ways[one.name](one)

    def _drop(self, _: object) -> None:
        """It says nothing to a machine."""

    def _workdir(self, one: Instruction) -> None:
        self._set(workdir=absolute(self._one(one), self.config.workdir))
        self.steps.append(Folder(line=one.line, shown=one.shown, target=self.config.workdir))

    def _cmd(self, one: Instruction) -> None:
        self.has_cmd = True
        self._set(cmd=self._command(one))

    def _set(self, **fields: object) -> None:
        self.config = msgspec.structs.replace(self.config, **fields)

    def _one(self, one: Instruction) -> str:
        words = _words(self.made, one, self.variables)
        if one.name == "WORKDIR" and len(words) > 1:
            words = [self._guard(one, lambda: expand(one.text, self.variables, self.made.escape))]
        if len(words) != 1 or not words[0]:
            raise self.made.wrong(one.line, f"{one.name} takes one word, not {len(words)}")
        return words[0]

    def _guard(self, one: Instruction, work: Callable[[], str]) -> str:
        try:
            return work()
        except WordError as error:
            raise self.made.wrong(one.line, f"{one.name}: {error}") from None

    def _pairs(self, one: Instruction) -> list[tuple[str, str]]:
        try:
            found = pairs(one.text, self.variables, self.made.escape)
        except WordError as error:
            raise self.made.wrong(one.line, f"{one.name}: {error}") from None
        for name, _ in found:
            if one.name == "ENV" and ("=" in name or any(char.isspace() for char in name)):
                raise self.made.wrong(one.line, "ENV: a name that no variable can have")
        return found

    def _argument(self, one: Instruction) -> None:
        for name, default in _arguments(self.made, one, self.variables):
            if name in self.given:
                self.arguments[name] = self.given[name]
            elif default is not None:
                self.arguments[name] = default
            elif name in self.globals:
                self.arguments[name] = self.globals[name]

    def _expose(self, one: Instruction) -> None:
        for word in _words(self.made, one, self.variables):
            if not PORT.match(word):
                raise self.made.wrong(one.line, f"{one.shown}: that is no port")

    def _command(self, one: Instruction) -> tuple[str, ...]:
        return one.words if one.words is not None else (*(self.config.shell or SHELL), one.text)

    def _run(self, one: Instruction) -> Run:
        argv, script = self._command(one), ""
        if one.documents and one.words is None:
            argv, script = self._scripted(one)
        config, env = self.config, {**self.arguments, **self.config.env}
        proxies = {name: value for name, value in self.proxies.items() if name not in env}
        return Run(
            line=one.line,
            shown=one.shown,
            argv=argv,
            script=script,
            env=env,
            proxies=proxies,
            workdir=config.workdir or "/",
            user=config.user,
        )

    def _scripted(self, one: Instruction) -> tuple[tuple[str, ...], str]:
        """A line that is nothing but a here-document is a script; of any other the shell itself reads its here-documents."""
        shell = self.config.shell or SHELL
        first = one.documents[0]
        if one.text != first.word:
            ends = "".join(f"{document.text}{document.name}\n" for document in one.documents)
            plain = one.text
            for document in one.documents:  # their tabs are gone already
                plain = plain.replace(document.word, document.word.replace("<<-", "<<", 1), 1)
            return (*shell, f"{plain}\n{ends}"), ""
        return ((), first.text) if first.text.startswith("#!") else ((*shell, first.text), "")

    def _copy(self, one: Instruction) -> Copy:
        words = list(one.words) if one.words is not None else None
        inline = {document.word: document for document in one.documents}
        words = self._copied(one, inline) if words is None else [self._expanded(one, word) for word in words]
        if len(words) < 2:
            raise self.made.wrong(one.line, f"{one.name} takes what is copied, and where to", hint=f"{one.name} SOURCE... TARGET")
        *sources, target = words
        files = tuple(self._inline(inline[word], one) for word in sources if word in inline)
        sources = [word for word in sources if word not in inline]
        for source in sources:
            self._judge(one, source)
        into = target.endswith("/") or target in (".", "..") or target.endswith("/.") or len(sources) + len(files) > 1
        return Copy(
            line=one.line,
            shown=one.shown,
            sources=tuple(sources),
            files=files,
            target=absolute(target, self.config.workdir),
            into=into,
            owner=self._flag(one, "chown"),
            mode=self._mode(one),
            unpack=one.name == "ADD",
        )

    def _expanded(self, one: Instruction, word: str) -> str:
        """A word of the exec form: its variables count, its quotes and blanks do not part it."""
        return self._guard(one, lambda: expand_document(word, self.variables, self.made.escape))

    def _copied(self, one: Instruction, inline: Mapping[str, Document]) -> list[str]:
        """The words, where here-documents stay as they stand."""
        text = one.text
        marks = {f"\x01{number}\x01": word for number, word in enumerate(inline)}
        for mark, word in marks.items():
            text = text.replace(word, mark, 1)
        return [marks.get(word, word) for word in _words(self.made, msgspec.structs.replace(one, text=text), self.variables)]

    def _inline(self, document: Document, one: Instruction) -> Inline:
        text = self._expanded(one, document.text) if document.expand else document.text
        return Inline(name=document.name, text=text)

    def _judge(self, one: Instruction, source: str) -> None:
        if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://|git@", source):
            raise self.made.wrong(one.line, f"{one.shown}: an address is no file", hint="fetch it with RUN")
        if not source or "\0" in source:
            raise self.made.wrong(one.line, f"{one.name}: a source without a name")
        depth = 0
        for part in source.split("/"):
            depth += {"": 0, ".": 0, "..": -1}.get(part, 1)
            if depth < 0:
                raise self.made.wrong(one.line, f"{one.shown}: it leads outside of the context")

    def _flag(self, one: Instruction, name: str) -> str:
        value = one.flags.get(name, "")
        found = self._guard(one, lambda: expand(value, self.variables, self.made.escape))
        if name in one.flags and not found:
            raise self.made.wrong(one.line, f"--{name} of nothing")
        return found

    def _mode(self, one: Instruction) -> int | None:
        said = self._flag(one, "chmod")
        if said and not MODE.match(said):
            raise self.made.wrong(one.line, f"{one.name}: --chmod takes a mode such as 644 or 0755")
        return int(said, 8) if said else None


def _words(made: Dockerfile, one: Instruction, variables: Mapping[str, str]) -> list[str]:
    try:
        return split(one.text, variables, made.escape)
    except WordError as error:
        raise made.wrong(one.line, f"{one.name}: {error}") from None


def _arguments(made: Dockerfile, one: Instruction, variables: Mapping[str, str]) -> list[tuple[str, str | None]]:
    """`NAME` or `NAME=DEFAULT`, one or more."""
    found: list[tuple[str, str | None]] = []
    scope = dict(variables)
    for word in _words(made, one, scope):
        name, equals, default = word.partition("=")
        if not VARIABLE.match(name):
            raise made.wrong(one.line, "ARG: a name that no variable can have")
        found.append((name, default if equals else None))
    return found


def absolute(path: str, workdir: str) -> str:
    """A path of the image from its root, without `.` and `..`; what is not absolute begins at the working directory."""
    return "/" + "/".join(plain_parts(path if path.startswith("/") else f"{workdir}/{path}"))


def first_key(base: str, base_config: ImageConfig) -> str:
    """The key of an image as it is, from its digest."""
    return _digest(GENERATION, base, msgspec.json.encode(base_config, order="sorted").decode())


def next_key(key: str, step: AnyStep, content: str) -> str:
    """The key after a step; `content` is the digest of what it copies. Where the step stands in the file changes nothing."""
    plain = msgspec.structs.replace(step, line=0, shown="", **({"proxies": {}} if isinstance(step, Run) else {}))
    return _digest(key, msgspec.json.encode(plain, order="sorted").decode(), content)


def whole_key(key: str, config: ImageConfig, kernel: str) -> str:
    """The key of a finished image: of its files, and of what else makes it."""
    return _digest(key, msgspec.json.encode(config, order="sorted").decode(), kernel)


def _digest(*words: str) -> str:
    found = hashlib.sha256()
    for word in words:
        data = word.encode("utf-8", "surrogatepass")
        found.update(len(data).to_bytes(8, "big") + data)
    return found.hexdigest()


def check_given(given: Mapping[str, str]) -> None:
    """BadRequest for names that no ARG can have; their values are in no message."""
    for name, value in given.items():
        if not VARIABLE.match(name):
            raise BadRequest(f"{name[:40]!r} is not the name of a build argument", hint="write --build-arg NAME=VALUE")
        if "\0" in value:
            raise BadRequest(f"the build argument {name} has a zero byte in it")
