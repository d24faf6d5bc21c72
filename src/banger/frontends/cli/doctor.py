"""`banger doctor`: findings as rows. They come from a process of their own, so that they are there when the daemon cannot start."""

from __future__ import annotations

import json
import os
import sys

from banger.client.launch import doctor_findings
from banger.frontends.cli.output import clean, data
from banger.frontends.cli.parse import Given

HOST_LACKS = 123
COLOURS = {"PASS": "32", "WARN": "33", "FAIL": "31"}


def doctor(given: Given) -> int:
    """Print the findings; 123 if one of them is a FAIL."""
    found = doctor_findings()
    rows: list[dict[str, object]] = found if isinstance(found, list) else []
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    data(json.dumps(found) + "\n" if given.json else findings(rows, colour=colour))
    return HOST_LACKS if any(row.get("level") == "FAIL" for row in rows) else 0


def findings(rows: list[dict[str, object]], *, colour: bool = False) -> str:
    """A line for each finding, its fix below it."""
    width = max((len(str(row.get("subject"))) for row in rows), default=0)
    text = ""
    for row in rows:
        level, subject = str(row.get("level")), clean(str(row.get("subject")))
        shown = f"\x1b[{COLOURS[level]}m{level}\x1b[0m" if colour and level in COLOURS else level
        text += f"{shown}  {subject:{width}}  {clean(str(row.get('message', '')))}\n"
        if row.get("fix"):
            text += f"{'':{width + 8}}fix: {clean(str(row['fix']))}\n"
    return text
