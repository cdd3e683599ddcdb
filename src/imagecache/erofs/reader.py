"""Reads layer images, with 512-byte and 4096-byte blocks, and trusts nothing in them.

It shares structs with the writer but no logic, so that it can check the writer. Used by ``verify``, ``export`` and
``ls``, by the lookup of implied directories and by realignment. Whatever the bytes are, an operation ends, in bounded
memory, and fails with MalformedLayer or LimitExceeded only. It must not mount and must not write.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Self

from imagecache.erofs import dirent
from imagecache.erofs.format import FILE_TYPES, PAGE_BLOCK, SUPERBLOCK, SUPERBLOCK_OFFSET, Superblock, align
from imagecache.erofs.image_file import ImageFile
from imagecache.erofs.layer_header import DATA_START, HEADER_OFFSET, LayerFlags, LayerHeader
from imagecache.erofs.stored_chunks import Extent, extents
from imagecache.erofs.stored_inode import Area, StoredInode, read_inode
from imagecache.errors import InvalidInput, LimitExceeded, MalformedLayer, NotFound, StoreDenied, StoreError
from imagecache.limits import DEFAULT, Limits
from imagecache.tree import Inode

_CHUNK = 1 << 20
_DOTS = frozenset({b".", b".."})
_name = attrgetter("name")


class LayerImage:
    """An open layer image. Implements ``layer.implied_directories.LowerTree``. Not for several threads at once."""

    def __init__(self, fd: int, *, owned: bool, limits: Limits) -> None:
        """See ``open`` and ``from_fd``."""
        self._fd = fd
        self._owned = owned
        self._limits = limits
        self._file = ImageFile(fd)
        self.header = LayerHeader.unpack(self._file.read(HEADER_OFFSET, LayerHeader.STRUCT.size))
        self._superblock = Superblock.unpack(self._file.read(SUPERBLOCK_OFFSET, SUPERBLOCK.size))
        self._area = Area(self._superblock.meta_block << self.block_bits, self.block_bits, self._superblock.chunked)
        self._check_extent()

    @classmethod
    def open(cls, path: Path, *, limits: Limits = DEFAULT) -> Self:
        """Open a file; use as a context manager. Raises NotFound, StoreDenied, StoreError, MalformedLayer."""
        fd = _open(path)
        try:
            return cls(fd, owned=True, limits=limits)
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def from_fd(cls, fd: int, *, limits: Limits = DEFAULT) -> Self:
        """Read from ``fd``, which the caller closes, later. Raises MalformedLayer, LimitExceeded."""
        return cls(fd, owned=False, limits=limits)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file if ``open`` opened it."""
        owned, self._owned = self._owned, False
        if owned:
            os.close(self._fd)

    def fileno(self) -> int:
        """The file descriptor."""
        return self._fd

    @property
    def block_bits(self) -> int:
        """log2 of the block size: 9, or 12 after realignment."""
        return self._superblock.block_bits

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._file.size

    @property
    def content(self) -> range:
        """Where files' content lies, in bytes: between the head and the metadata."""
        return range(DATA_START, self._area.start)

    @property
    def realigned(self) -> bool:
        """Whether this is a copy with 4096-byte blocks, which does not hold the tar."""
        return self.block_bits == PAGE_BLOCK

    def root(self) -> StoredInode:
        root = read_inode(self._file, self._area, self._superblock.root_nid, self._limits)
        if not root.is_dir:
            raise MalformedLayer("the root of the layer image is not a directory")
        return root

    def child(self, directory: Inode, name: bytes) -> StoredInode | None:
        """The named child of a directory of this image; None if it does not exist. Binary search, as in the kernel."""
        stored = _stored(directory)
        low, high = 0, -(-stored.size >> self.block_bits)
        while low < high:
            middle = (low + high) // 2
            entries = self._block(stored, middle)
            if name < entries[0].name:
                high = middle
            elif name > entries[-1].name:
                low = middle + 1
            else:
                index = bisect_left(entries, name, key=_name)
                # Nobody looks up the dots, and following ".." from a hostile image could loop.
                found = entries[index].name == name and name not in _DOTS
                return self._load(entries[index]) if found else None
        return None

    def children(self, directory: Inode) -> Iterator[tuple[bytes, StoredInode]]:
        """Names and inodes in the order of the names, without ``.`` and ``..``."""
        stored = _stored(directory)
        for entry in self._entries(stored):
            if entry.name not in _DOTS:
                yield entry.name, self._load(entry)

    def walk(self) -> Iterator[tuple[tuple[bytes, ...], StoredInode]]:
        """Every path with its inode, the root ``()`` first, each directory before its contents, names in order.

        Hard links are the same object. Raises MalformedLayer when directories form a loop, and when the number of names
        is not that of the header.
        """
        path: list[bytes] = []
        for depth, name, inode, _ in self._visit():
            del path[max(depth - 1, 0) :]
            if depth:
                path.append(name)
            yield tuple(path), inode

    def tree(self) -> StoredInode:
        """The whole tree in memory: the root, with ``children`` filled in everywhere."""
        root: StoredInode | None = None
        for _, name, inode, parent in self._visit():
            if parent is None:
                root = inode
            else:
                parent.children[name] = inode
        if root is None:  # pragma: no cover - _visit always yields the root
            raise MalformedLayer("the layer image has no root")
        return root

    def read(self, inode: Inode) -> Iterator[bytes]:
        """The content of a regular file of this image, in pieces of at most 1 MiB."""
        stored = _stored(inode)
        if not stored.is_file:
            raise TypeError("only regular files have content")
        return self._content(stored)

    def extents(self, inode: Inode) -> Iterator[Extent]:
        """Where the content of a regular file of this image lies; what no extent has are zeros. Raises MalformedLayer.

        Those of an inode rise, in the content and in the file.
        """
        stored = _stored(inode)
        if stored.chunks is None:
            return iter([Extent(0, stored.position, stored.size)] if stored.size else [])
        behind = align(DATA_START + self.header.tar_size, 1 << self.block_bits)
        return extents(self._file, stored.chunks, range(behind, self._area.start))

    def tar(self) -> Iterator[bytes]:
        """The layer's raw tar, in pieces of at most 1 MiB. Raises InvalidInput for a realigned image."""
        if self.realigned:
            raise InvalidInput(
                "this layer image was realigned to 4096-byte blocks and does not hold the layer's tar",
                hint="use the original below layers/ or chains/ of the store",
            )
        return self._file.stream(DATA_START, self.header.tar_size)

    def _content(self, stored: StoredInode) -> Iterator[bytes]:
        done = 0
        for extent in self.extents(stored):
            yield from _zeros(extent.offset - done)
            yield from self._file.stream(extent.position, extent.length)
            done = extent.offset + extent.length
        yield from _zeros(stored.size - done)

    def _check_extent(self) -> None:
        if self._superblock.blocks << self.block_bits != self.size:
            expected = self._superblock.blocks << self.block_bits
            raise MalformedLayer(f"the layer image has {self.size} bytes; its superblock says {expected}")
        if self.realigned != (LayerFlags.REALIGNED in self.header.flags):
            raise MalformedLayer("header and superblock disagree whether the layer image was realigned")
        if self.realigned and self._superblock.chunked:
            raise MalformedLayer("a realigned layer image has no sparse files")
        if not self.realigned and DATA_START + self.header.tar_size > self._area.start:
            raise MalformedLayer("the metadata of the layer image begins inside its tar")
        if self.header.entries > self._limits.layer_entries:
            raise LimitExceeded(f"{self.header.entries} names, layer_entries is {self._limits.layer_entries}")

    def _block(self, directory: StoredInode, index: int) -> list[dirent.Entry]:
        start = index << self.block_bits
        length = min(1 << self.block_bits, directory.size - start)
        return dirent.unpack(self._file.read(directory.position + start, length))

    def _entries(self, directory: StoredInode) -> Iterator[dirent.Entry]:
        """All entries in order, with ``.`` and ``..``. Raises MalformedLayer unless the whole directory is sorted."""
        previous = b""
        dots = 0
        for index in range(-(-directory.size >> self.block_bits)):
            for entry in self._block(directory, index):
                if entry.name <= previous:
                    raise MalformedLayer(f"directory {directory.nid} is not sorted")
                previous = entry.name
                dots += entry.name in _DOTS
                yield entry
        if dots != len(_DOTS):
            raise MalformedLayer(f"directory {directory.nid} has no entry . or ..")

    def _load(self, entry: dirent.Entry) -> StoredInode:
        inode = read_inode(self._file, self._area, entry.nid, self._limits)
        if FILE_TYPES[inode.mode & 0o170000] != entry.file_type:
            raise MalformedLayer(f"entry {entry.name[:80]!r} and its inode disagree about the file type")
        return inode

    def _visit(self) -> Iterator[tuple[int, bytes, StoredInode, StoredInode | None]]:
        """(depth, name, inode, parent), depth first. A stack of its own: trees may be deep."""
        root = self.root()
        yield 0, b"", root, None
        links: dict[int, StoredInode] = {}
        seen = {root.nid}
        names = 0
        stack = [(root, self._checked_entries(root, root))]
        while stack:
            parent, entries = stack[-1]
            entry = next(entries, None)
            if entry is None:
                stack.pop()
                continue
            names += 1
            if names > self.header.entries:  # bounded by layer_entries, so even a hostile tree ends
                break
            # Only inodes that claim several names are remembered: memory grows with the links, not with the files.
            inode = links.get(entry.nid) or self._load(entry)
            yield len(stack), entry.name, inode, parent
            if inode.is_dir:
                self._check_descent(inode, seen, len(stack))
                stack.append((inode, self._checked_entries(inode, parent)))
            elif inode.nlink > 1:
                links[inode.nid] = inode
        if names != self.header.entries:
            raise MalformedLayer(f"the tree does not have the {self.header.entries} names that the header states")

    def _check_descent(self, inode: StoredInode, seen: set[int], depth: int) -> None:
        if inode.nid in seen:
            raise MalformedLayer(f"directory {inode.nid} has two names")
        if depth > self._limits.path_depth:
            raise LimitExceeded(f"a path is deeper than path_depth, {self._limits.path_depth}")
        seen.add(inode.nid)

    def _checked_entries(self, directory: StoredInode, parent: StoredInode) -> Iterator[dirent.Entry]:
        """Entries without the two dots, which must lead to the directory itself and to its parent."""
        expected = {b".": directory.nid, b"..": parent.nid}
        for entry in self._entries(directory):
            if entry.name not in _DOTS:
                yield entry
            elif entry.nid != expected[entry.name]:
                raise MalformedLayer(f"{entry.name.decode()} of directory {directory.nid} leads elsewhere")


def _zeros(size: int) -> Iterator[bytes]:
    for start in range(0, size, _CHUNK):
        yield bytes(min(_CHUNK, size - start))


def _stored(inode: Inode) -> StoredInode:
    if not isinstance(inode, StoredInode):
        raise TypeError("this inode does not come from a layer image")
    return inode


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound(f"layer image {path} does not exist") from error
    except PermissionError as error:
        raise StoreDenied(f"no permission to read {path}") from error
    except OSError as error:
        raise StoreError(f"cannot open {path}: {error.strerror}") from error
