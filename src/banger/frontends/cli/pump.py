"""Carries bytes between this process's stdin, stdout, stderr and a stream in a guest, until the stream ends.

One thread, one poll. Towards the guest as much is read as the guest has granted; from the guest as much is granted as has been written out, so
memory is bounded on both sides. Writing to stdout may block: that is the back-pressure. Signals only take a note and wake the poll.
"""

from __future__ import annotations

import json
import os
import signal
from select import POLLIN, POLLOUT, poll

from banger.client.answer import Conversation
from banger.frontends.cli.output import clean
from banger.model.errors import BangerError, GuestFailed, every_error
from banger.wire import CONTROL, CREDIT, DATA, END, EOF, MAX_PAYLOAD, STDERR, WINDOW, Frame, Meter, WireError, decode_credit, decode_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from banger.frontends.cli.terminal import raw_terminal

BROKEN_PIPE = 128 + 13


class Pump:
    """One stream. `stdin`: whether ours is passed on; `dial`: the end of the guest's bytes is passed on at once by closing stdout."""

    def __init__(self, conversation: Conversation, *, stdin: bool, dial: bool = False) -> None:
        self.conversation, self.reading, self.dial = conversation, stdin, dial
        self.sending, self.receiving = Meter(), Meter()
        self.interrupts = self.passed_on = 0
        self.resized = self.resumed = False
        self.status: int | None = None
        self.terminal: raw_terminal | None = None

    def run(self, terminal: raw_terminal | None = None) -> int:
        """Carry until the end; the exit status of what ran. On a terminal, keys are signals only to the guest."""
        self.terminal = terminal
        wake, kick = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        before = signal.set_wakeup_fd(kick, warn_on_full_buffer=False)
        handlers = [(one, signal.signal(one, handler)) for one, handler in self._handlers()]
        try:
            return self._carry(wake)
        except BrokenPipeError:
            return BROKEN_PIPE
        except WireError as error:
            raise GuestFailed(f"the connection to the machine is broken: {error}") from error
        finally:
            signal.set_wakeup_fd(before)
            for one, handler in handlers:
                signal.signal(one, handler)
            os.close(wake)
            os.close(kick)

    def _handlers(self) -> list[tuple[signal.Signals, Callable[[int, FrameType | None], None]]]:
        if self.terminal is None:
            return [(signal.SIGINT, self._interrupt)]
        return [(signal.SIGWINCH, self._resize), (signal.SIGCONT, self._resume)]

    def _interrupt(self, number: int, _: FrameType | None) -> None:
        self.interrupts += 1
        if self.interrupts > 1:
            raise KeyboardInterrupt

    def _resize(self, number: int, _: FrameType | None) -> None:
        self.resized = True

    def _resume(self, number: int, _: FrameType | None) -> None:
        self.resized = self.resumed = True

    def _carry(self, wake: int) -> int:
        self._grant(WINDOW)
        if self.dial and not self.reading:
            self.conversation.send(EOF)
        self._incoming()
        while self.status is None:
            self.conversation.flush()
            self._turn(wake)
        return self.status

    def _turn(self, wake: int) -> None:
        """Wait for what can be done next, and do it."""
        talk, waiting = self.conversation.fileno(), poll()
        waiting.register(talk, POLLIN | (POLLOUT if self.conversation.waiting else 0))
        waiting.register(wake, POLLIN)
        if self.reading and self.sending.available and len(self.conversation.waiting) < WINDOW:
            waiting.register(0, POLLIN)
        for descriptor, _ in waiting.poll():
            if descriptor == talk:
                self._incoming()
            elif descriptor == wake:
                os.read(wake, 512)
            else:
                self._outgoing()
        self._notes()

    def _notes(self) -> None:
        """Pass on what signals have left."""
        if self.passed_on < self.interrupts:
            self.passed_on = self.interrupts
            self._control({"signal": "INT"})
        if self.resumed and self.terminal is not None:
            self.resumed = False
            self.terminal.enter_raw()
        if self.resized:
            self.resized = False
            size = os.get_terminal_size(0)
            self._control({"resize": {"rows": size.lines or 24, "cols": size.columns or 80}})

    def _control(self, what: dict[str, object]) -> None:
        self.conversation.send(CONTROL, json.dumps(what).encode())

    def _grant(self, count: int) -> None:
        self.conversation.send(CREDIT, count.to_bytes(4, "big"))

    def _outgoing(self) -> None:
        """A piece of stdin, as large as the guest takes; its end is passed on once."""
        try:
            data = os.read(0, min(MAX_PAYLOAD, self.sending.available))
        except BlockingIOError:
            return
        except OSError:
            data = b""  # closed, or a terminal that has gone: the same as its end
        if data:
            self.sending.spend(len(data))
            self.conversation.send(DATA, data)
        else:
            self.reading = False
            self.conversation.send(EOF)

    def _incoming(self) -> None:
        frames = self.conversation.receive()
        if frames is None:
            raise GuestFailed("the connection to the machine broke off", hint="see whether it still runs: banger vm list")
        for frame in frames:
            self._take(frame)

    def _take(self, frame: Frame) -> None:
        kind, _, payload = frame
        if kind in (DATA, STDERR):
            self.receiving.receive(len(payload))
            if self.terminal is not None:
                self.terminal.used = True
            write_all(1 if kind == DATA else 2, payload)
            if count := self.receiving.consume(len(payload)):
                self._grant(count)
        elif kind == CREDIT:
            self.sending.grant(decode_credit(payload))
        elif kind == EOF and self.dial:
            _close_stdout()
        elif kind == END:
            self.status = status_of(decode_json(payload))


def write_all(descriptor: int, data: bytes) -> None:
    """Write everything, also to a descriptor that somebody has made non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            waiting = poll()
            waiting.register(descriptor, POLLOUT)
            waiting.poll()


def _close_stdout() -> None:
    """Let the reader of our stdout see its end, but keep the number taken."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def status_of(end: dict[str, object]) -> int:
    """The exit status for an `end`: the command's, or 128 + the signal's number; raises what the guest refused."""
    found = end.get("ok")
    if isinstance(found, dict):
        if isinstance(name := found.get("signal"), str):
            return 128 + int(getattr(signal, f"SIG{name.removeprefix('SIG')}", 0))
        code = found.get("exit", 0)
        if not isinstance(code, int):
            raise GuestFailed("the guest ended the stream with a result that cannot be read")
        return code & 255
    error = end.get("error")
    if not isinstance(error, dict):
        raise GuestFailed("the guest ended the stream without a result")
    kind: type[BangerError] = every_error().get(str(error.get("code")), GuestFailed)
    raise kind(clean(str(error.get("message", ""))), hint=str(error.get("hint", "")))
