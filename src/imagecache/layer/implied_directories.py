"""The one thing that a layer takes from the layers below: attributes of directories that it has no entry for.

``/tmp`` with mode 1777 below and ``tmp/x`` without a ``tmp/`` entry above must stay 1777. A layer with such directories
depends on what lies below it, so its layer image is named by chainID. Times are not taken from below: they are the
newest child's (``assemble``), so that a layer whose attributes stay has the same bytes at every position. One
exception: an empty directory (it is only marked opaque) keeps the time of the one below. It must not read anything but
directories' attributes. Source: ``docs/internals/unpack-rules.md`` §2 and §3; containerd ``pkg/archive/tar.go``
(mkparent).
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from imagecache.errors import LimitExceeded, UnsafeLayer
from imagecache.layer.assemble import LayerTree
from imagecache.layer.partial_tree import ImpliedDirectory
from imagecache.layer.path_resolver import PathResolver
from imagecache.layer.place import Place
from imagecache.layer.tar_entry import quoted
from imagecache.limits import DEFAULT, Limits
from imagecache.tree import Inode

_PRIVATE = b"trusted."
"""Not copied: overlayfs keeps its own marks there, and containerd skips them."""


class LowerTree(Protocol):
    """The finished tree of one layer below, as its layer image has it."""

    def root(self) -> Inode:
        """The root directory. Its ``children`` may be empty: use ``child``."""

    def child(self, directory: Inode, name: bytes) -> Inode | None:
        """The named child, with mode, owner, target and xattrs. A symlink is returned, not followed."""


@dataclass(slots=True)
class _Attributes:
    """The attributes that a directory had when it was made."""

    mode: int
    uid: int
    gid: int
    xattrs: dict[bytes, bytes]
    time: tuple[int, int] | None
    """Of the directory below; it is replaced as soon as something is created in the new one."""


def resolve_implied(tree: LayerTree, lowers: Sequence[LowerTree], limits: Limits = DEFAULT) -> bool:
    """Fill in the implied directories of ``tree`` from ``lowers`` (top to bottom). Returns whether one changed.

    Raises UnsafeLayer where containerd's lookup fails the pull: a parent of the directory is not a directory there.
    """
    count = _Count(limits.lower_lookups)
    below = [_Lower(lower, limits, count.add) for lower in lowers]
    made: dict[int, _Attributes] = {}
    changed = False
    for record in tree.implied:
        # Also for removed ones: a directory implied inside one may inherit its group, and the lookup can fail the pull.
        made[id(record)] = attributes = _attributes(record, _find_below(record.inode.place, below), made)
        changed |= not record.gone and _apply(record, attributes)
    return changed


class _Count:
    """Lookups in all layers below."""

    def __init__(self, most: int) -> None:
        self._most = self._left = most

    def add(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise LimitExceeded(
                f"the layer's implied directories take more than lower_lookups, {self._most}, in the layers below",
                hint="build the image with a tool that lists the directories of its layers",
            )


class _Lower:
    """One layer below. Each path is looked up once, and in one step beside its parent where no symlink is."""

    def __init__(self, tree: LowerTree, limits: Limits, count: Callable[[int], None]) -> None:
        self._tree = tree
        self._count = count
        self._resolver = PathResolver(tree.root(), tree.child, limits, count)
        self._found: dict[Place, Inode | None] = {}
        self._crooked: set[Place] = set()
        """Places behind a symlink of this layer: the path must be resolved as a whole."""

    def find(self, place: Place) -> Inode | None:
        """What this layer has at the path. Raises UnsafeLayer when a parent there is not a directory."""
        missing = []
        while place not in self._found and place.above is not None:
            missing.append(place)
            place = place.above
        found = self._found.get(place) if place.above is not None else self._tree.root()
        for each in reversed(missing):
            found = self._found[each] = self._look(each, found)
        return found

    def _look(self, place: Place, above: Inode | None) -> Inode | None:
        if place.above not in self._crooked:
            if above is None:
                return None
            if not above.is_dir:
                raise UnsafeLayer(f"not a directory: a parent of {quoted(b'/'.join(place.path()))}")
            self._count(1)
            found = self._tree.child(above, place.name)
            if found is None or not found.is_symlink:
                return found
        self._crooked.add(place)
        return self._resolver.find(self._resolver.resolve(b"/" + b"/".join(place.path())))


def _find_below(place: Place, lowers: Sequence[_Lower]) -> Inode | None:
    """The directory of the topmost lower layer that has something at that path; None when that is another thing."""
    for lower in lowers:
        inode = lower.find(place)
        if inode is not None:
            return inode if inode.is_dir else None
    return None


def _attributes(record: ImpliedDirectory, below: Inode | None, made: dict[int, _Attributes]) -> _Attributes:
    if below is not None:
        kept = {key: value for key, value in below.xattrs.items() if not key.startswith(_PRIVATE)}
        return _Attributes(stat.S_IMODE(below.mode), below.uid, below.gid, kept, (below.mtime, below.mtime_nsec))
    # Made as mkdir(2) makes it: the group of a setgid parent, whose own attributes may have come from below just now.
    gid = record.inode.gid
    if record.inherits is not None:
        parent = made[id(record.inherits)]
        gid = parent.gid if parent.mode & stat.S_ISGID else 0
    return _Attributes(0o755, 0, gid, {}, None)


def _apply(record: ImpliedDirectory, attributes: _Attributes) -> bool:
    """Set what the inode's own entry has not set; returns whether that changed it."""
    inode = record.inode
    before = (inode.mode, inode.uid, inode.gid, inode.mtime, inode.mtime_nsec, inode.xattrs)
    inode.xattrs = {**attributes.xattrs, **inode.xattrs}  # the entry's own win
    if not record.overridden:
        inode.mode = stat.S_IFDIR | attributes.mode
        inode.uid, inode.gid = attributes.uid, attributes.gid
        if attributes.time is not None and not (inode.children or record.timed):
            inode.mtime, inode.mtime_nsec = attributes.time
    return before != (inode.mode, inode.uid, inode.gid, inode.mtime, inode.mtime_nsec, inode.xattrs)
