"""What an image's layers amount to: one tree of names over inodes, in columns, so that a million entries take a hundred bytes each.

Layers are applied lowest first, by the rules of the OCI image specification as umoci reads them: a whiteout takes away what lower layers have and never
what its own layer brings, wherever in the layer it stands; a folder over a folder changes its attributes and keeps its content; anything else over
anything replaces it; a hard link is one more name of an inode, whichever layer brought it. The folders on the way to an entry are looked up as they are
by then: symbolic links among them are followed as if the image's root were the root. One that climbs above the root is refused.
Content stays where it is; an inode knows its layer and place. Nothing is removed: what is replaced is just no longer reached.
"""

from __future__ import annotations

import stat
from array import array

from banger.host.rootfs import Limits
from banger.host.rootfs.tar import BLOCK_DEVICE, CHAR, FIFO, FILE, FOLDER, LINK, SYMLINK, Entry, Piece, shown
from banger.model.errors import Corrupt

ROOT = 1
WHITEOUT, OPAQUE = b".wh.", b".wh..wh..opq"
KINDS = {
    FILE: stat.S_IFREG,
    SYMLINK: stat.S_IFLNK,
    CHAR: stat.S_IFCHR,
    BLOCK_DEVICE: stat.S_IFBLK,
    FOLDER: stat.S_IFDIR,
    FIFO: stat.S_IFIFO,
}
#: As many as the kernel follows (path_resolution(7)).
MOST_LINKS = 40
#: How many folders' whereabouts are remembered between entries.
REMEMBERED = 4096


#: On a walk: a folder, the oldest layer whose names count in it, and which name led there.
Step = tuple[int, int, int]


class Inodes:
    """Columns; the index is the inode's number here. 0 is none, 1 the root. `place`: the content's in its layer's tar, or of a link's target."""

    def __init__(self) -> None:
        self.mode, self.layer = array("H"), array("H")
        self.uid, self.gid, self.xattrs = array("I"), array("I"), array("I")
        self.mtime, self.size, self.place = array("q"), array("Q"), array("Q")

    def add(self, mode: int, uid: int, gid: int, mtime: int, size: int, layer: int, place: int, xattrs: int) -> int:
        """Another one."""
        self.mode.append(mode)
        self.uid.append(uid)
        self.gid.append(gid)
        self.mtime.append(mtime)
        self.size.append(size)
        self.layer.append(layer)
        self.place.append(place)
        self.xattrs.append(xattrs)
        return len(self.mode) - 1


class Names:
    """Columns, with a hash table (open addressing) from folder and name to index. `layer` is the last that brought the name or something below it."""

    def __init__(self) -> None:
        self.folder, self.inode, self.start = array("I"), array("I"), array("I")
        self.length, self.layer = array("B"), array("H")
        self.text = bytearray()
        self.table = array("I", bytes(4 << 12))

    def find(self, folder: int, name: bytes) -> int:
        """The latest name of that kind in the folder, or -1."""
        table, mask = self.table, len(self.table) - 1
        slot = hash((folder, name)) & mask
        while held := table[slot]:
            at = held - 1
            if self.folder[at] == folder and self.length[at] == len(name):
                start = self.start[at]
                if self.text[start : start + len(name)] == name:
                    return at
            slot = (slot + 1) & mask
        return -1

    def add(self, folder: int, name: bytes, inode: int, layer: int) -> int:
        """Another one; the folder must not have it."""
        self.folder.append(folder)
        self.inode.append(inode)
        self.start.append(len(self.text))
        self.length.append(len(name))
        self.layer.append(layer)
        self.text += name
        count = len(self.folder)
        if 2 * count > len(self.table):
            self._grow()
        else:
            self._enter(count - 1, name)
        return count - 1

    def name(self, at: int) -> bytes:
        """Its bytes."""
        start = self.start[at]
        return bytes(self.text[start : start + self.length[at]])

    def _enter(self, at: int, name: bytes) -> None:
        table, mask = self.table, len(self.table) - 1
        slot = hash((self.folder[at], name)) & mask
        while table[slot]:
            slot = (slot + 1) & mask
        table[slot] = at + 1

    def _grow(self) -> None:
        size = 16 * len(self.table)  # in bytes of four: fourfold
        self.table = array("I")
        self.table.frombytes(bytes(size))
        for at in range(len(self.folder)):
            self._enter(at, self.name(at))


