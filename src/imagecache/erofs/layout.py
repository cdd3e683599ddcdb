"""A tree laid out: which number, which offset and which 64 bytes every inode gets. Pure.

The metadata area starts with the inodes: the root first (its nid must fit 16 bits), then directory by directory, the
children of one in the order of their names, so that a listing reads consecutive bytes. Behind them come the directory
blocks, then symlink targets that do not fit beside their inode. Inodes start at multiples of 64, so none crosses a
block; the first 64 bytes stay empty, because C libraries take inode number 0 for a deleted entry. Equal trees give
equal layouts. It must not do I/O and must not use recursion: trees may be deep.
"""

from __future__ import annotations

import stat
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field

from imagecache.erofs import dirent, xattr
from imagecache.erofs.content import HOST_BLOCK, Content, SparseCopy
from imagecache.erofs.format import (
    CHUNK_BASED,
    CHUNK_ENTRY,
    FILE_TYPES,
    FLAT_INLINE,
    FLAT_PLAIN,
    INODE,
    MAX_BLOCKS,
    SLOT,
    align,
    encode_device,
)
from imagecache.errors import LimitExceeded, MalformedLayer
from imagecache.limits import Limits
from imagecache.tree import Inode

_DIRECTORY = FILE_TYPES[stat.S_IFDIR]
_NO_NAME = frozenset({b"", b".", b".."})
_UNIT = INODE.size
"""Inodes start at multiples of this."""
_MAX_ID = 2**32 - 2
"""(uid_t)-1 means "no change" to chown(2), so it cannot be an owner."""
_MAX_TIME = 2**63 - 1
"""i_mtime is unsigned on disk and signed in the kernel."""


@dataclass(slots=True, eq=False)
class PlacedInode:
    """One inode and where it goes."""

    inode: Inode
    offset: int
    """From the start of the metadata area."""
    number: int
    """``i_ino``: 1, 2, 3... in the order of the inodes."""
    file_type: int
    size: int = 0
    layout: int = FLAT_PLAIN
    address: int = 0
    """Block address of the content, log2 of the blocks of a chunk, or the encoded device number."""
    nlink: int = 0
    xattrs: bytes = b""
    target: bytes = b""
    """A symlink's target, when it lies beside the inode."""
    copy: SparseCopy | None = None
    """Of a sparse file; the table of its chunks lies behind the xattrs."""

    @property
    def nid(self) -> int:
        return self.offset // SLOT


@dataclass(slots=True)
class Directory:
    """A directory's sorted names, ``.`` and ``..`` included, and the indices at which blocks start."""

    placed: PlacedInode
    names: list[bytes]
    inodes: list[PlacedInode]
    """What the names name."""
    starts: Sequence[int]


@dataclass(slots=True)
class Layout:
    """A whole metadata area."""

    block_bits: int
    inodes: list[PlacedInode] = field(default_factory=list)
    directories: list[Directory] = field(default_factory=list)
    links: list[PlacedInode] = field(default_factory=list)
    """Symlinks whose target has blocks of its own."""
    entries: int = 0
    """Names, the root not counted."""
    chunked: bool = False
    """Whether it has a sparse file."""
    start: int = 0
    """Position of the metadata area in the file."""
    inodes_size: int = 0
    """Bytes of the inodes, padded to whole blocks."""
    total: int = 0
    """Bytes of the whole file."""


def lay_out(root: Inode, block_bits: int, content: Content, limits: Limits) -> Layout:
    """Decide where everything goes. Raises LimitExceeded, and MalformedLayer for a tree that EROFS cannot hold."""
    return _Planner(block_bits, content, limits).run(root)


