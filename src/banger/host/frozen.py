"""Code for root to run: a copy that nobody else can change, and whether what it is run with is safe from others, too.

A checkout belongs to its user; what root runs from there, the user could exchange. So the helper's code is copied, once, when root says so.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from banger.model.errors import HostLacks


def refusal(path: Path) -> str:
    """Who beside root could change what is at `path`, by itself or by a folder on the way; empty when nobody."""
    for place in (path, *path.parents):
        found = place.lstat()
        others = found.st_mode & (stat.S_IWOTH | stat.S_IWGRP) and not found.st_mode & stat.S_ISVTX and not stat.S_ISLNK(found.st_mode)
        if found.st_uid != 0 or others:
            return f"{place} can be changed by others than root"
    return ""


def packages(names: Sequence[str]) -> list[Path]:
    """The folders of installed packages; HostLacks names one that is missing."""
    found = []
    for name in names:
        spec = find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise HostLacks(f"the Python package {name} is missing", hint="install banger anew")
        found.append(Path(next(iter(spec.submodule_search_locations))))
    return found


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path


def is_frozen(folders: Sequence[Path], target: Path, main: str) -> bool:
    """Whether the copy is there and as `freeze` would make it, by names, sizes and times."""
    wanted = {Path(folder.name, path.relative_to(folder)): _look(path) for folder in folders for path in _files(folder)}
    start = target / "__main__.py"
    have = {path.relative_to(target): _look(path) for path in _files(target) if path != start}
    return wanted == have and start.is_file() and start.read_text() == main


def _look(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def freeze(folders: Sequence[Path], target: Path, main: str) -> None:
    """Copy packages to below `target`, in place of what is there, with `main` as what `python TARGET` runs; readable by all, root's alone to change."""
    fresh = target.with_name(f"{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o755, parents=True)
    for folder in folders:
        for path in _files(folder):
            place = fresh / folder.name / path.relative_to(folder)
            place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            shutil.copyfile(path, place)
            place.chmod(0o644)
            os.utime(place, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    (fresh / "__main__.py").write_text(main)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
