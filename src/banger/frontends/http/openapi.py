"""OpenAPI 3.1 from the operations: made when asked for, so that it cannot differ from what is served."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

import banger
from banger.frontends.http.routes import Route, evaluate
from banger.model.errors import CODES
from banger.model.event import Event
from banger.model.operation import Failure, Operation
from banger.ops import Op

REFERENCE = "#/components/schemas/{name}"
Json = dict[str, object]


def _unwrapped(result: str) -> str:
    """What a stream finally gives: `AsyncIterator[Progress[X]]` → `X`."""
    for wrapper in ("AsyncIterator[", "Progress["):
        if result.startswith(wrapper):
            result = result.removeprefix(wrapper).removesuffix("]")
    return result


def _content(kind: str, schema: object) -> Json:
    return {kind: {"schema": schema}}


def _parameter(name: str, where: str, schema: object, required: bool) -> Json:
    return {"name": name, "in": where, "required": required, "schema": schema}


class _Writer:
    """Collects the types of all operations first: schemas that share a component are made in one go."""

    def __init__(self, ops: Mapping[str, Op]) -> None:
        self.routes = [Route(op) for op in ops.values()]
        types: list[object] = [Failure, Operation, Event]
        self.at: dict[tuple[str, str], int] = {}
        for route in self.routes:
            for key, annotation in self._annotations(route):
                self.at[route.op.name, key] = len(types)
                types.append(evaluate(annotation, route.op.function.__module__))
        self.schemas, self.components = msgspec.json.schema_components(types, ref_template=REFERENCE)

    def _annotations(self, route: Route) -> list[tuple[str, str]]:
        result = [] if route.upgrades else [("return", _unwrapped(route.op.result))]
        return [*route.op.parameters.items(), *result]

    def schema(self, route: Route, key: str) -> object:
        """The schema of a parameter, or of the result (`return`)."""
        return self.schemas[self.at[route.op.name, key]]

    def operation(self, route: Route) -> Json:
        """One operation object."""
        op = route.op
        in_path = [name for name in op.parameters if f"{{{name}}}" in op.path]
        others = [name for name in op.parameters if name not in in_path]
        parameters = [_parameter(name, "path", self.schema(route, name), True) for name in in_path]
        found: Json = {"operationId": op.name, "summary": op.summary, "responses": self._responses(route)}
        if route.textual:
            parameters += [_parameter(name, "query", self.schema(route, name), name not in op.defaults) for name in others]
        elif others:
            body: Json = {"type": "object", "properties": {name: self._field(route, name) for name in others}, "additionalProperties": False}
            body["required"] = [name for name in others if name not in op.defaults]
            found["requestBody"] = {"content": _content("application/json", body)}
        return found | {"parameters": parameters}

    def _field(self, route: Route, name: str) -> object:
        schema = self.schema(route, name)
        if name in route.op.defaults and isinstance(schema, dict):
            return {**schema, "default": route.op.defaults[name]}
        return schema

    def _responses(self, route: Route) -> Json:
        error = {"description": "an error", "content": _content("application/json", {"type": "object", "properties": {"error": self.schemas[0]}})}
        if route.upgrades:
            return {"101": {"description": "the connection speaks banger-wire: frames of stream 1 and tag 1"}, "default": error}
        result = self.schema(route, "return")
        if route.streams:
            kinds = {"operation": self.schemas[1], "event": self.schemas[2], "result": result, "error": self.schemas[0]}
            line = {"type": "object", "properties": kinds}
            return {"200": {"description": "one JSON object a line", "content": _content("application/x-ndjson", line)}, "default": error}
        if route.op.result == "None":
            return {"204": {"description": "done"}, "default": error}
        return {"200": {"description": "the result", "content": _content("application/json", result)}, "default": error}


def describe(ops: Mapping[str, Op]) -> Json:
    """The whole document."""
    writer = _Writer(ops)
    paths: dict[str, Json] = {}
    for route in writer.routes:
        paths.setdefault(route.op.path, {})[route.op.method.lower()] = writer.operation(route)
    codes = {code: {"http": http, "exit": status} for code, (http, status) in CODES.items()}
    info = {"title": "banger", "version": banger.__version__, "description": "What the daemon can do, over its Unix socket.", "x-error-codes": codes}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": {"schemas": writer.components}}
