"""Duplex: one stream of a guest's conversation, handed to whoever asked for it. Frames go both ways unchanged but for number and tag."""

from __future__ import annotations

from typing import Protocol

from banger.wire import Frame


class Duplex(Protocol):
    """Frames from the guest, frames to the guest. The stream number in them means nothing here; the holder uses 1."""

    async def receive(self) -> Frame | None:
        """The guest's next frame (`opened`, `data`, `stderr`, `eof`, `credit`, `end`); None after `end` was delivered."""

    async def send(self, kind: int, payload: bytes) -> None:
        """Pass `data`, `eof`, `credit`, `control` or `reset` to the guest; BadRequest for other kinds or beyond the guest's credit."""

    async def aclose(self) -> None:
        """Give it up; resets the guest's side unless it has ended."""