class Tree:
    """The tree; `apply` the entries of a layer to it after `begin`. `what` names the layer in errors."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.inodes, self.names = Inodes(), Names()
        self.pieces: dict[int, tuple[Piece, ...]] = {}
        self.xattrs: list[tuple[tuple[bytes, bytes], ...]] = [()]
        self.known: dict[tuple[tuple[bytes, bytes], ...], int] = {(): 0}
        #: Folders of which only names of this layer and later ones count, and the same for all below.
        self.opaque: dict[int, int] = {}
        self.targets = bytearray()
        self.layer, self.what, self.plain = 0, "", False
        self.remembered: dict[bytes, tuple[int, int]] = {}
        self.inodes.add(0, 0, 0, 0, 0, 0, 0, 0)
        self.inodes.add(stat.S_IFDIR | 0o755, 0, 0, 0, 0, 0, 0, 0)

    def begin(self, layer: int, what: str, *, plain: bool = False) -> None:
        """What is applied from now on is of this layer (numbered from 0); in a `plain` one nothing is a whiteout."""
        self.layer, self.what, self.plain = layer, what, plain
        self.remembered.clear()

    def apply(self, entry: Entry) -> None:
        """One entry; Corrupt names it when it cannot be."""
        folder, _, name = entry.name.rpartition(b"/")
        if not name:
            if entry.kind != FOLDER:
                raise self._wrong(entry.name, "would make the root something else than a folder")
            self._attributes(ROOT, entry)
        elif name.startswith(WHITEOUT) and not self.plain:
            self._whiteout(folder, name)
        else:
            inside, floor = self._reach(folder, entry.name)
            self._put(inside, floor, name, entry)

    def _put(self, inside: int, floor: int, name: bytes, entry: Entry) -> None:
        at = self.names.find(inside, name)
        present = self.names.inode[at] if at >= 0 and self.names.layer[at] >= floor else 0
        if entry.kind == FOLDER and present and stat.S_ISDIR(self.inodes.mode[present]):
            self._attributes(present, entry)
            inode = present
        elif entry.kind == LINK:
            inode = self._linked(entry)
        else:
            inode = self._made(entry)
        if present and inode != present and stat.S_IFMT(self.inodes.mode[present]) in (stat.S_IFDIR, stat.S_IFLNK):
            self.remembered.clear()
        self._name(at, inside, name, inode)

    def _name(self, at: int, inside: int, name: bytes, inode: int) -> None:
        if at >= 0:
            self.names.inode[at], self.names.layer[at] = inode, self.layer
        else:
            self.names.add(inside, name, inode, self.layer)

    def _made(self, entry: Entry) -> int:
        place, size = entry.at, entry.size
        if entry.kind == SYMLINK:
            place, size = len(self.targets), len(entry.link)
            self.targets += entry.link
        elif entry.kind in (CHAR, BLOCK_DEVICE):
            place = entry.device[0] << 32 | entry.device[1]
        mode = KINDS[entry.kind] | (0o777 if entry.kind == SYMLINK else entry.mode)
        xattrs = self._shared(entry.xattrs)
        inode = self.inodes.add(mode, entry.uid, entry.gid, entry.mtime, size, self.layer, place, xattrs)
        if entry.pieces is not None:
            self.pieces[inode] = entry.pieces
        return inode

    def _attributes(self, inode: int, entry: Entry) -> None:
        nodes = self.inodes
        nodes.mode[inode], nodes.mtime[inode] = stat.S_IFDIR | entry.mode, entry.mtime
        nodes.uid[inode], nodes.gid[inode] = entry.uid, entry.gid
        nodes.xattrs[inode] = self._shared(entry.xattrs)

    def _shared(self, xattrs: tuple[tuple[bytes, bytes], ...]) -> int:
        """Most files with attributes have the same ones."""
        number = self.known.get(xattrs)
        if number is None:
            number = self.known[xattrs] = len(self.xattrs)
            self.xattrs.append(xattrs)
        return number

    def _linked(self, entry: Entry) -> int:
        folder, _, name = entry.link.rpartition(b"/")
        found = self._walk(folder, entry.name)
        inode = self._child(found[0], found[1], name) if found is not None else 0
        if not inode:
            raise self._wrong(entry.name, f"is a hard link to what is not there: {shown(entry.link)}")
        if stat.S_ISDIR(self.inodes.mode[inode]):
            raise self._wrong(entry.name, f"is a hard link to a folder: {shown(entry.link)}")
        return inode

    def _whiteout(self, folder: bytes, name: bytes) -> None:
        """Of what is marked, everything goes that this layer has neither brought nor brought something into."""
        found = self._walk(folder, folder + b"/" + name)
        if found is None:
            return
        inside, floor = found
        self.remembered.clear()
        if name == OPAQUE:
            self.opaque[inside] = self.layer
            return
        at = self.names.find(inside, name[len(WHITEOUT) :])
        if at < 0 or self.names.layer[at] < floor or not self.names.inode[at]:
            return
        if self.names.layer[at] < self.layer:
            self.names.inode[at] = 0
        elif stat.S_ISDIR(self.inodes.mode[self.names.inode[at]]):
            self.opaque[self.names.inode[at]] = self.layer

    def _child(self, folder: int, floor: int, name: bytes) -> int:
        """The inode of a name that counts, or 0."""
        at = self.names.find(folder, name)
        return self.names.inode[at] if at >= 0 and self.names.layer[at] >= floor else 0

    def _reach(self, folder: bytes, entry: bytes) -> tuple[int, int]:
        """The folder that an entry goes to, and the oldest layer whose names count there. Made where it is missing; it counts as this layer's."""
        known = self.remembered.get(folder)
        if known is None:
            known = self._resolve(folder, entry, make=True)
            assert known is not None, "what is missing has been made"
            if len(self.remembered) >= REMEMBERED:
                self.remembered.clear()
            self.remembered[folder] = known
        return known

    def _walk(self, folder: bytes, entry: bytes) -> tuple[int, int] | None:
        """The same without making anything; None when it is not there."""
        return self.remembered.get(folder) or self._resolve(folder, entry, make=False)

    def _resolve(self, path: bytes, entry: bytes, *, make: bool) -> tuple[int, int] | None:
        """Walk `path` from the root, symbolic links followed inside of it: (folder, floor). The last to be made are made."""
        waiting = [part for part in reversed(path.split(b"/")) if part]
        way: list[Step] = [(ROOT, self.opaque.get(ROOT, 0), -1)]
        links = 0
        while waiting:
            part = waiting.pop()
            if part == b"..":
                self._up(way, entry)
                continue
            inode, at = self._next(way, part, entry, make=make)
            if not inode:
                return None
            if stat.S_ISDIR(self.inodes.mode[inode]):
                way.append((inode, max(way[-1][1], self.opaque.get(inode, 0)), at))
                continue
            links += 1
            if links > MOST_LINKS:
                raise self._wrong(entry, "leads through a circle of symbolic links")
            target = self.target(inode)
            way = way[:1] if target.startswith(b"/") else way
            waiting += [each for each in reversed(target.split(b"/")) if each not in (b"", b".")]
        if make:
            for _, _, at in way[1:]:
                self.names.layer[at] = self.layer
        return way[-1][0], way[-1][1]

    def _up(self, way: list[Step], entry: bytes) -> None:
        if len(way) == 1:
            raise self._wrong(entry, "leads outside, through a symbolic link that climbs above the root")
        way.pop()

    def _next(self, way: list[Step], name: bytes, entry: bytes, *, make: bool) -> tuple[int, int]:
        """The folder or symbolic link of that name, and where the name is; (0, -1) when there is none and none is to be made."""
        inside, floor, _ = way[-1]
        at = self.names.find(inside, name)
        inode = self.names.inode[at] if at >= 0 and self.names.layer[at] >= floor else 0
        if inode and stat.S_IFMT(self.inodes.mode[inode]) in (stat.S_IFDIR, stat.S_IFLNK):
            return inode, at
        if not make:
            return 0, -1
        if inode:
            raise self._wrong(entry, f"is below {shown(name)}, which is no folder")
        if len(way) >= self.limits.depth:
            raise self._wrong(entry, f"is more than {self.limits.depth} folders deep")
        return self._missing(at, inside, name, entry)

    def _missing(self, at: int, inside: int, name: bytes, entry: bytes) -> tuple[int, int]:
        """A folder that no layer has an entry for: root's, 0755, from 1970."""
        if len(name) > 255:
            raise self._wrong(entry, "leads through a symbolic link to a name that no file system can have")
        if len(self.names.folder) >= self.limits.entries:
            raise self._wrong(entry, f"is one too many: an image may have {self.limits.entries}")
        inode = self.inodes.add(stat.S_IFDIR | 0o755, 0, 0, 0, 0, self.layer, 0, 0)
        self._name(at, inside, name, inode)
        return inode, at if at >= 0 else len(self.names.folder) - 1

    def target(self, inode: int) -> bytes:
        """Where a symbolic link leads."""
        start = self.inodes.place[inode]
        return bytes(self.targets[start : start + self.inodes.size[inode]])

    def leads(self, path: bytes) -> bool:
        """Whether there is something at a path, symbolic links followed."""
        try:
            folder, _, name = path.strip(b"/").rpartition(b"/")
            for _ in range(MOST_LINKS):
                found = self._resolve(folder, path, make=False)
                inode = self._child(found[0], found[1], name) if found is not None else 0
                if not inode or not stat.S_ISLNK(self.inodes.mode[inode]):
                    return bool(inode)
                target = self.target(inode)
                whole = target if target.startswith(b"/") else folder + b"/" + target
                folder, _, name = whole.strip(b"/").rpartition(b"/")
        except Corrupt:
            return False
        return False

    def close(self) -> None:
        """Nothing more is looked up: give back the room that this takes."""
        self.names.table = array("I")
        self.remembered.clear()

    def _wrong(self, entry: bytes, what: str) -> Corrupt:
        return Corrupt(f"{self.what}: the entry {shown(entry)} {what}")
