"""Trees with content for the tests of ``erofs``: a stand-in for a tar, inodes that point into it, and their facts.

The stand-in holds file contents at multiples of 512, as a tar does, and nothing between them, so that tests decide
exactly what lies where. ``describe`` returns what a mount of a tree must show.
"""

from __future__ import annotations

import itertools
import os
import random
import stat
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple

from imagecache.digest import DiffID, Digest
from imagecache.erofs.content import TAR_BLOCK
from imagecache.erofs.format import align
from imagecache.erofs.layer_header import DATA_START, LayerFlags, LayerHeader
from imagecache.erofs.writer import write_image
from imagecache.tree import Inode, Segment, directory


class Facts(NamedTuple):
    """The facts of one path, as a tree or a mount has them."""

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
        """Append ``content`` and return its offset."""
        offset = self.size
        self.pieces.append((offset, content))
        self.size = align(offset + len(content), TAR_BLOCK)
        return offset

    def skip(self, length: int) -> None:
        """Leave zeros, a multiple of 512 of them."""
        self.size += length

    def read(self, offset: int, length: int) -> bytes:
        result = bytearray(length)
        index = max(bisect_right(self.pieces, offset, key=itemgetter(0)) - 1, 0)
        for start, content in itertools.takewhile(
            lambda piece: piece[0] < offset + length, itertools.islice(self.pieces, index, None)
        ):
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
        """The content that a reader of the file must get."""
        if inode.sparse is None:
            return self.read(inode.data, inode.size)
        result = bytearray(inode.size)
        for segment in inode.sparse:
            result[segment.offset : segment.offset + segment.length] = self.read(segment.source, segment.length)
        return bytes(result)


class MemoryTree:
    """A ``layer.implied_directories.LowerTree`` in memory."""

    def __init__(self, root: Inode) -> None:
        self._root = root

    def root(self) -> Inode:
        return self._root

    def child(self, directory: Inode, name: bytes) -> Inode | None:
        return directory.children.get(name)


def symlink(target: bytes) -> Inode:
    return Inode(mode=stat.S_IFLNK | 0o777, size=len(target), target=target)


def device(mode: int, major: int, minor: int) -> Inode:
    return Inode(mode=mode, major=major, minor=minor)


def put(root: Inode, path: str, inode: Inode) -> Inode:
    """Put ``inode`` at ``path``, with missing directories; returns it."""
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
            xattrs=dict(inode.xattrs),
            content=content(inode) if inode.is_file else b"",
        )
        for path, inode in paths(root)
    }


ACL = bytes.fromhex("0200000001000600ffffffff020006000a00000004000400ffffffff10000600ffffffff20000400ffffffff")
"""A POSIX ACL (version 2): user::rw-, user:10:rw-, group::r--, mask::rw-, other::r--."""
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
"""``security.capability`` of revision 2: cap_net_bind_service, effective."""


def zoo() -> tuple[Inode, TarStandIn]:
    """A tree with one of everything that a layer image can hold; small, always the same."""
    root, tar = directory(), TarStandIn()
    _files(root, tar)
    _special(root)
    _attributes(root, tar)
    put(root, "empty", directory(0o1777)).mtime = 1
    for number in range(60):
        put(root, f"many/{'n' * (number % 50)}{number:03}", symlink(b"x" * (1 + number * 7)))
    count_links(root)
    return root, tar


def _files(root: Inode, tar: TarStandIn) -> None:
    for size in (0, 1, 511, 512, 513, 4095, 4096, 4097, 70_000):
        put(root, f"files/{size}", tar.file(bytes(n * 7 % 251 for n in range(size))))
    put(root, "files/sparse", tar.sparse_file(300_000, {0: b"start", 70_001: b"m" * 5000, 299_999: b"e"}))
    put(root, "files/hole", tar.sparse_file(8192, {}))
    linked = put(root, "files/linked", tar.file(b"three names"))
    put(root, "links/again", linked)
    put(root, "links/deep/er/once more", linked)
    put(root, "!before the dots", tar.file(b"1"))
    put(root, "..two dots", tar.file(b"2"))


