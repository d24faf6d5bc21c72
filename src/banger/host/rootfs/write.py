"""The process that writes a root file system (see host/rootfs/__init__.py): `python -m banger.host.rootfs.write`, a Job on stdin, an Outcome on stdout.

Layers are read twice. First only their entries: what they amount to is then known, so the file system has the right size, what a later layer removes is
never written, and nothing is written at all of what has a wrong digest. Then their contents, each straight to its blocks, while inodes and folders are
written through libext2fs. A layer whose entries are remembered is read once, and verified by that. Progress goes to stderr. Whatever ends this process,
or is wrong, the caller removes the file.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import resource
import stat
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import msgspec

from banger.host.ext4 import FAKE_TIME, FULL, SUPERBLOCK, empty_command
from banger.host.files import explain
from banger.host.rootfs import Job, Layer, Outcome, Written
from banger.host.rootfs.ext2fs import BLOCK, Volume
from banger.host.rootfs.ext4bytes import EXTENTS, INLINE_EXTENTS, INLINE_LINK, LONGEST_EXTENT, Extent, device_body, extent_root, folder_blocks, inode
from banger.host.rootfs.inflate import unpacked
from banger.host.rootfs.plan import FOUND_INODE, MIB, ROOT_INODE, Plan, Shape, journal
from banger.host.rootfs.scan import THREADS, Budget, Scanned, digest_for, name_of, scan_all, verify
from banger.host.rootfs.tar import Source
from banger.host.rootfs.tree import Tree
from banger.model.errors import BadRequest, BangerError, Corrupt, HostLacks, NoSpace, ToolFailed, foreseen

#: More layers than any registry allows.
MOST_LAYERS = 1000
#: A backstop: what this process may map. It needs a hundredth of it, bombs are found by counting.
MOST_MEMORY = 4 << 30
PROGRESS_SECONDS = 0.25
#: malloc.h: from how many bytes on a block is one of the kernel's.
MMAP_THRESHOLD = -3


class Progress:
    """Lines for the caller, a few a second."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.next = what, total, 0.0
        self.done, self.lock = 0, Lock()

    def at(self, done: int) -> None:
        """So much is done."""
        now = time.monotonic()
        if now >= self.next:
            self.next = now + PROGRESS_SECONDS
            print(done, max(self.total, done), self.what, file=sys.stderr, flush=True)

    def more(self, count: int) -> None:
        """So much more is done, in whichever thread."""
        with self.lock:
            self.done += count
            self.at(self.done)


def merged(job: Job) -> tuple[Tree, list[bool]]:
    """What the layers amount to, and of each whether it was verified."""
    folder = Path(job.path).parent
    budget = Budget(job.limits, Progress("read layers", 0).at)
    tree = Tree(job.limits)
    scanned: Sequence[Scanned] = scan_all(job.layers, folder, budget)
    for number, (layer, entries) in enumerate(zip(job.layers, scanned, strict=True)):
        tree.begin(number, name_of(layer), plain=layer.plain)
        for entry in entries:
            tree.apply(entry)
        entries.close()
    return tree, [entries.verified for entries in scanned]


