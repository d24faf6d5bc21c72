"""A web of a few pages, by address; everything else is not there."""

from __future__ import annotations

import hashlib
from pathlib import Path

from banger.host.web import WHOLE, Told, acceptable
from banger.model.errors import Corrupt, NotFound


class FakeWeb:
    """`pages` are what is at each address; `asked` are the addresses that were asked for, in order."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}
        self.asked: list[str] = []

    async def fetch(self, url: str, into: Path, *, limit: int, digest: str = "", told: Told | None = None, seconds: float = WHOLE) -> None:
        """See Web."""
        self.asked.append(acceptable(url))
        page = self.pages.get(url)
        if page is None:
            raise NotFound(f"there is nothing at {url}", hint="is the address right?")
        if len(page) > limit:
            raise Corrupt(f"{url} is longer than it may be: more than {limit} bytes")
        found = f"sha256:{hashlib.sha256(page).hexdigest()}"
        if digest not in ("", found):
            raise Corrupt(f"{url} is not what it must be: its digest is {found}, not {digest}")
        into.write_bytes(page)
        if told is not None:
            told(len(page), len(page))
