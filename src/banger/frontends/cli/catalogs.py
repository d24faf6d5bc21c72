"""`catalog add` and `catalog update`: files are named as this command sees them, and what is not offered though a catalog has it is said."""

from __future__ import annotations

import json
import os

from banger.client import Client
from banger.frontends.cli.output import clean, data, talk
from banger.frontends.cli.parse import Given
from banger.frontends.cli.progress import Patience, Progress, follow
from banger.model.errors import BadRequest

#: The most that is read of a file with a key.
LARGEST_KEY = 4096


def add(given: Given) -> int:
    """Add a catalog; print its name."""
    parameters = given.parameters
    if "://" not in str(parameters["location"]):
        parameters["location"] = os.path.abspath(os.path.expanduser(str(parameters["location"])))
    if parameters.get("key"):
        parameters["key"] = _key(str(parameters["key"]))
    found = _followed(given, str(parameters["location"]), parameters)
    if not given.json and isinstance(found, dict):
        _tell(found)
    return 0


def update(given: Given) -> int:
    """Update catalogs; print their names."""
    found = _followed(given, ", ".join(given.rest), {"names": given.rest or None})
    for row in found if not given.json and isinstance(found, list) else []:
        _tell(row)
    return 0


def _key(text: str) -> str:
    """The key itself, or what is in the file of that name."""
    file = os.path.expanduser(text)
    if not os.path.isfile(file):
        return text
    try:
        with open(file, encoding="utf-8") as reader:
            return reader.read(LARGEST_KEY)
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"cannot read the key in {text}: {error}") from error


def _tell(row: dict[str, object]) -> None:
    data(f"{clean(str(row['name']))}\n")
    signed = clean(f"signed by {row['key']} ({row['comment']})") if row.get("key") else "signed by nobody"
    talk(f"serial {row['serial']}: {row['images']} images, {row['kernels']} kernels, {signed}")
    hidden = row.get("hidden")
    if isinstance(hidden, list) and hidden:
        talk(f"note: not offered from it, since catalogs that go before it have them: {clean(', '.join(map(str, hidden)))}")


def _followed(given: Given, subject: str, parameters: dict[str, object]) -> object:
    """The operation's result."""
    client = Client()
    lines = client.stream(given.command.op, **parameters)
    try:
        found = follow(client, lines, Progress(f"{given.command.words} {subject}", json_lines=given.json), Patience())
    finally:
        lines.close()
    if given.json:
        data(json.dumps(found) + "\n")
    return found
