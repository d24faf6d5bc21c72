"""How a tree becomes a file system: which names and inodes are reached, their numbers, and how much room they take. Pure."""

from __future__ import annotations

import stat
from array import array
from collections.abc import Iterator

from banger.host.rootfs.ext2fs import BLOCK, INODE_SIZE
from banger.host.rootfs.ext4bytes import INLINE_EXTENTS, INLINE_LINK
from banger.host.rootfs.tree import ROOT, Tree
from banger.model.errors import Corrupt

MIB = 1 << 20
#: ext4's own: the root's inode, that of the folder where e2fsck puts what it finds, and the first that is free.
ROOT_INODE, FOUND_INODE, FIRST_INODE = 2, 11, 12
FOUND = b"lost+found"
#: How many inodes a group has room for in its bitmap, and how long a group is.
GROUP_INODES, GROUP = 8 * BLOCK, 8 * BLOCK * BLOCK
#: An extent tree's block has room for as many.
TREE_EXTENTS = 340
#: Free room beside the content: a tenth, and a little that guests without an overlay may need.
HEADROOM = 32 * MIB
#: ext4 counts a file's links in 16 bits and stops here.
MOST_NAMES = 65000


class Plan:
    """What of a tree is reached; nothing can be looked up in that any more. `number` has each inode's number in the file system (0: not reached),
    `links` how often it is named."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.found = self._lost_and_found()
        tree.close()
        count = len(tree.inodes.mode)
        self.number, self.links = array("I", bytes(4 * count)), array("I", bytes(4 * count))
        self.above = array("I", bytes(4 * count))
        self.first, self.order = self._by_folder(count)
        self.entries = self._reach()
        self._enumerate()

    def _by_folder(self, count: int) -> tuple[array[int], array[int]]:
        """The names of each folder side by side: where each folder's begin in the order, and the order."""
        names = self.tree.names
        first = array("I", bytes(4 * (count + 2)))
        for at, inode in enumerate(names.inode):
            if inode:
                first[names.folder[at] + 2] += 1
        for folder in range(2, len(first)):
            first[folder] += first[folder - 1]
        order = array("I", bytes(4 * first[-1]))
        for at, inode in enumerate(names.inode):
            if inode:
                place = names.folder[at] + 1
                order[first[place]] = at
                first[place] += 1
        return first, order

    def _reach(self) -> int:
        """Walk from the root. What counts no more (an opaque folder came later) is crossed out; the number of names that are left."""
        names, mode, opaque = self.tree.names, self.tree.inodes.mode, self.tree.opaque
        waiting = [(ROOT, opaque.get(ROOT, 0))]
        self.number[ROOT], self.links[ROOT], self.above[ROOT] = 1, 2, ROOT
        entries = 0
        while waiting:
            folder, floor = waiting.pop()
            for place in range(self.first[folder], self.first[folder + 1]):
                at = self.order[place]
                inode = names.inode[at]
                if names.layer[at] < floor:
                    names.inode[at] = 0
                    continue
                entries += 1
                self.number[inode] = 1
                if stat.S_ISDIR(mode[inode]):
                    self.links[folder] += 1
                    self.links[inode] += 2
                    self.above[inode] = folder
                    waiting.append((inode, max(floor, opaque.get(inode, 0))))
                else:
                    self.links[inode] += 1
        return entries

    def _enumerate(self) -> None:
        """In the order in which the layers brought them, so that what was packed together lies together."""
        number = FIRST_INODE
        for inode, reached in enumerate(self.number):
            if not reached:
                continue
            if inode == ROOT:
                self.number[inode] = ROOT_INODE
            elif inode == self.found:
                self.number[inode] = FOUND_INODE
            else:
                self.number[inode] = number
                number += 1
        self.inodes = number
        if not self.found:
            self.links[ROOT] += 1
        for inode, links in enumerate(self.links):
            if links > MOST_NAMES and not stat.S_ISDIR(self.tree.inodes.mode[inode]):
                raise Corrupt(f"a file has {links} names; ext4 can hold {MOST_NAMES}")

    def _lost_and_found(self) -> int:
        """An image's own, or 0. The file system has one anyway, with a number of its own."""
        at = self.tree.names.find(ROOT, FOUND)
        inode = self.tree.names.inode[at] if at >= 0 and self.tree.names.layer[at] >= self.tree.opaque.get(ROOT, 0) else 0
        if inode and not stat.S_ISDIR(self.tree.inodes.mode[inode]):
            raise Corrupt("the image has a lost+found that is no folder; ext4 needs that name")
        return inode

    def reached(self) -> Iterator[int]:
        """Every inode that is reached."""
        return (inode for inode, number in enumerate(self.number) if number)

    def children(self, folder: int) -> list[tuple[bytes, int, int]]:
        """A folder's names in order, each with the number and mode of its inode."""
        names, found = self.tree.names, []
        for place in range(self.first[folder], self.first[folder + 1]):
            at = self.order[place]
            inode = names.inode[at]
            if inode:
                found.append((names.name(at), self.number[inode], self.tree.inodes.mode[inode]))
        if folder == ROOT and not self.found:
            found.append((FOUND, FOUND_INODE, stat.S_IFDIR))
        return sorted(found)

    def areas(self, inode: int) -> list[tuple[int, int]]:
        """Which blocks of a file have content: (first, length), in order, never touching."""
        size = self.tree.inodes.size[inode]
        pieces = self.tree.pieces.get(inode)
        if pieces is None:
            return [(0, -(-size // BLOCK))] if size else []
        found: list[tuple[int, int]] = []
        for offset, length, _ in pieces:
            first, end = offset // BLOCK, -(-(offset + length) // BLOCK)
            if found and first <= sum(found[-1]):
                found[-1] = (found[-1][0], max(end, sum(found[-1])) - found[-1][0])
            else:
                found.append((first, end - first))
        return found


def blocks_needed(plan: Plan) -> int:
    """Blocks that all of it takes at most: content, folders, long symbolic links, attributes, and trees of more extents than an inode holds."""
    nodes, total, names = plan.tree.inodes, 0, 0
    for inode in plan.reached():
        mode, size = nodes.mode[inode], nodes.size[inode]
        if stat.S_ISREG(mode):
            areas = plan.areas(inode) if inode in plan.tree.pieces else [(0, -(-size // BLOCK))]
            total += sum(length for _, length in areas)
            total += len(areas) // TREE_EXTENTS + 2 if len(areas) > INLINE_EXTENTS // 2 else 0
        elif stat.S_ISDIR(mode):
            total += 1
            names += 1
        elif stat.S_ISLNK(mode) and size > INLINE_LINK:
            total += 1
        total += nodes.xattrs[inode] > 0
    held = len(plan.tree.names.text) + 12 * len(plan.tree.names.folder)
    return total + held // (BLOCK - 12 - 264) + names // 64 + 16


class Shape:
    """A file system's size, and how many inodes and MiB of journal it is made with. `spare` blocks are to be free beside the content."""

    def __init__(self, plan: Plan, size: int) -> None:
        self.needed = blocks_needed(plan)
        content = self.needed * BLOCK
        self.spare = 0 if size else (content // 10 + HEADROOM) // BLOCK
        if size:
            self.inodes = plan.inodes + min(plan.inodes // 4 + 1024, size // 16384)
            self.size = size // BLOCK * BLOCK
        else:
            floor = content + self.spare * BLOCK
            self.inodes = max(plan.inodes + plan.inodes // 4 + 1024, floor // 8192)
            self.grow(floor + self.inodes * INODE_SIZE + journal(floor) * MIB + floor // GROUP * 64 * BLOCK)

    def grow(self, size: int) -> None:
        """Take another size, in whole MiB, with as many groups as the inodes need."""
        groups = -(-self.inodes // (GROUP_INODES - 64))
        least = (groups - 1) * GROUP + 16 * MIB if groups > 1 else 0
        self.size = -(-max(size, least) // MIB) * MIB


def journal(size: int) -> int:
    """MiB of journal, as mke2fs has it up to 64 (ext2fs_default_journal_size)."""
    steps = ((128 * MIB, 4), (1024 * MIB, 16), (2048 * MIB, 32))
    return next((mib for limit, mib in steps if size < limit), 64)