class _Planner:
    """Walks the tree once, front to back."""

    def __init__(self, block_bits: int, content: Content, limits: Limits) -> None:
        self._bits = block_bits
        self._block = 1 << block_bits
        self._content = content
        self._limits = limits
        self._next = _UNIT
        self._placed: dict[Inode, PlacedInode] = {}
        self._layout = Layout(block_bits)

    def run(self, root: Inode) -> Layout:
        if not root.is_dir:
            raise MalformedLayer("the root of a layer is not a directory")
        placed = self._place(root, b"/")
        pending = [(placed, placed)]
        while pending:
            # Depth first, the first name on top of the stack: what lies together in the tree lies together in the file.
            pending += reversed(self._enter(*pending.pop()))
        self._finish()
        return self._layout

    def _enter(self, placed: PlacedInode, parent: PlacedInode) -> list[tuple[PlacedInode, PlacedInode]]:
        """Place the children of one directory; returns those that are directories, with their parent."""
        children = placed.inode.children
        names = sorted(children)
        self._check_names(names)
        inodes: list[PlacedInode] = []
        subdirectories: list[tuple[PlacedInode, PlacedInode]] = []
        for name in names:
            inode = children[name]
            # with one name it is not met again: most files of a layer are so
            child = self._placed.get(inode) if inode.nlink != 1 else None
            if child is None:
                child = self._place(inode, name)
                if child.file_type == _DIRECTORY:
                    subdirectories.append((child, placed))
            elif child.file_type == _DIRECTORY:
                raise MalformedLayer(f"directory {name!r} has two names")
            child.nlink += 1
            inodes.append(child)
        placed.nlink = 2 + len(subdirectories)
        self._layout.entries += len(names)
        if self._layout.entries > self._limits.layer_entries:
            raise LimitExceeded(f"more names than layer_entries, {self._limits.layer_entries}")
        self._add_directory(placed, parent, names, inodes)
        return subdirectories

    def _check_names(self, names: list[bytes]) -> None:
        for name in names:
            if len(name) > self._limits.name_length:
                raise LimitExceeded(f"name of {len(name)} bytes, name_length is {self._limits.name_length}")
            if name in _NO_NAME or b"/" in name or b"\0" in name:
                raise MalformedLayer(f"{name!r} cannot be the name of a file")

    def _add_directory(
        self, placed: PlacedInode, parent: PlacedInode, names: list[bytes], inodes: list[PlacedInode]
    ) -> None:
        for name, inode in ((b".", placed), (b"..", parent)):
            at = bisect(names, name)  # not first: the order is bytewise, and "!" or "-" sort before the dots
            names.insert(at, name)
            inodes.insert(at, inode)
        starts = dirent.split(names, self._block)
        # i_size ends with the last name; the blocks before the last count whole.
        last = names[starts[-1] :]
        placed.size = (len(starts) - 1) * self._block + dirent.used(last)
        self._layout.directories.append(Directory(placed, names, inodes, starts))

    def _place(self, inode: Inode, name: bytes) -> PlacedInode:
        """Give an inode its number and its bytes; the next one starts behind it."""
        kind = inode.mode & 0o170000  # S_IFMT, without a call: once for each inode
        file_type = FILE_TYPES.get(kind)
        if file_type is None:
            raise MalformedLayer(f"{name!r} is of no file type: mode {inode.mode:o}")
        if not (
            0 <= inode.uid <= _MAX_ID
            and 0 <= inode.gid <= _MAX_ID
            and 0 <= inode.mtime <= _MAX_TIME
            and 0 <= inode.mtime_nsec < 10**9
            and 0 <= inode.mode <= 0xFFFF
            and inode.size >= 0
        ):
            raise _impossible(inode, name)
        inodes = self._layout.inodes
        placed = PlacedInode(inode, self._next, len(inodes) + 1, file_type)
        inodes.append(placed)
        if kind == stat.S_IFREG:
            placed.size = inode.size
            if inode.size:
                found = self._content.locate(inode)
                if isinstance(found, SparseCopy):
                    placed.copy, placed.layout, placed.address = found, CHUNK_BASED, found.chunks.bits
                    self._layout.chunked = True
                else:
                    placed.address = found >> self._bits
        elif kind in {stat.S_IFCHR, stat.S_IFBLK}:
            placed.address = encode_device(inode.major, inode.minor)
        if inode.xattrs or placed.copy or kind == stat.S_IFLNK:
            self._place_tail(placed, name)
        else:
            self._next += _UNIT
        if inode.nlink != 1:
            self._placed[inode] = placed
        return placed

    def _place_tail(self, placed: PlacedInode, name: bytes) -> None:
        """What lies behind an inode."""
        inode = placed.inode
        if inode.xattrs:
            placed.xattrs = xattr.encode(inode.xattrs, self._limits)
        if inode.is_symlink:
            self._place_target(placed, name)
        table = CHUNK_ENTRY * placed.copy.chunks.entries if placed.copy else 0
        self._next = align(placed.offset + _UNIT + len(placed.xattrs) + len(placed.target) + table, _UNIT)

    def _place_target(self, placed: PlacedInode, name: bytes) -> None:
        """Put the target beside the inode, at the next block if this one is too full, or in blocks of its own.

        An inline target must lie in the block of its inode, else the kernel refuses it (erofs_fill_symlink).
        """
        target = placed.inode.target
        if len(target) > self._limits.link_target:
            raise LimitExceeded(
                f"target of {name!r} has {len(target)} bytes, link_target is {self._limits.link_target}"
            )
        if not target or b"\0" in target:
            raise MalformedLayer(f"symlink {name!r} has an impossible target")
        placed.size = len(target)
        needed = _UNIT + len(placed.xattrs) + len(target)
        if needed > self._block:
            self._layout.links.append(placed)
            return
        if placed.offset % self._block + needed > self._block:
            placed.offset = align(placed.offset, self._block)
        placed.layout = FLAT_INLINE
        placed.target = target

    def _finish(self) -> None:
        """Addresses of directories and long targets, and the end, now that the number of inodes is known."""
        layout = self._layout
        layout.start = self._content.end()
        layout.inodes_size = align(self._next, self._block)
        block = (layout.start + layout.inodes_size) >> self._bits
        for placed in [directory.placed for directory in layout.directories] + layout.links:
            placed.address = block
            block += (placed.size + self._block - 1) >> self._bits
        layout.total = align(block << self._bits, HOST_BLOCK)
        if layout.total >> self._bits > MAX_BLOCKS:
            raise LimitExceeded(f"layer image of {layout.total} bytes; EROFS can address {MAX_BLOCKS << self._bits}")


def _impossible(inode: Inode, name: bytes) -> LimitExceeded:
    """EROFS has no room for a number of the inode."""
    if not (0 <= inode.uid <= _MAX_ID and 0 <= inode.gid <= _MAX_ID):
        return LimitExceeded(f"owner {inode.uid}:{inode.gid} of {name!r} is not below {_MAX_ID + 1}")
    if not (0 <= inode.mtime <= _MAX_TIME and 0 <= inode.mtime_nsec < 10**9):
        return LimitExceeded(f"time {inode.mtime}.{inode.mtime_nsec} of {name!r} cannot be stored")
    return LimitExceeded(f"mode {inode.mode:o} or size {inode.size} of {name!r} cannot be stored")
