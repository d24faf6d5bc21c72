"""Everything banger can do, listed once. An operation is its signature: `@op("POST /vms")` over a typed function.

HTTP routes, OpenAPI, the client and the CLI's flags derive from it: the docstring's first line is the help, parameters named in the path are path
parameters, the others travel as a JSON object (in the query for GET and DELETE). The result's type decides the transport: `T` is JSON,
`AsyncIterator[T]` a stream of lines, `Duplex` an upgraded connection that speaks wire frames. Light (no dataclasses, no typing): the CLI imports it.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    F = TypeVar("F", bound=Callable[..., object])


class Op:
    """One operation: `noun.verb` (the file's and the function's names), HTTP method and path template."""

    def __init__(self, name: str, method: str, path: str, function: Callable[..., object]) -> None:
        self.name, self.method, self.path, self.function = name, method, path, function

    @property
    def summary(self) -> str:
        """The docstring's first line."""
        return (self.function.__doc__ or "").strip().partition("\n")[0]

    @property
    def parameters(self) -> dict[str, str]:
        """Parameter → annotation as written, without the daemon; nothing is evaluated."""
        return {name: str(kind) for name, kind in self.function.__annotations__.items() if name not in ("daemon", "return")}

    @property
    def defaults(self) -> dict[str, object]:
        """Default values of the parameters that have one (all are keyword-only)."""
        return dict(self.function.__kwdefaults__ or {})

    @property
    def result(self) -> str:
        """The result's annotation as written."""
        return str(self.function.__annotations__["return"])


REGISTRY: dict[str, Op] = {}


def op(route: str) -> Callable[[F], F]:
    """Register a function as an operation; `route` is `METHOD /path/{parameter}`."""
    method, path = route.split(" ")

    def register(function: F) -> F:
        name = f"{function.__module__.rpartition('.')[2]}.{function.__name__.rstrip('_').replace('_', '-')}"
        REGISTRY[name] = Op(name, method, path, function)
        return function

    return register


def every_op() -> dict[str, Op]:
    """All operations by name; imports each file of this folder."""
    from pkgutil import iter_modules  # as slow to import as the whole of `vm list`

    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    return REGISTRY


def ops_of(noun: str) -> dict[str, Op]:
    """The operations of one noun by name; imports that one file."""
    import_module(f"{__name__}.{noun}")
    return {name: found for name, found in REGISTRY.items() if name.startswith(f"{noun}.")}