def _special(root: Inode) -> None:
    put(root, "dev/null", device(stat.S_IFCHR | 0o666, 1, 3))
    put(root, "dev/largest", device(stat.S_IFBLK | 0o600, 0xFFF, 0xFFFFF))
    put(root, "dev/fifo", device(stat.S_IFIFO | 0o640, 0, 0))
    put(root, "dev/whiteout", device(stat.S_IFCHR, 0, 0)).xattrs = {b"trusted.x": b"y"}
    for size in (1, 447, 448, 449, 512, 4032, 4095):
        put(root, f"symlinks/{size}", symlink(b"t" * size))


def _attributes(root: Inode, tar: TarStandIn) -> None:
    old = put(root, "attributes/setuid", tar.file(b"#!", 0o6755))
    old.xattrs = {b"security.capability": CAPABILITY, b"user.empty": b"", b"trusted.overlay.opaque": b"y"}
    late = put(root, "attributes/late", tar.file(b"late"))
    late.uid, late.gid, late.mtime, late.mtime_nsec = 2**32 - 2, 2**31, 2**33, 999_999_999
    shared = directory(0o3770)
    shared.xattrs = {b"system.posix_acl_default": ACL, b"system.posix_acl_access": ACL, b"user.a": b"1"}
    put(root, "attributes/shared", shared)
    full = put(root, "attributes/full", tar.file(b"full"))
    full.xattrs = {b"user." + b"%03d" % number * 83: bytes([number]) * number for number in range(60)}
    target = put(root, "attributes/link", symlink(b"t" * 300))
    target.xattrs = {b"trusted.note": b"n" * 100}
    far = put(root, "attributes/far", symlink(b"t" * 300))
    far.xattrs = {b"trusted.note": b"n" * 3000}


def random_tree(rng: random.Random, entries: int = 400) -> tuple[Inode, TarStandIn]:
    """A tree of about that many names, drawn from everything that a layer image can hold."""
    root, tar = directory(), TarStandIn()
    folders, others = [root], [tar.file(b"first")]
    root.children[b"first"] = others[0]
    for _ in range(entries):
        parent = rng.choice(folders)
        name = bytes(rng.choices(range(1, 256), k=rng.choice([1, 2, 8, 30, 255]))).replace(b"/", b"-")
        if name in {b".", b".."} or name in parent.children:
            continue
        if rng.random() < 0.1:
            parent.children[name] = rng.choice(others)
            continue
        inode = parent.children[name] = _random_inode(rng, tar)
        (folders if inode.is_dir else others).append(inode)
    count_links(root)
    return root, tar


def _random_inode(rng: random.Random, tar: TarStandIn) -> Inode:
    permissions = rng.randrange(0o10000)
    kinds: list[Callable[[], Inode]] = [
        lambda: directory(permissions),
        lambda: tar.file(rng.randbytes(rng.choice([0, 1, 500, 512, 5000, 100_000])), permissions),
        lambda: tar.sparse_file(20_000, {rng.randrange(9000): b"a" * 900, 10_000: b"b" * rng.randrange(9000)}),
        lambda: symlink(bytes(rng.choices(range(1, 256), k=rng.choice([1, 40, 400, 448, 600, 4095])))),
        lambda: device(stat.S_IFBLK | permissions, rng.randrange(4096), rng.randrange(2**20)),
        lambda: device(stat.S_IFIFO | permissions, 0, 0),
    ]
    inode = rng.choice(kinds)()
    inode.uid, inode.gid = rng.choice([0, 1000, 2**31]), rng.choice([0, 65_534, 2**32 - 2])
    inode.mtime, inode.mtime_nsec = rng.randrange(2**34), rng.randrange(10**9)
    if rng.random() < 0.3:
        inode.xattrs = {
            b"trusted.%d" % rng.randrange(100): rng.randbytes(rng.choice([0, 1, 3, 40, 600]))
            for _ in range(rng.randrange(1, 9))
        }
    return inode
