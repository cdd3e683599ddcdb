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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from imagecache.layer.assemble import LayerTree
from imagecache.layer.partial_tree import ImpliedDirectory
from imagecache.layer.path_resolver import PathResolver
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
    return _fill(tree.implied, lowers, limits)


def restore_implied(tree: LayerTree, itself: LowerTree, limits: Limits = DEFAULT) -> None:
    """Fill in the implied directories of ``tree`` from the layer image that was made of it, to compare the two.

    Removed ones are left out: their path may lead to anything by now.
    """
    _fill([record for record in tree.implied if not record.gone], [itself], limits)


def _fill(records: Sequence[ImpliedDirectory], lowers: Sequence[LowerTree], limits: Limits) -> bool:
    resolvers = [PathResolver(lower.root(), lower.child, limits) for lower in lowers]
    made: dict[int, _Attributes] = {}
    changed = False
    for record in records:
        # Also for removed ones: a directory implied inside one may inherit its group, and the lookup can fail the pull.
        made[id(record)] = attributes = _attributes(record, _find_below(record, resolvers), made)
        changed |= not record.gone and _apply(record, attributes)
    return changed


def _find_below(record: ImpliedDirectory, resolvers: Sequence[PathResolver]) -> Inode | None:
    """The directory of the topmost lower layer that has something at that path; None when that is another thing."""
    path = b"/" + b"/".join(record.path)
    for resolver in resolvers:
        inode = resolver.find(resolver.resolve(path))
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
