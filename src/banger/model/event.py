"""Progress is events, not logging: deep code says `async with step("build image")` and `report(...)`; whoever began the operation listens.

The listener travels in a context variable, so that no function passes a reporter along. Without a listener the events go nowhere.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import msgspec

from banger.model.errors import BangerError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step forward: the stage's name, what is being done, and how far it is (`unit`: bytes, packages, steps)."""

    stage: str
    detail: str = ""
    done: int | None = None
    total: int | None = None
    unit: str = ""


Listener = Callable[[Event], None]
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)
_stage: ContextVar[str] = ContextVar("stage", default="")
#: The id of the operation that is being worked on, for the logs of whoever works on it elsewhere; empty outside of operations.
operation: ContextVar[str] = ContextVar("operation", default="")


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Send the events of this context, and of tasks started in it, to `listener`."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def report(detail: str, *, done: int | None = None, total: int | None = None, unit: str = "") -> None:
    """Tell the listener how far the present stage is."""
    listener = _listener.get()
    if listener is not None:
        listener(Event(stage=_stage.get(), detail=detail, done=done, total=total, unit=unit))


@asynccontextmanager
async def step(stage: str, detail: str = "") -> AsyncIterator[None]:
    """A named stage: announced at its begin; a banger error that leaves it carries the (innermost) stage's name."""
    token = _stage.set(stage)
    report(detail)
    try:
        yield
    except BangerError as error:
        error.stage = error.stage or stage
        raise
    finally:
        _stage.reset(token)
