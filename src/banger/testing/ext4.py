"""File systems that are only files of the right size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class FakeExt4:
    """Writes a few recognisable bytes where a file system would begin."""

    def __init__(self) -> None:
        self.made: list[Path] = []
        self.journal = True

    async def make_blank(self, path: Path, size: int) -> None:
        """See Ext4."""
        self._make(path, size, b"blank")

    async def make_root(self, path: Path, size: int, *, folder: Path, label: str, prefix: Sequence[str] = ()) -> None:
        """See Ext4."""
        self._make(path, size, b"root " + label.encode())

    def has_journal(self, path: Path) -> bool:
        """See Ext4."""
        return self.journal

    def _make(self, path: Path, size: int, data: bytes) -> None:
        with path.open("xb") as file:
            file.write(data)
            file.truncate(size)
        self.made.append(path)
