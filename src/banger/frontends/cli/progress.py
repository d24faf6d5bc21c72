"""Progress of an operation on stderr: one live line on a terminal, plain lines elsewhere, JSON lines on request. Ctrl-C takes the operation back."""

from __future__ import annotations

import json
import os
import signal
import sys
from time import monotonic

from banger.client import Client
from banger.client.answer import Lines
from banger.frontends.cli.ending import Ended
from banger.frontends.cli.output import clean, fold, talk, width_of_talk
from banger.model.errors import BangerError, Cancelled, Corrupt
from banger.model.sizes import show_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

CANCEL_SECONDS = 10.0
QUIET_SECONDS = 1.0
LONG_SECONDS = 5.0


class Progress:
    """Shows events under a title (`vm run`). `target`: one of several at the same time, so no live line, and JSON lines say whose they are."""

    def __init__(self, title: str, *, json_lines: bool = False, target: str = "") -> None:
        self.title, self.json_lines, self.target = title, json_lines, target
        self.live = not target and not json_lines and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self.stage = self.text = ""
        self.began = self.said = 0.0

    def line(self, found: dict[str, object]) -> None:
        """One line of the stream."""
        if self.json_lines:
            talk(json.dumps(found | ({"target": self.target} if self.target else {})))
            return
        event = found.get("event")
        if isinstance(event, dict):
            stage, detail = str(event.get("stage", "")), str(event.get("detail", ""))
            if detail.startswith("| "):
                self._printed(detail.split("\n"))
            else:
                self._event(stage, clean(detail), _amount(event))

    def _event(self, stage: str, detail: str, amount: str) -> None:
        if stage == "plan" and detail.startswith("spec: "):
            self.end()
            talk(fold(detail))
            return
        if not stage or detail.startswith(("warning: ", "note: ")):
            self.drop()
            talk(fold(detail))
            return
        changed = stage != self.stage
        if changed:
            self.end()
            self.stage, self.began = stage, monotonic()
        self.text = " ".join(part for part in (f"{clean(stage)}:" if detail or amount else clean(stage), detail, amount) if part)
        if self.live:
            self.tick()
        elif changed or monotonic() - self.said >= QUIET_SECONDS:
            self.said = monotonic()
            talk(f"[{clean(self.title)}] {self.text}")

    def _printed(self, lines: list[str]) -> None:
        """What a command of a build prints: each of its lines comes after "| "."""
        self._keep()
        for line in lines:
            talk(clean(line[2:]))

    def tick(self) -> None:
        """Redraw the live line."""
        if self.stage:
            self._draw(f"{self.text} {monotonic() - self.began:.0f}s")

    def _draw(self, text: str) -> None:
        try:
            sys.stderr.write("\r\x1b[2K" + text[: (width_of_talk() or 80) - 1])
            sys.stderr.flush()
        except OSError:
            self.live = False  # the terminal has gone

    def end(self) -> None:
        """Finish the stage that is shown; a trace of it stays if it took long."""
        took = monotonic() - self.began
        if self.live and self.stage:
            self._draw(f"{clean(self.stage)} {took:.0f}s\n" if took >= LONG_SECONDS else "")
        self.stage = ""

    def _keep(self) -> None:
        """Let the live line stand as it is: lines of its stage follow."""
        if self.live and self.stage:
            self._draw(f"{self.text}\n")
        self.stage = ""

    def drop(self) -> None:
        """Clear the live line: an error follows."""
        if self.live and self.stage:
            self._draw("")
        self.stage = ""


def _amount(event: dict[str, object]) -> str:
    done, total, unit = event.get("done"), event.get("total"), str(event.get("unit") or "")
    if not isinstance(done, int):
        return ""
    show = show_size if unit == "bytes" else str
    words = show(done) + (f"/{show(total)}" if isinstance(total, int) and total else "")
    return words if unit in ("bytes", "") else f"{words} {clean(unit)}"


class Patience:
    """Ctrl-C while an operation is being begun: kept until there is something that can be taken back. A second one does not wait.

    Made before the request is sent and handed to `follow`. `hold`: only the main thread can. Where SIGINT is ignored (`banger … &` in a script)
    it stays so.
    """

    def __init__(self, *, hold: bool = True) -> None:
        self.came = False
        usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        self._former = signal.signal(signal.SIGINT, self._keep) if hold and usual else None

    def _keep(self, _: int, __: FrameType | None) -> None:
        if self.came:
            raise KeyboardInterrupt
        self.came = True

    def end(self) -> None:
        """From now on Ctrl-C interrupts as ever; one that was kept does so now."""
        if self._former is not None:
            signal.signal(signal.SIGINT, self._former)
        if self.came:
            raise KeyboardInterrupt


def follow(client: Client, lines: Lines, progress: Progress, patience: Patience) -> object:
    """Show an operation's progress and return its result. Ctrl-C cancels it and waits until it has cleaned up; then Cancelled is raised."""
    operation: list[str] = []
    try:
        patience.end()
        return _follow(lines, progress, operation)
    except (KeyboardInterrupt, Ended) as interruption:
        progress.drop()
        if not progress.json_lines:
            talk("cancelling…")
        _take_back(client, lines, progress, operation)
        if isinstance(interruption, Ended):
            raise
        raise Cancelled(f"{progress.title}: cancelled") from None
    except BaseException:
        progress.drop()
        raise


def _follow(lines: Lines, progress: Progress, operation: list[str]) -> object:
    while True:
        if progress.live and not lines.ready(1.0):
            progress.tick()
            continue
        found = next(lines, None)
        if found is None:
            raise Corrupt("the daemon ended the operation without a result")
        begun = found.get("operation")
        if isinstance(begun, dict):
            operation.append(str(begun.get("id")))
        if "result" in found:
            progress.end()
            return found["result"]
        progress.line(found)


def _take_back(client: Client, lines: Lines, progress: Progress, operation: list[str]) -> None:
    """Cancel the operation and read its stream to the end, each within its bound."""
    lines.bound(CANCEL_SECONDS)
    try:
        if not operation:
            begun = next(lines, {}).get("operation")
            operation += [str(begun.get("id"))] if isinstance(begun, dict) else []
        if operation:
            Client(client.path, start=False, seconds=CANCEL_SECONDS).call("daemon.cancel", operation=operation[0])
        lines.leave()
        for found in lines:
            progress.line(found)
    except Cancelled:
        return  # what was asked for
    except BangerError as error:
        talk(f"note: {clean(str(error))}")
    except OSError as error:
        talk(f"note: the daemon went away: {error}")
