"""OCI whiteouts: how a layer removes something of the layers below, in the two forms that containerd gives them.

Above another layer a whiteout becomes overlayfs' own mark (a character device 0:0, an xattr). At the bottom there is
nothing to hide, so containerd removes what the layer itself has put there. Both act by name alone, whatever the type of
the entry. Source: ``docs/internals/unpack-rules.md`` §9 to §11; OCI image-spec layer.md "Whiteouts"; containerd
``pkg/archive/tar.go``, ``tar_opts_linux.go``.
"""

from __future__ import annotations

import stat
from typing import Protocol

from imagecache.errors import LimitExceeded, UnsafeLayer
from imagecache.layer.attributes import owner, time
from imagecache.layer.partial_tree import LayerDirectory, PartialTree
from imagecache.layer.tar_entry import TarEntry, quoted
from imagecache.layer.tar_xattrs import OPAQUE
from imagecache.limits import Limits
from imagecache.tree import Inode

PREFIX = b".wh."
_OPAQUE_MARKER = b".wh..wh..opq"


class Whiteouts(Protocol):
    def apply(self, entry: TarEntry, parent: LayerDirectory, base: bytes) -> Inode | None:
        """Apply the whiteout ``base`` in ``parent``; returns the device if it made one. Raises UnsafeLayer."""


def _hidden_name(entry: TarEntry, base: bytes, limits: Limits) -> bytes:
    """The name that a whiteout hides, always in its own directory."""
    hidden = base.removeprefix(PREFIX)
    if hidden in {b"", b".", b".."}:
        raise UnsafeLayer(f"whiteout {quoted(entry.name)} names something outside of its directory")
    if len(hidden) > limits.name_length:
        raise LimitExceeded(f"whiteout {quoted(entry.name)} hides a name over {limits.name_length} bytes")
    return hidden


class UpperWhiteouts:
    """For every layer but the bottom one (§9, §10)."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def apply(self, entry: TarEntry, parent: LayerDirectory, base: bytes) -> Inode | None:
        if base == _OPAQUE_MARKER:
            parent.xattrs = {**parent.xattrs, OPAQUE: b"y"}
            return None
        hidden = _hidden_name(entry, base, self._limits)
        if hidden in parent.children:  # mknod(2) answers EEXIST, which fails the pull
            raise UnsafeLayer(f"whiteout {quoted(entry.name)} hides something that its own layer has")
        uid, gid = owner(entry, 0, PartialTree.inherited_gid(parent))
        mtime, nanoseconds = time(entry)
        # containerd calls mknod(2) with mode 0 and then chown(2) for the entry's owner.
        device = Inode(stat.S_IFCHR, uid, gid, mtime, nanoseconds)
        parent.children[hidden] = device
        return device


class BottomWhiteouts:
    """For the bottom layer (§11). An opaque marker removes only implied directories.

    containerd keeps a list of the paths that entries wrote, and spares those; the marker of a directory acts once.
    """

    def __init__(self, tree: PartialTree, limits: Limits) -> None:
        self._tree = tree
        self._limits = limits

    def apply(self, entry: TarEntry, parent: LayerDirectory, base: bytes) -> Inode | None:
        if base == _OPAQUE_MARKER:
            self._clear(parent)
            return None
        hidden = _hidden_name(entry, base, self._limits)
        if (old := parent.children.get(hidden)) is not None:
            self._tree.remove(parent, hidden, old)
        return None

    def _clear(self, parent: LayerDirectory) -> None:
        if not parent.place.emptied:
            parent.place.emptied = True
            self._tree.remove_unwritten(parent)
