"""The one thing that a layer takes from those below it: the attributes of directories it has no entry for.

``/tmp`` with mode 1777 below and ``tmp/x`` without a ``tmp/`` entry above must stay 1777. A layer whose tree changes
here depends on its context, and its layer image is named by chainID. Times are not taken from below: they are the
newest child's (``assemble``), so a layer without such a change has the same bytes wherever it lies. One exception: a
directory that nothing was put in (it is only marked opaque) keeps the time of the one below. It must not read anything
but directories' attributes. Source: containerd ``pkg/archive/tar.go`` (mkparent), unpack-rules §2.
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


class LowerTree(Protocol):
    """The finished tree of one layer below, as its layer image has it."""

    def root(self) -> Inode:
        """The root directory. Its ``children`` may be empty: go through ``child``."""

    def child(self, directory: Inode, name: bytes) -> Inode | None:
        """The named child, with mode, owner, target and xattrs filled in. Last component never followed."""


@dataclass(slots=True)
class _Attributes:
    """Those a directory had when it was made."""

    mode: int
    uid: int
    gid: int
    xattrs: dict[bytes, bytes]
    time: tuple[int, int] | None
    """Of the directory below; lost as soon as something is put into the new one."""


def resolve_implied(tree: LayerTree, lowers: Sequence[LowerTree], limits: Limits = DEFAULT) -> bool:
    """Fill in the implied directories of ``tree`` from ``lowers`` (top to bottom). Returns whether that changed any.

    Raises UnsafeLayer where containerd's look below fails the pull: a parent of the directory is none there.
    """
    return _fill(tree.implied, lowers, limits)


def restore_implied(tree: LayerTree, itself: LowerTree, limits: Limits = DEFAULT) -> None:
    """Fill in the implied directories of ``tree`` from the layer image that was made of it, to compare the two.

    Those that are gone are not looked for: what is there now may be anything.
    """
    _fill([record for record in tree.implied if not record.gone], [itself], limits)


def _fill(records: Sequence[ImpliedDirectory], lowers: Sequence[LowerTree], limits: Limits) -> bool:
    resolvers = [PathResolver(lower.root(), lower.child, limits) for lower in lowers]
    made: dict[int, _Attributes] = {}
    changed = False
    for record in records:
        made[id(record)] = attributes = _attributes(record, _find_below(record, resolvers), made)
        changed |= not record.gone and _apply(record, attributes)
    return changed


def _find_below(record: ImpliedDirectory, resolvers: Sequence[PathResolver]) -> Inode | None:
    """The directory that the topmost lower layer with anything at that path has there."""
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
    gid = record.inode.gid
    if record.inherits is not None:
        parent = made[id(record.inherits)]
        gid = parent.gid if parent.mode & stat.S_ISGID else 0
    return _Attributes(0o755, 0, gid, {}, None)


def _apply(record: ImpliedDirectory, attributes: _Attributes) -> bool:
    """Put them on the inode, as far as its own entry has not; returns whether that changed it."""
    inode = record.inode
    before = (inode.mode, inode.uid, inode.gid, inode.mtime, inode.mtime_nsec, inode.xattrs)
    inode.xattrs = attributes.xattrs | inode.xattrs
    if not record.overridden:
        inode.mode = stat.S_IFDIR | attributes.mode
        inode.uid, inode.gid = attributes.uid, attributes.gid
        if attributes.time is not None and not (inode.children or record.timed):
            inode.mtime, inode.mtime_nsec = attributes.time
    return before != (inode.mode, inode.uid, inode.gid, inode.mtime, inode.mtime_nsec, inode.xattrs)