def make_empty(job: Job, plan: Plan) -> Shape:
    """An empty file system with room for all of it; BadRequest when the size that was asked for has not."""
    path, shape = Path(job.path), Shape(plan, job.size)
    for _ in range(4):
        with path.open("wb") as file:
            file.truncate(shape.size)
        run(empty_command(path, job.label, inodes=shape.inodes, journal_mib=journal(shape.size)), path)
        blocks, inodes = free(path)
        lacking = shape.needed + shape.spare - blocks
        if lacking <= 0 and inodes >= plan.inodes:
            return shape
        if job.size:
            least = -(-(job.size + max(lacking, 0) * BLOCK) // MIB)
            raise BadRequest(f"the image does not fit in {job.size // MIB} MiB", hint=f"give it {least + 8} MiB or more, or no size")
        shape.grow(shape.size + (max(lacking, 0) + 256) * BLOCK)
    raise ToolFailed(f"mkfs.ext4 leaves no room for the image in {shape.size} bytes")


def run(command: list[str], path: Path) -> None:
    """mke2fs; NoSpace when the host's file system is full."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env={**os.environ, **FAKE_TIME}, check=False)
    except FileNotFoundError as error:
        raise HostLacks("the command mkfs.ext4 is missing on this host", hint="run: banger doctor") from error
    said = done.stderr.decode("utf-8", "replace").strip()
    if done.returncode and any(mark in said for mark in FULL):
        raise NoSpace(f"no space left for {path}", hint="free some space, or run: banger vm prune")
    if done.returncode and ("too small" in said or "too many inodes" in said or "too big" in said):
        raise BadRequest(f"the image does not fit in {path.stat().st_size // MIB} MiB: {said.splitlines()[-1]}", hint="give it more, or no size")
    if done.returncode:
        raise ToolFailed(f"mkfs.ext4 failed with status {done.returncode}: {said[-300:]}")


def free(path: Path) -> tuple[int, int]:
    """Free blocks and inodes, from the superblock."""
    with path.open("rb") as file:
        file.seek(SUPERBLOCK)
        block = file.read(SUPERBLOCK)
    blocks = int.from_bytes(block[0x0C:0x10], "little") | int.from_bytes(block[0x158:0x15C], "little") << 32
    return blocks, int.from_bytes(block[0x10:0x14], "little")


class Blocks:
    """Free blocks, handed out in order; what is left goes back."""

    def __init__(self, volume: Volume, count: int) -> None:
        self.volume = volume
        self.runs = volume.take(count)[::-1]

    def take(self, count: int) -> list[tuple[int, int]]:
        """(first, length) of as many as it takes, in order."""
        found = []
        while count:
            first, length = self.runs.pop()
            used = min(length, count)
            found.append((first, used))
            count -= used
            if used < length:
                self.runs.append((first + used, length - used))
        return found

    def extents(self, areas: Sequence[tuple[int, int]]) -> list[Extent]:
        """Room for parts of a file, (first, length) in it."""
        found = []
        for logical, count in areas:
            for first, length in self.take(count):
                for at in range(0, length, LONGEST_EXTENT):
                    part = min(LONGEST_EXTENT, length - at)
                    found.append((logical, first + at, part))
                    logical += part
        return found

    def close(self) -> None:
        """Give back what is left."""
        for first, length in self.runs:
            self.volume.give(first, length)


class Filler:
    """Fills an empty file system by a plan. `where` has the first block of each file that lies in one piece, `parts` the extents of the others."""

    def __init__(self, plan: Plan, volume: Volume, blocks: Blocks, file: int) -> None:
        self.plan, self.tree, self.volume, self.blocks, self.file = plan, plan.tree, volume, blocks, file
        self.where = array("I", bytes(4 * len(plan.number)))
        self.parts: dict[int, list[Extent]] = {}

    def clear(self) -> None:
        """Take away the folders that mke2fs has made, where others take their place."""
        for number in [ROOT_INODE, *([FOUND_INODE] if self.plan.found else [])]:
            body = self.volume.inode(number)
            for at in range(int.from_bytes(body[42:44], "little")):
                extent = body[52 + 12 * at : 64 + 12 * at]
                self.volume.give(int.from_bytes(extent[8:12], "little"), int.from_bytes(extent[4:6], "little"))

    def place(self) -> None:
        """Blocks for the contents of all files, in the order in which the layers have them."""
        nodes = self.tree.inodes
        for index in self.plan.reached():
            if not stat.S_ISREG(nodes.mode[index]) or not nodes.size[index]:
                continue
            extents = self.blocks.extents(self.plan.areas(index))
            if len(extents) == 1 and index not in self.tree.pieces:
                self.where[index] = extents[0][1]
            else:
                self.parts[index] = extents

    def describe(self) -> None:
        """Write all inodes and folders."""
        for index in self.plan.reached():
            mode = self.tree.inodes.mode[index]
            if stat.S_ISDIR(mode):
                self._folder(index)
            elif stat.S_ISREG(mode):
                size = self.tree.inodes.size[index]
                whole = [(0, self.where[index], -(-size // BLOCK))] if self.where[index] else []
                self._write(index, self.parts.get(index, whole), size=size)
            elif stat.S_ISLNK(mode):
                self._symlink(index)
            else:
                device = self.tree.inodes.place[index]
                body = device_body(device >> 32, device & 0xFFFFFFFF) if not stat.S_ISFIFO(mode) else b""
                self._write(index, None, size=0, body=body)

    def _folder(self, index: int) -> None:
        number, above = self.plan.number[index], self.plan.number[self.plan.above[index]]
        data = list(folder_blocks(number, above, self.plan.children(index)))
        extents = self.blocks.extents([(0, len(data))])
        self._write(index, extents, size=len(data) * BLOCK)
        for logical, first, length in extents:
            for at in range(length):
                self.volume.write_folder_block(first + at, data[logical + at], number)

    def _symlink(self, index: int) -> None:
        target = self.tree.target(index)
        if len(target) <= INLINE_LINK:
            self._write(index, None, size=len(target), body=target)
            return
        extents = self.blocks.extents([(0, 1)])
        self._write(index, extents, size=len(target))
        write(self.file, memoryview(target), extents[0][1] * BLOCK)

    def _write(self, index: int, extents: Sequence[Extent] | None, *, size: int, body: bytes = b"") -> None:
        """An inode; `extents` is None for those that have `body` instead."""
        nodes, number = self.tree.inodes, self.plan.number[index]
        inline = extents[:INLINE_EXTENTS] if extents is not None and len(extents) <= INLINE_EXTENTS else []
        if number not in (ROOT_INODE, FOUND_INODE):
            self.volume.claim(number, folder=stat.S_ISDIR(nodes.mode[index]))
        data = inode(
            mode=nodes.mode[index],
            uid=nodes.uid[index],
            gid=nodes.gid[index],
            size=size,
            links=self.plan.links[index],
            mtime=nodes.mtime[index],
            blocks=sum(length for _, _, length in extents or ()),
            body=body if extents is None else extent_root(inline),
            flags=0 if extents is None else EXTENTS,
        )
        self.volume.write_inode(number, data)
        if extents is not None and len(extents) > INLINE_EXTENTS:
            self.volume.write_extents(number, extents)
        if nodes.xattrs[index]:
            self.volume.write_xattrs(number, self.tree.xattrs[nodes.xattrs[index]], f"inode {number}")


def stretches(filler: Filler, layer: int) -> Iterator[tuple[int, int, int]]:
    """What of a layer's content goes where: (offset in its tar, length, offset in the file system), in the tar's order."""
    nodes, plan = filler.tree.inodes, filler.plan
    for index in plan.reached():
        if nodes.layer[index] != layer or not stat.S_ISREG(nodes.mode[index]):
            continue
        if filler.where[index]:
            yield nodes.place[index], nodes.size[index], filler.where[index] * BLOCK
        elif index in filler.parts:
            pieces = filler.tree.pieces.get(index, ((0, nodes.size[index], nodes.place[index]),))
            yield from laid(pieces, filler.parts[index])


def laid(pieces: Sequence[tuple[int, int, int]], extents: Sequence[Extent]) -> Iterator[tuple[int, int, int]]:
    """Pieces of a file (offset in it, length, offset in the tar) cut at the ends of its extents."""
    following = iter(extents)
    logical, first, length = next(following, (0, 0, 0))
    for offset, count, at in pieces:
        while count:
            while offset >= (logical + length) * BLOCK:
                logical, first, length = next(following)
            part = min(count, (logical + length) * BLOCK - offset)
            yield at, part, first * BLOCK + offset - logical * BLOCK
            offset, count, at = offset + part, count - part, at + part


def copy(layer: Layer, wanted: Iterator[tuple[int, int, int]], file: int, progress: Progress, *, verified: bool) -> None:
    """Unpack a layer and write what is wanted of it to its places: as far as anything is, or to the end when it is yet to be `verified`."""
    digest = None if verified else digest_for(layer)
    source: Source | None = None
    with Path(layer.path).open("rb") as blob:
        for at, length, place in wanted:
            source = source or Source(chunks(blob, layer, digest))
            if not source.skip(at - source.at):
                raise Corrupt(f"{name_of(layer)} has changed while it was read")
            before = source.at
            for view in source.views(length):
                place += write(file, view, place)
            if source.at - before != length:
                raise Corrupt(f"{name_of(layer)} has changed while it was read")
            progress.more(length)
        if digest is not None:
            (source or Source(chunks(blob, layer, digest))).drain()
            verify(layer, digest)


def chunks(blob: BinaryIO, layer: Layer, digest: hashlib._Hash | None) -> Iterator[bytes]:
    """What a layer unpacks to, and into a digest where one is wanted."""
    for chunk in unpacked(blob, name_of(layer)):
        if digest is not None:
            digest.update(chunk)
        yield chunk


def write(file: int, view: memoryview, at: int) -> int:
    """All of it."""
    done = 0
    while done < len(view):
        done += os.pwrite(file, view[done:], at + done)
    return done


def fill(job: Job, plan: Plan, shape: Shape, verified: Sequence[bool]) -> int:
    """Write everything; how many bytes the files hold. Contents are written in threads meanwhile."""
    os.environ |= FAKE_TIME
    volume = Volume(Path(job.path))
    blocks = Blocks(volume, shape.needed)
    file = os.open(job.path, os.O_RDWR | os.O_CLOEXEC)
    try:
        filler = Filler(plan, volume, blocks, file)
        filler.clear()
        filler.place()
        content = sum(length for layer in range(len(job.layers)) for _, length, _ in stretches(filler, layer))
        progress = Progress("write files", content)
        with ThreadPoolExecutor(THREADS) as threads:
            copies = [
                threads.submit(copy, layer, stretches(filler, number), file, progress, verified=verified[number])
                for number, layer in enumerate(job.layers)
            ]
            filler.describe()
            for each in copies:
                each.result()
        blocks.close()
        volume.close()
    finally:
        os.close(file)
    return content


def make(job: Job) -> Written:
    """Everything."""
    if len(job.layers) > MOST_LAYERS:
        raise Corrupt(f"the image has {len(job.layers)} layers; more than {MOST_LAYERS} cannot be meant")
    tree, verified = merged(job)
    found = tuple(path for path in job.look if tree.leads(os.fsencode(path)))
    plan = Plan(tree)
    shape = make_empty(job, plan)
    content = fill(job, plan, shape, verified)
    return Written(size=shape.size, content=content, entries=plan.entries, found=found)


def answer(job: Job) -> Outcome:
    """What came of it."""
    try:
        return Outcome(written=make(job))
    except (BangerError, OSError) as error:
        explained = explain(error, Path(job.path)) if isinstance(error, OSError) else error
        known = foreseen(explained)
        if known is None:
            raise
        return Outcome(code=known.code, message=str(known), hint=known.hint)
    except MemoryError:
        return Outcome(code=Corrupt.code, message="the image's layers take more memory than reading them may")


def large_blocks_apart() -> None:
    """Columns that grow are moved by the kernel, page by page, and not copied about in the heap, which would take their room twice (mallopt(3))."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, 1 << 20)


def main() -> int:
    """The process."""
    os.umask(0o077)
    large_blocks_apart()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    sys.stdout.buffer.write(msgspec.json.encode(answer(job)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
