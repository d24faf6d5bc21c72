"""What reaches the terminal: stdout is data, stderr is talk, and nothing foreign is written without being made harmless."""

from __future__ import annotations

import os
import sys

from banger.model.errors import BangerError, exit_status


def clean(text: str) -> str:
    """The text with every sign that could move a cursor, ring a bell or hide something written as an escape."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def data(text: str) -> None:
    """Write to stdout."""
    sys.stdout.write(text)


def talk(text: str) -> None:
    """A line to stderr, at once; a stderr that is gone is nobody's loss."""
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except OSError:
        return  # the terminal has been closed; the exit status still tells


def width_of_talk() -> int:
    """Columns of the terminal that talk goes to; 0 if there is none."""
    try:
        return os.get_terminal_size(2).columns
    except OSError:
        return 0


def fold(text: str) -> str:
    """Words with ` · ` between them, on as many lines as the terminal needs, so that it breaks none of them; elsewhere one line."""
    width, lines = width_of_talk(), [""]
    for part in text.split(" · "):
        longer = f"{lines[-1]} · {part}" if lines[-1] else part
        if len(longer) < width or not width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(f"  {part}")
    return "\n".join(lines)


def complain(error: BangerError, *, json_lines: bool = False, subject: str = "") -> int:
    """Say what went wrong and what to do next; returns the exit status."""
    if json_lines:
        import json

        failure = {"code": error.code, "message": str(error), "hint": error.hint, "stage": error.stage, "tail": list(error.tail)}
        talk(json.dumps({"error": {key: value for key, value in failure.items() if value}} | ({"target": subject} if subject else {})))
        return exit_status(error.code)
    talk(f"error: {clean(subject)}: {clean(str(error))}" if subject else f"error: {clean(str(error))}")
    if error.stage:
        talk(f"  stage: {clean(error.stage)}")
    for line in error.tail:
        talk(f"    {clean(line)}")
    if error.hint:
        talk(f"  hint: {clean(error.hint)}")
    return exit_status(error.code)
