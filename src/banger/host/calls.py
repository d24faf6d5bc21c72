"""Calls to the privileged helper as they travel: one message there, one back, both JSON of a bounded size; strict in both directions.

Nothing is written twice: the methods of an interface, their arguments and results are read from its Protocol, on both sides. The socket keeps
messages apart (SOCK_SEQPACKET), so there is no framing to get wrong; one connection carries one call.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar, get_type_hints

import msgspec

from banger.model import codec
from banger.model.errors import BadRequest, BangerError, Corrupt, every_error, foreseen
from banger.model.operation import Failure
from banger.model.rules import shown

T = TypeVar("T")
#: A message's most bytes, either way: the longest, all guests of a full bridge, has 80,000. A socket takes 200,000 at once.
LIMIT = 1 << 17
#: Where the helper listens, and the folder around it (0711: whoever may not open the socket may know that it is there).
SOCKET = Path("/run/banger-helper/helper.sock")


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One call. `op` is the daemon's operation that it is made for, empty if none: both logs name it."""

    version: Literal[1] = 1
    op: Annotated[str, msgspec.Meta(pattern=r"^(op-[0-9a-f]{8})?\Z")] = ""
    interface: Annotated[str, msgspec.Meta(max_length=32)]
    method: Annotated[str, msgspec.Meta(max_length=32)]
    arguments: msgspec.Raw


class Answer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What became of it: a result or a failure. `errno` is not 0 where the kernel refused, so that the caller sees the OSError it would see itself."""

    version: Literal[1] = 1
    result: msgspec.Raw = msgspec.Raw(b"null")
    failure: Failure | None = None
    errno: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """A method of a Protocol: `arguments` is a record of its parameters, in their order; `waits`: it is asynchronous."""

    name: str
    arguments: type[msgspec.Struct]
    result: object
    waits: bool

    def pack(self, positional: Sequence[object], named: Mapping[str, object]) -> bytes:
        """The JSON of its arguments; TypeError when they are not those of the signature."""
        return codec.encode(self.arguments(**{**dict(zip(self.arguments.__struct_fields__, positional, strict=False)), **named}))

    def unpack(self, data: bytes) -> dict[str, object]:
        """Its arguments by name; BadRequest names what is wrong with them."""
        try:
            found = msgspec.json.decode(data, type=self.arguments, dec_hook=_made)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(f"{self.name}: {shown(str(error))}") from error
        return {name: getattr(found, name) for name in self.arguments.__struct_fields__}

    def read_result(self, data: bytes) -> object:
        """Its result; Corrupt if it is none."""
        try:
            found: object = msgspec.json.decode(data, type=self.result, dec_hook=_made)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Corrupt(f"the helper's answer to {self.name} cannot be read: {error}") from error
        return found


def read_request(data: bytes) -> Request:
    """The call in a message; BadRequest when it is none."""
    if len(data) > LIMIT:
        raise BadRequest(f"a call has more than {LIMIT} bytes")
    try:
        return msgspec.json.decode(data, type=Request)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"no call: {shown(str(error))}") from error


def _made(kind: type, value: object) -> object:
    """Types that JSON does not have."""
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(f"expected {kind.__name__}")


def methods(protocol: type) -> dict[str, Method]:
    """The public methods of a Protocol, by name."""
    found = {name: function for name, function in vars(protocol).items() if inspect.isfunction(function) and not name.startswith("_")}
    return {name: _method(f"{protocol.__name__}.{name}", function) for name, function in found.items()}


def _method(name: str, function: object) -> Method:
    assert inspect.isfunction(function)
    hints = get_type_hints(function, include_extras=True)
    parameters = list(inspect.signature(function).parameters.values())[1:]
    fields = [(one.name, hints[one.name]) if one.default is one.empty else (one.name, hints[one.name], one.default) for one in parameters]
    record = msgspec.defstruct(name, fields, frozen=True, kw_only=True, forbid_unknown_fields=True)
    return Method(name=name, arguments=record, result=hints["return"], waits=inspect.iscoroutinefunction(function))


def failed(error: BaseException) -> Answer:
    """An error as it travels; one that nobody foresaw is named by its type only, for the helper's log has it."""
    told = foreseen(error)
    if told is not None:
        return Answer(failure=Failure(code=told.code, message=str(told), hint=told.hint, tail=told.tail))
    if isinstance(error, OSError) and error.errno:
        return Answer(failure=Failure(code="internal", message=error.strerror or ""), errno=error.errno)
    return Answer(failure=Failure(code="internal", message=f"the helper failed: {type(error).__name__}", hint="its log: journalctl -u banger-helper"))


def error_of(answer: Answer) -> BangerError | OSError:
    """The error that an answer stands for."""
    failure = answer.failure
    assert failure is not None, "asked of failures only"
    if answer.errno:
        return OSError(answer.errno, failure.message)
    return every_error().get(failure.code, BangerError)(failure.message, hint=failure.hint, tail=failure.tail)
