"""The tree while entries arrive: where a name belongs, which parents it implies, what it removes.

It is the directory that containerd unpacks one layer into, in memory: it has only what this layer wrote. Every
directory knows its own place, so no path is resolved to find out where something is, and a parent beside known ones is
one lookup. It must not know types, attributes or whiteouts; ``assemble`` does. Sections are those of
``docs/internals/unpack-rules.md``.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from imagecache.errors import LimitExceeded, UnsafeLayer
from imagecache.layer.budget import Budget
from imagecache.layer.path_resolver import PathResolver, ResolvedPath, clean, tree_lookup
from imagecache.layer.place import Place
from imagecache.layer.tar_entry import quoted
from imagecache.limits import MIB, Limits
from imagecache.tree import Inode

_NO_NAME = frozenset({b"", b".", b".."})
_REMEMBERED_PARENTS = 1 << 15
"""Enough for the directories of real layers, which come back again and again; a bound for those of an attacker."""
_REMEMBERED_TEXT = 8 * MIB
"""The same, for all their names together."""
_REMEMBERED_PLACE = 256
"""Bytes of a place that is remembered."""


@dataclass(slots=True, eq=False)
class LayerDirectory(Inode):
    """A directory of the layer."""

    children: dict[bytes, Inode] = field(default_factory=dict)
    place: Place = field(kw_only=True)
    implied: ImpliedDirectory | None = None
    """Set when it was made for something in it."""

    @property
    def written(self) -> bool:
        """An entry has made it, or another one at its path (§11)."""
        return self.implied is None or self.implied.overridden or self.place.written


@dataclass(slots=True, eq=False)
class ImpliedDirectory:
    """A directory that was made because something in it came before its own entry, or without one.

    Its mode, owner and xattrs are those of the layers below (§2): see ``implied_directories``.
    """

    inode: LayerDirectory
    inherits: ImpliedDirectory | None
    """The parent, if it is implied too: a setgid parent hands its group down."""
    overridden: bool = False
    """Its own entry came later: mode and owner are the entry's, xattrs from below stay beside the entry's."""
    timed: bool = False
    """The entry of an earlier directory at its path has set its time (§8)."""
    gone: bool = False
    """A later entry removed it. containerd looked at the layers below when it made it, and that can fail the pull."""

    @property
    def path(self) -> ResolvedPath:
        return self.inode.place.path()


class PartialTree:
    """A root directory, 0755 0:0, and what entries have put into it so far."""

    def __init__(self, limits: Limits, budget: Budget, *, remembers: bool) -> None:
        """``remembers``: what was removed still matters, as it does in the bottom layer (§11)."""
        self.root = LayerDirectory(stat.S_IFDIR | 0o755, nlink=2, place=Place(None, b""))
        self.reshaped = False
        """A directory or a symlink was removed: names of earlier entries may lead elsewhere now."""
        self._limits = limits
        self._budget = budget
        self._remembers = remembers
        self._resolver = PathResolver(self.root, tree_lookup, limits, budget.step)
        self._parents: dict[bytes, LayerDirectory] = {b"": self.root}
        """Directory part of a name, as written, to the directory it leads to: spares most entries the path walk."""
        self._text = 0
        """Bytes of those names."""
        self._crooked: set[bytes] = set()
        """Those of them that lead over symlinks, or up: what is behind them must be resolved as a whole (§6)."""
        self._implied: list[ImpliedDirectory] = []

    def locate(self, name: bytes) -> tuple[LayerDirectory, bytes] | None:
        """The directory and the last component of an entry's name, with missing parents made; None for the root (§7).

        Symlinks in the directory part are followed inside this tree, the last component never is (§6).
        """
        head, _, base = name.removesuffix(b"/").rpartition(b"/")
        if base in _NO_NAME:
            self._budget.step(len(name) // 2)
            head, _, base = clean(name).rpartition(b"/")
            if base in _NO_NAME:
                return None
        parent = self._parents.get(head)
        return (parent or self._make_parent(head)), base

    def known(self, name: bytes) -> tuple[LayerDirectory | None, bytes]:
        """As ``locate`` for a name in a directory that earlier entries have led to; None where it has to look."""
        head, _, base = name.rpartition(b"/")
        return (None if base in _NO_NAME else self._parents.get(head)), base

    def find(self, path: bytes) -> Inode | None:
        """What ``path`` leads to; the last component is followed too."""
        name = path.removesuffix(b"/")
        if b".." not in name:
            if (known := self._parents.get(name)) is not None:
                return known
            head, _, base = name.rpartition(b"/")
            if head not in self._parents:
                self._find_parent(head)
            above = self._straight(head, base)
            found = None if above is None else above.children.get(base)
            if found is not None and not found.is_symlink:
                if isinstance(found, LayerDirectory):
                    self._remember_parent(name, found)
                return found
        return self._resolver.find(self._resolver.resolve(path))

    def link_target(self, target: bytes) -> Inode | None:
        """What a hard link's target names (§4): the directory part is followed, the last component is not."""
        head, _, base = target.rpartition(b"/")
        if base == b"..":
            return self.root
        parent: Inode | None = self._parents.get(head) if b".." not in head else None
        parent = parent or self._find_parent(head)
        if parent is None or base in _NO_NAME:
            return parent
        if not parent.is_dir:
            raise UnsafeLayer(f"hard link to {quoted(target)}: a parent of the target is not a directory")
        return parent.children.get(base)

    def _find_parent(self, head: bytes) -> Inode | None:
        path = self._resolver.resolve(head)
        found = self._resolver.find(path)
        if isinstance(found, LayerDirectory) and b".." not in head:
            self._remember_parent(head, found, path)
        return found

    def _straight(self, head: bytes, base: bytes) -> LayerDirectory | None:
        """The known directory ``head``, if ``base`` in it is one step away and no symlink was on the way."""
        if base in _NO_NAME or head in self._crooked:
            return None
        return self._parents.get(head)

    def _make_parent(self, head: bytes) -> LayerDirectory:
        if len(head) > self._limits.path_length:
            raise LimitExceeded(f"path {quoted(head)} is longer than {self._limits.path_length} bytes")
        before, _, base = head.rpartition(b"/")
        above = self._straight(before, base)
        child = None if above is None else above.children.get(base)
        if above is None or (child is not None and child.is_symlink):
            return self._walk_parent(head)
        inode = self._enter(above, base, child)
        self._remember_parent(head, inode)
        return inode

    def _walk_parent(self, head: bytes) -> LayerDirectory:
        self._budget.step(len(head) // 2)
        path = self._resolver.resolve(clean(head))
        inode = self.root
        for part in path:
            inode = self._enter(inode, part, inode.children.get(part))
        self._remember_parent(head, inode, path)
        return inode

    def _enter(self, above: LayerDirectory, name: bytes, child: Inode | None) -> LayerDirectory:
        """The directory ``name``, which is ``child`` or has to be made."""
        if child is None:
            child = self._imply(above, name)
        elif not isinstance(child, LayerDirectory):
            path = b"/".join((*above.place.path(), name))
            raise UnsafeLayer(f"not a directory: {quoted(path)}, a parent of an entry")
        self._check(child.place)
        return child

    def _check(self, place: Place) -> None:
        """Something is put into the directory there."""
        limits = self._limits
        if place.depth > limits.path_depth:
            path = b"/".join(place.path())
            raise LimitExceeded(f"path {quoted(path)} is deeper than {limits.path_depth} directories")
        if place.length > limits.path_length:
            path = b"/".join(place.path())
            raise LimitExceeded(f"path {quoted(path)} is longer than {limits.path_length} bytes")

    def _remember_parent(self, head: bytes, inode: LayerDirectory, path: ResolvedPath | None = None) -> None:
        """``path``: how it was resolved; None: beside a straight one."""
        self._text += len(head)
        if len(self._parents) >= _REMEMBERED_PARENTS or self._text > _REMEMBERED_TEXT:
            self._forget_parents()
            self._text = len(head)
        self._parents[head] = inode
        if path is not None and path != tuple(part for part in head.split(b"/") if part not in _NO_NAME):
            self._crooked.add(head)

    def _imply(self, parent: LayerDirectory, name: bytes) -> LayerDirectory:
        if len(name) > self._limits.name_length:
            raise LimitExceeded(f"directory {quoted(name)} has a name longer than {self._limits.name_length} bytes")
        self._budget.imply()
        inode = LayerDirectory(stat.S_IFDIR | 0o755, nlink=2, place=parent.place.below(name))
        inode.gid = self.inherited_gid(parent)
        record = parent.implied
        inode.implied = ImpliedDirectory(inode, record if record is not None and not record.overridden else None)
        self._implied.append(inode.implied)
        parent.children[name] = inode
        return inode

    @staticmethod
    def inherited_gid(parent: Inode) -> int:
        """The group that mkdir(2), open(2) and mknod(2) give to something new in ``parent``."""
        return parent.gid if parent.mode & stat.S_ISGID else 0

    def remove(self, parent: LayerDirectory, base: bytes, old: Inode) -> None:
        """Remove ``old``, which ``base`` names in ``parent``, with everything in it."""
        del parent.children[base]
        if old.is_dir or old.is_symlink:
            self.reshaped = True
            self._forget_parents()  # any of them may have led through it
        if self._remembers:
            self._note_removed(parent.place, base, old)

    def _note_removed(self, where: Place, base: bytes, old: Inode) -> None:
        pending = [(where, base, old)]
        while pending:
            above, name, inode = pending.pop()
            self._budget.step()
            if isinstance(inode, LayerDirectory):
                inode.place.written = inode.written
                self._remember_place(inode.place)
                pending += [(inode.place, *item) for item in inode.children.items()]
            else:
                place = above.below(name)
                place.written = True
                self._remember_place(place)

    def _remember_place(self, place: Place) -> None:
        above = place.above
        if above is not None and not above.knows(place.name):
            self._budget.keep(_REMEMBERED_PLACE)
            above.remember(place)

    def note_written(self, parent: LayerDirectory, base: bytes) -> None:
        """Count an entry as written, although it makes nothing."""
        if self._remembers:
            place = parent.place.below(base)
            place.written = True
            self._remember_place(place)

    def remove_unwritten(self, parent: LayerDirectory) -> None:
        """Remove every directory below ``parent`` that is only implied, with everything in it (§11)."""
        pending = [parent]
        while pending:
            directory = pending.pop()
            self._budget.step(len(directory.children))
            for base, child in list(directory.children.items()):
                if isinstance(child, LayerDirectory):
                    if child.written:
                        pending.append(child)
                    else:
                        self.remove(directory, base, child)

    def _forget_parents(self) -> None:
        self._parents.clear()
        self._crooked.clear()
        self._text = 0
        self._parents[b""] = self.root

    def implied(self) -> list[ImpliedDirectory]:
        """Every implied directory, parents before children, removed ones too."""
        if self.reshaped:
            alive = {id(inode) for inode in directories(self.root)}
            for record in self._implied:
                record.gone = id(record.inode) not in alive
        return self._implied


def directories(root: Inode) -> Iterator[Inode]:
    """Every directory of a tree, the root first."""
    pending = [root]
    while pending:
        inode = pending.pop()
        yield inode
        # without a call of the property: once for each file of a layer
        pending += [child for child in inode.children.values() if child.mode & 0o170000 == stat.S_IFDIR]
