"""Routes derive from the operations: method and path find the op, its signature says which parameters there are and of what type.

Pure: text in, arguments out. Nothing here reads a connection. Types are looked up once, when the table is made.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from banger.model import codec
from banger.model.errors import BadRequest, NotFound
from banger.ops import Op


def names_for_types(module: str) -> dict[str, object]:
    """What an ops module imports for type checkers only, imported for real: its annotations can be evaluated with them."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    guarded = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    found: dict[str, object] = {}
    for statement in (line for block in guarded for line in block.body if isinstance(line, ast.ImportFrom) and line.module):
        source = import_module(str(statement.module))
        found |= {alias.asname or alias.name: getattr(source, alias.name) for alias in statement.names}
    return found


def evaluate(annotation: str, module: str) -> object:
    """The type that an annotation in `module` means."""
    scope = dict(vars(sys.modules[module]))
    try:
        return eval(annotation, scope)
    except NameError:
        return eval(annotation, scope | names_for_types(module))


class Route:
    """One operation as a route. `textual`: its parameters come as text, in the query (GET and DELETE), not as a JSON object."""

    def __init__(self, op: Op) -> None:
        self.op = op
        self.segments = tuple(op.path.strip("/").split("/"))
        self.textual = op.method in ("GET", "DELETE")
        self.streams = op.result.startswith("AsyncIterator[")
        self.upgrades = op.result == "Duplex"
        self.arguments = arguments_of(op)

    def match(self, segments: tuple[str, ...]) -> dict[str, str] | None:
        """The path's parameters if `segments` (still percent-encoded) fit this route."""
        if len(segments) != len(self.segments):
            return None
        found: dict[str, str] = {}
        for mine, theirs in zip(self.segments, segments, strict=True):
            if mine.startswith("{"):
                found[mine[1:-1]] = unquote(theirs, errors="strict")
            elif mine != theirs:
                return None
        return found

    def arguments_from(self, path: Mapping[str, str], given: Mapping[str, object]) -> dict[str, object]:
        """Keyword arguments for the op's function; BadRequest names the parameter that is unknown, missing or of the wrong type."""
        allowed = [name for name in self.op.parameters if name not in path]
        for name in given:
            if name not in allowed:
                near = get_close_matches(name, allowed, 1)
                raise BadRequest(f"{self.op.name} has no parameter {name!r}", hint=_hint(near, allowed))
        values = {**given, **path}
        for name in self.op.parameters:
            if name not in values and name not in self.op.defaults:
                raise BadRequest(f"{self.op.name} needs {name!r}")
        found = codec.convert(values, self.arguments, what=self.op.name, error=BadRequest, strict=not self.textual)
        return {name: getattr(found, name) for name in self.op.parameters}


def _hint(near: list[str], allowed: list[str]) -> str:
    if near:
        return f"did you mean {near[0]!r}?"
    return f"it has: {', '.join(allowed)}" if allowed else "it has none"


def arguments_of(op: Op) -> type[msgspec.Struct]:
    """A record with a field for each parameter of the op."""
    module = op.function.__module__
    types = {name: evaluate(annotation, module) for name, annotation in op.parameters.items()}
    required = [(name, kind) for name, kind in types.items() if name not in op.defaults]
    optional = [(name, kind, op.defaults[name]) for name, kind in types.items() if name in op.defaults]
    return msgspec.defstruct("Arguments", [*required, *optional], kw_only=True, forbid_unknown_fields=True)


class Routes:
    """All routes; literal segments win over parameters."""

    def __init__(self, ops: Mapping[str, Op]) -> None:
        self._routes = sorted((Route(op) for op in ops.values()), key=lambda route: route.op.path.count("{"))

    def find(self, method: str, target: str) -> tuple[Route, dict[str, str], dict[str, object]]:
        """The route, the path's parameters and the query's; NotFound or BadRequest when there is none."""
        parts = urlsplit(target)
        segments = tuple(parts.path.strip("/").split("/"))
        try:
            fits = [(route, found) for route in self._routes if (found := route.match(segments)) is not None]
            query = _query(parts.query)
        except ValueError as error:
            raise BadRequest(f"the address cannot be read: {error}") from error
        for route, found in fits:
            if route.op.method == method:
                return route, found, query
        if fits:
            raise BadRequest(f"{method} is not possible at {parts.path!r}", hint=f"use {' or '.join(sorted({fit[0].op.method for fit in fits}))}")
        raise NotFound(f"there is nothing at {parts.path!r}", hint="GET /openapi.json lists what there is")


def _query(text: str) -> dict[str, object]:
    pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text), errors="strict", max_num_fields=64)
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a parameter is given twice")
    return dict(pairs)


def body_object(body: bytes) -> dict[str, object]:
    """The JSON object in a request's body; an empty body is an empty object."""
    try:
        return codec.decode(body, dict[str, object], what="the request's body", error=BadRequest) if body else {}
    except RecursionError as error:
        raise BadRequest("the request's body: nested too deeply") from error
