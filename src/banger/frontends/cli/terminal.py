"""The terminal in raw mode for the time of a session, and as it was on every way out: return, exception, signal.

Owns the terminal's attributes between entering and leaving. Signals that would end the process are turned into exceptions first (`Ended`).
"""

from __future__ import annotations

import os
import signal
import termios

from banger.frontends.cli.ending import raise_ended

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

#: after a session that broke off: application keys, pasting and mouse modes off, the ordinary screen, all of it scrolling, a visible cursor, plain
#: letters of the ordinary alphabet
SOFT_RESET = b"\x1b[?1l\x1b>\x1b[?2004l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?1047l\x1b7\x1b[r\x1b8\x1b[?25h\x1b[0m\x1b(B\x0f"
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class raw_terminal:
    """A context manager over the terminal on stdin."""

    def __init__(self) -> None:
        self.used = False  # whether the guest has written to it
        self.abrupt = False  # whether what ran had no time to tidy up

    def __enter__(self) -> Self:
        self._handlers = {one: signal.signal(one, raise_ended) for one in ENDINGS}
        self._was = termios.tcgetattr(0)
        self.enter_raw()
        return self

    def enter_raw(self) -> None:
        """Pass every key on as it is typed; also needed when the process was stopped and goes on."""
        now = termios.tcgetattr(0)
        now[0] &= ~(termios.BRKINT | termios.ICRNL | termios.INLCR | termios.IGNCR | termios.INPCK | termios.ISTRIP | termios.IXON | termios.PARMRK)
        now[1] &= ~termios.OPOST
        now[2] = (now[2] & ~(termios.CSIZE | termios.PARENB)) | termios.CS8
        now[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN | termios.ISIG)
        now[6][termios.VMIN], now[6][termios.VTIME] = 1, 0
        termios.tcsetattr(0, termios.TCSANOW, now)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            termios.tcsetattr(0, termios.TCSANOW, self._was)
            if self.used and (kind is not None or self.abrupt):
                os.write(1, SOFT_RESET + (b"\r\n" if kind is not None else b""))
        except (termios.error, OSError):
            pass  # the terminal itself has gone; there is nothing to restore
        for one, handler in self._handlers.items():
            signal.signal(one, handler)
