"""Trees with content for the tests of ``erofs``: a stand-in for a tar, inodes that point into it, and their facts.

The stand-in holds file contents at multiples of 512, as a tar does, and nothing between them, so tests decide exactly
what lies where. ``describe`` says of a tree what a mount of it must show; both give the same type.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from imagecache.digest import DiffID, Digest
from imagecache.erofs.content import TAR_BLOCK
from imagecache.erofs.format import align
from imagecache.erofs.header import DATA_START, LayerFlags, LayerHeader
from imagecache.erofs.writer import write_image
from imagecache.tree import Inode, Segment, directory


class Facts(NamedTuple):
    """What one path is, whoever says it."""

    mode: int
    owner: tuple[int, int]
    mtime_ns: int
    nlink: int
    first: tuple[bytes, ...]
    """The first path, in order, of the same inode."""
    size: int
    """Regular files and symlinks."""
    target: bytes
    device: tuple[int, int]
    xattrs: dict[bytes, bytes]
    content: bytes


@dataclass(slots=True)
class TarStandIn:
    """Contents and where they lie."""

    pieces: list[tuple[int, bytes]] = field(default_factory=list)
    size: int = 0

    def add(self, content: bytes) -> int:
        """Lay ``content`` down and return its offset."""
        offset = self.size
        self.pieces.append((offset, content))
        self.size = align(offset + len(content), TAR_BLOCK)
        return offset

    def skip(self, length: int) -> None:
        """Leave zeros, a multiple of 512 of them."""
        self.size += length

    def read(self, offset: int, length: int) -> bytes:
        result = bytearray(length)
        for start, content in self.pieces:
            low, high = max(start, offset), min(start + len(content), offset + length)
            if low < high:
                result[low - offset : high - offset] = content[low - start : high - start]
        return bytes(result)

    def file(self, content: bytes, mode: int = 0o644) -> Inode:
        """A regular file with that content."""
        return Inode(mode=stat.S_IFREG | mode, size=len(content), data=self.add(content))

    def sparse_file(self, size: int, data: dict[int, bytes]) -> Inode:
        """A sparse file with ``data`` at these offsets; the pieces lie behind each other, as in a tar."""
        source = self.add(b"".join(data.values()))
        segments = []
        for offset, content in data.items():
            segments.append(Segment(offset, source, len(content)))
            source += len(content)
        return Inode(mode=stat.S_IFREG | 0o600, size=size, sparse=tuple(segments))

    def content(self, inode: Inode) -> bytes:
        """What a reader of the file must get."""
        if inode.sparse is None:
            return self.read(inode.data, inode.size)
        result = bytearray(inode.size)
        for segment in inode.sparse:
            result[segment.offset : segment.offset + segment.length] = self.read(segment.source, segment.length)
        return bytes(result)


def symlink(target: bytes) -> Inode:
    return Inode(mode=stat.S_IFLNK | 0o777, size=len(target), target=target)


def device(mode: int, major: int, minor: int) -> Inode:
    return Inode(mode=mode, major=major, minor=minor)


def put(root: Inode, path: str, inode: Inode) -> Inode:
    """Hang ``inode`` at ``path``, with directories on the way; returns it."""
    *parents, name = path.encode().split(b"/")
    for parent in parents:
        root = root.children.setdefault(parent, directory())
    root.children[name] = inode
    return inode


def paths(root: Inode) -> Iterator[tuple[tuple[bytes, ...], Inode]]:
    """Every path, the root ``()`` first, in the order of ``LayerImage.walk``."""
    stack: list[tuple[tuple[bytes, ...], Inode]] = [((), root)]
    while stack:
        path, inode = stack.pop()
        yield path, inode
        stack += [((*path, name), inode.children[name]) for name in sorted(inode.children, reverse=True)]


def count_links(root: Inode) -> int:
    """Set ``nlink`` everywhere; returns the number of names, the root not counted."""
    everything = list(paths(root))
    for _, inode in everything:
        inode.nlink = 2 if inode.is_dir else 0
    for path, inode in everything:
        if inode.is_dir:
            inode.nlink += sum(child.is_dir for child in inode.children.values())
        elif path:
            inode.nlink += 1
    return len(everything) - 1


def header_of(root: Inode, tar: TarStandIn) -> LayerHeader:
    """A header with a made-up diffID; also counts the links."""
    return LayerHeader(tar.size, DiffID(Digest.sha256(b"stand-in")), count_links(root), LayerFlags(0))


def write_layer(fd: int, root: Inode, tar: TarStandIn) -> LayerHeader:
    """A whole layer image in an empty file."""
    header = header_of(root, tar)
    os.ftruncate(fd, DATA_START + tar.size)
    for offset, content in tar.pieces:
        os.pwrite(fd, content, DATA_START + offset)
    write_image(fd, root, header)
    return header


def describe(root: Inode, content: Callable[[Inode], bytes]) -> dict[tuple[bytes, ...], Facts]:
    """Facts of every path; ``content`` gives the bytes of a regular file."""
    first: dict[Inode, tuple[bytes, ...]] = {}
    return {
        path: Facts(
            mode=inode.mode,
            owner=(inode.uid, inode.gid),
            mtime_ns=inode.mtime * 10**9 + inode.mtime_nsec,
            nlink=inode.nlink,
            first=first.setdefault(inode, path),
            size=0 if inode.is_dir else inode.size,
            target=inode.target,
            device=(inode.major, inode.minor),
            xattrs=inode.xattrs,
            content=content(inode) if inode.is_file else b"",
        )
        for path, inode in paths(root)
    }
