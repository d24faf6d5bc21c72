"""`firecracker install`: the file is named as this command sees it, and what was installed is said with how it was checked."""

from __future__ import annotations

import json
import os

from banger.client import Client
from banger.frontends.cli.output import clean, data, talk
from banger.frontends.cli.parse import Given
from banger.frontends.cli.progress import Patience, Progress, follow


def install(given: Given) -> int:
    """Install it; print the version."""
    parameters = dict(given.parameters)
    if "file" in parameters:
        parameters["file"] = os.path.abspath(os.path.expanduser(str(parameters["file"])))
    client = Client()
    lines = client.stream("firecracker.install", **parameters)
    try:
        found = follow(client, lines, Progress("firecracker install", json_lines=given.json), Patience())
    finally:
        lines.close()
    if given.json:
        data(json.dumps(found) + "\n")
    elif isinstance(found, dict):
        data(f"{clean(str(found.get('version')))}\n")
        talk(f"Firecracker {clean(str(found.get('version')))}{'' if found.get('jailer') else ' without a jailer'}: {clean(str(found.get('trust')))}")
    return 0
