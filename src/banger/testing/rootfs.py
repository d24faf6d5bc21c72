"""Root file systems that are only files of the right size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from banger.host.rootfs import Layer, Limits, Written
from banger.model.errors import BadRequest, Corrupt

MIB = 1 << 20


class FakeRootFs:
    """Takes any bytes for a layer, and believes what it is told to: `refused` are layers (by diff_id) that are not what they should be."""

    def __init__(self) -> None:
        self.made: list[tuple[Path, tuple[Layer, ...]]] = []
        self.refused: set[str] = set()
        self.found: set[str] = set()

    async def write(
        self, path: Path, layers: Sequence[Layer], *, label: str, size: int = 0, limits: Limits | None = None, look: Sequence[str] = ()
    ) -> Written:
        """See RootFs."""
        content = sum(Path(layer.path).stat().st_size for layer in layers)
        if size and content > size:
            raise BadRequest(f"the image needs {content} bytes")
        for layer in layers:
            if layer.diff_id in self.refused:
                raise Corrupt(f"the layer {layer.diff_id} is not what its digest says")
        with path.open("xb") as file:
            file.write(f"root {label}".encode())
            file.truncate(size or content + 32 * MIB)
        self.made.append((path, tuple(layers)))
        return Written(size=size or content + 32 * MIB, content=content, entries=len(layers), found=tuple(each for each in look if each in self.found))
