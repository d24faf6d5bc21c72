"""Signals that end this process, as an exception: whoever holds a terminal, a machine or a stream lets go of it on the way out."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType


class Ended(BaseException):
    """A signal has come; `status` is what a shell expects of a process that it ended."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number


def raise_ended(number: int, _: FrameType | None) -> None:
    """A handler."""
    raise Ended(number)


def end_by_signal() -> None:
    """Let the signals that end a process unwind it first, from now on."""
    import signal

    for one in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(one, raise_ended)
