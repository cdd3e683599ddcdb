"""A layer's tree: the one type that ``layer`` makes, ``erofs`` writes and reads back.

It is on the ground floor because those two packages must not know each other. A tree is plain data: inodes with
their content described by *where it lies in the layer's uncompressed tar*, never held in memory. Paths do not exist
here, only directories with children; hard links are the same ``Inode`` object under several names. Whiteouts are
already in overlayfs form (character device 0:0, ``trusted.overlay.*`` xattrs). It must not do I/O.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a sparse file that has data.

    ``offset`` in the file, ``source`` (an offset) in the uncompressed tar and ``length``, all in bytes.
    """

    offset: int
    source: int
    length: int


class _NoChildren(dict[bytes, "Inode"]):
    def __setitem__(self, name: bytes, inode: Inode) -> None:
        raise TypeError("only a directory has children")


# One for all: a layer may have a million files, and two empty dicts of each would take 128 MB.
_NO_XATTRS: Mapping[bytes, bytes] = MappingProxyType({})
_NO_CHILDREN = _NoChildren()


@dataclass(slots=True, eq=False)
class Inode:
    """One filesystem object. Compared by identity, so hard links stay recognisable."""

    mode: int
    """st_mode: type and permission bits, setuid, setgid and sticky included."""
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    """Seconds since the epoch; never negative (unpack-rules §14)."""
    mtime_nsec: int = 0
    size: int = 0
    """Regular files: length of the content. Symlinks: length of the target. Else 0."""
    data: int = 0
    """Regular files: offset of the content in the uncompressed tar, a multiple of 512. Ignored when sparse is set."""
    sparse: tuple[Segment, ...] | None = None
    """Sparse files: the pieces with data, in order, not overlapping. None for ordinary files."""
    target: bytes = b""
    """Symlinks only."""
    major: int = 0
    """Devices only."""
    minor: int = 0
    xattrs: Mapping[bytes, bytes] = field(default_factory=lambda: _NO_XATTRS)
    """Full names (``security.capability``, ``user.x``, ``trusted.overlay.opaque``) to values."""
    children: dict[bytes, Inode] = field(default_factory=lambda: _NO_CHILDREN)
    """Directories only, each its own: name to inode, any order; no ``.`` and ``..``."""
    nlink: int = 1
    """Names that refer to this inode; directories: 2 + subdirectories. Set when the tree is complete."""

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self.mode)

    @property
    def is_device(self) -> bool:
        return stat.S_ISCHR(self.mode) or stat.S_ISBLK(self.mode)

    @property
    def is_whiteout(self) -> bool:
        """overlayfs: a character device 0:0 hides the name in the layers below."""
        return stat.S_ISCHR(self.mode) and self.major == 0 and self.minor == 0


def directory(mode: int = 0o755) -> Inode:
    """A new directory, 0:0, at the epoch."""
    return Inode(mode=stat.S_IFDIR | mode, nlink=2, children={})
