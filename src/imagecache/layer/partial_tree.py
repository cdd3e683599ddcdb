"""The tree while entries arrive: where a name belongs, which parents it implies, what it removes.

It is the directory that containerd unpacks one layer into, in memory: it has only what this layer wrote. It must not
know types, attributes or whiteouts; ``assemble`` does. Sections are those of ``docs/internals/unpack-rules.md``.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass

from imagecache.errors import LimitExceeded, UnsafeLayer
from imagecache.layer.path_resolver import PathResolver, ResolvedPath, clean, tree_lookup
from imagecache.layer.tar_entry import quoted
from imagecache.limits import Limits
from imagecache.tree import Inode, directory

_NO_NAME = frozenset({b"", b".", b".."})
_REMEMBERED_PARENTS = 1 << 15
"""Enough for the directories of real layers, which come back again and again; a bound for those of an attacker."""


@dataclass(slots=True, eq=False)
class ImpliedDirectory:
    """A directory that was made because something in it came before its own entry, or without one.

    Its mode, owner and xattrs are those of the layers below (§2): see ``implied_directories``.
    """

    path: ResolvedPath
    inode: Inode
    inherits: ImpliedDirectory | None
    """The parent, if it is implied too: a setgid parent hands its group down."""
    overridden: bool = False
    """Its own entry came later: mode and owner are the entry's, xattrs from below stay beside the entry's."""
    timed: bool = False
    """The entry of an earlier directory at its path has set its time (§8)."""
    gone: bool = False
    """A later entry removed it. containerd looked at the layers below when it made it, and that can fail the pull."""


class PartialTree:
    """A root directory, 0755 0:0, and what entries have put into it so far."""

    def __init__(self, limits: Limits) -> None:
        self.root = directory()
        self.reshaped = False
        """A directory or a symlink was removed: names of earlier entries may lead elsewhere now."""
        self._limits = limits
        self._resolver = PathResolver(self.root, tree_lookup, limits)
        self._parents: dict[bytes, Inode] = {b"": self.root}
        """Directory part of a name, as written, to the directory it leads to: spares most entries the path walk."""
        self._implied: dict[int, ImpliedDirectory] = {}
        """By ``id`` of the inode, which the record keeps alive."""
        self._erased: set[bytes] = set()
        """Paths that entries wrote and a later entry removed. The bottom layer's opaque markers spare them (§11)."""

    def locate(self, name: bytes) -> tuple[Inode, bytes] | None:
        """The directory and the last component of an entry's name, with missing parents made; None for the root (§7).

        Symlinks in the directory part are followed inside this tree, the last component never is (§6).
        """
        head, _, base = name.removesuffix(b"/").rpartition(b"/")
        if base in _NO_NAME:
            head, _, base = clean(name).rpartition(b"/")
            if base in _NO_NAME:
                return None
        parent = self._parents.get(head)
        return (parent or self._make_parent(head)), base

    def known(self, name: bytes) -> tuple[Inode | None, bytes]:
        """As ``locate`` for a name in a directory that earlier entries have led to; None where it has to look."""
        head, _, base = name.rpartition(b"/")
        return (None if base in _NO_NAME else self._parents.get(head)), base

    def directory_of(self, name: bytes) -> ResolvedPath:
        """Where the directory part of an entry's name leads."""
        return self._resolver.resolve(clean(name).rpartition(b"/")[0])

    def find(self, path: bytes) -> Inode | None:
        """What ``path`` leads to; the last component is followed too."""
        return self._resolver.find(self._resolver.resolve(path))

    def link_target(self, target: bytes) -> Inode | None:
        """What a hard link's target names (§4): the directory part is followed, the last component is not."""
        head, _, base = target.rpartition(b"/")
        if base == b"..":
            return self.root
        parent = self._parents.get(head) if b".." not in head else None
        parent = parent or self.find(head)
        if parent is None or base in _NO_NAME:
            return parent
        if not parent.is_dir:
            raise UnsafeLayer(f"hard link to {quoted(target)}: a parent of the target is not a directory")
        return parent.children.get(base)

    def _make_parent(self, head: bytes) -> Inode:
        if len(head) > self._limits.path_length:
            raise LimitExceeded(f"path {quoted(head)} is longer than {self._limits.path_length} bytes")
        path = self._resolver.resolve(clean(head))
        inode = self.root
        for depth, part in enumerate(path):
            child = inode.children.get(part)
            if child is None:
                child = self._imply(inode, path[: depth + 1])
            elif not child.is_dir:
                raise UnsafeLayer(f"not a directory: {quoted(b'/'.join(path[: depth + 1]))}, a parent of an entry")
            inode = child
        if len(self._parents) >= _REMEMBERED_PARENTS:
            self._forget_parents()
        self._parents[head] = inode
        return inode

    def _imply(self, parent: Inode, path: ResolvedPath) -> Inode:
        inode = directory()
        inode.gid = self.inherited_gid(parent)
        record = self._implied.get(id(parent))
        inherits = record if record is not None and not record.overridden else None
        self._implied[id(inode)] = ImpliedDirectory(path, inode, inherits)
        parent.children[path[-1]] = inode
        return inode

    @staticmethod
    def inherited_gid(parent: Inode) -> int:
        """The group that mkdir(2), open(2) and mknod(2) give to something new in ``parent``."""
        return parent.gid if parent.mode & stat.S_ISGID else 0

    def override(self, inode: Inode) -> None:
        """Note that an existing directory got an entry of its own."""
        if (record := self._implied.get(id(inode))) is not None:
            record.overridden = True

    def remove(self, name: bytes, parent: Inode, base: bytes, old: Inode) -> None:
        """Remove ``old``, which ``base`` names in ``parent``, with everything in it. ``name`` is the entry's."""
        self._detach(parent, (*self.directory_of(name), base), old)

    def note_written(self, name: bytes, base: bytes) -> None:
        """Count an entry as written, although it makes nothing."""
        self._erased.add(b"/".join((*self.directory_of(name), base)))

    def remove_unwritten(self, name: bytes, parent: Inode) -> None:
        """Remove every directory below ``parent`` that is only implied, with everything in it (§11)."""
        pending = [(self.directory_of(name), parent)]
        while pending:
            path, inode = pending.pop()
            for base, child in list(inode.children.items()):
                where = (*path, base)
                if not self._is_written(where, child):
                    self._detach(inode, where, child)
                elif child.is_dir:
                    pending.append((where, child))

    def _is_written(self, path: ResolvedPath, inode: Inode) -> bool:
        record = self._implied.get(id(inode))
        return record is None or record.overridden or b"/".join(path) in self._erased

    def _detach(self, parent: Inode, path: ResolvedPath, old: Inode) -> None:
        del parent.children[path[-1]]
        if old.is_dir or old.is_symlink:
            self.reshaped = True
            self._forget_parents()  # any of them may have led through it
        pending = [(path, old)]
        while pending:
            where, inode = pending.pop()
            if self._is_written(where, inode):
                self._erased.add(b"/".join(where))
            pending.extend(((*where, base), child) for base, child in inode.children.items())

    def _forget_parents(self) -> None:
        self._parents.clear()
        self._parents[b""] = self.root

    def implied(self) -> list[ImpliedDirectory]:
        """Every implied directory, parents before children, removed ones too."""
        records = list(self._implied.values())
        if self.reshaped:
            alive = {id(inode) for inode in directories(self.root)}
            for record in records:
                record.gone = id(record.inode) not in alive
        return records


def directories(root: Inode) -> Iterator[Inode]:
    """Every directory of a tree, the root first."""
    pending = [root]
    while pending:
        inode = pending.pop()
        yield inode
        # without a call of the property: once for each file of a layer
        pending += [child for child in inode.children.values() if child.mode & 0o170000 == stat.S_IFDIR]
