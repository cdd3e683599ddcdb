"""A layer image from a tree and the tar that it describes.

``plan`` decides everything and is pure. ``pieces`` yields all bytes outside the tar, to compare them; ``write_image``
writes them into a file that already has the tar. Same tree and same header, same bytes. It must not read the clock, and
must not sync: the owner of the file does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from imagecache.erofs.content import SparseCopy, TarContent
from imagecache.erofs.format import SMALL_BLOCK
from imagecache.erofs.layer_header import DATA_START, LayerHeader, unfinished
from imagecache.erofs.layout import Layout, lay_out
from imagecache.erofs.metadata_area import head, metadata
from imagecache.errors import MalformedLayer, StoreCorrupt
from imagecache.limits import DEFAULT, Limits
from imagecache.tree import Inode

ReadTar = Callable[[int, int], bytes]
"""Bytes of the tar: offset, length."""

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything about a layer image that follows from its tree."""

    layout: Layout
    copies: tuple[SparseCopy, ...]
    """Of the sparse files, positions rising."""
    tar_size: int

    @property
    def total(self) -> int:
        """Bytes of the whole file."""
        return self.layout.total

    @property
    def unpacked(self) -> int:
        """As ``total``, with the holes of sparse files."""
        return self.total + sum(copy.chunks.size - copy.chunks.stored for copy in self.copies)

    @property
    def entries(self) -> int:
        """Names in the tree, the root not counted."""
        return self.layout.entries


def plan(root: Inode, tar_size: int, *, limits: Limits = DEFAULT) -> Plan:
    """Lay a tree out behind a tar of ``tar_size`` bytes.

    Link counts are computed, not taken from the tree. Raises LimitExceeded, and MalformedLayer for a tree that a
    filesystem cannot hold or that points outside its tar.
    """
    content = TarContent(tar_size, limits)
    layout = lay_out(root, SMALL_BLOCK, content, limits)
    return Plan(layout, tuple(content.copies), tar_size)


def pieces(plan: Plan, header: LayerHeader, read_tar: ReadTar) -> Iterator[tuple[int, bytes]]:
    """Every byte outside the tar that may differ from zero, as (position, bytes), positions rising."""
    yield 0, head(plan.layout, header)
    yield from _body(plan, read_tar)


def _body(plan: Plan, read_tar: ReadTar) -> Iterator[tuple[int, bytes]]:
    for copy in plan.copies:
        for position, segment in copy.places():
            for done in range(0, segment.length, _CHUNK):
                yield position + done, read_tar(segment.source + done, min(_CHUNK, segment.length - done))
    position = plan.layout.start
    for data in metadata(plan.layout):
        yield position, data
        position += len(data)


def _any_room(size: int) -> None:
    del size


def write_image(
    fd: int,
    root: Inode,
    header: LayerHeader,
    *,
    read_tar: ReadTar | None = None,
    limits: Limits = DEFAULT,
    room: Callable[[int], None] = _any_room,
) -> int:
    """Complete a layer image whose tar is in the file from ``DATA_START`` on; returns the size of the file.

    ``room`` is asked with the size of the file before it grows. Holes of sparse files count there: runtimes that unpack
    the layer write them out (containerd's ``copyBuffered``), and the bound on an image is theirs too. What lies behind
    the tar is replaced. Header and superblock are written last, so a file whose writing was interrupted is not a layer
    image. Raises what ``plan`` and ``room`` do, and OSError: the owner of the file knows what it means.
    """
    layer = plan(root, header.tar_size, limits=limits)
    if layer.entries != header.entries:
        raise ValueError(f"the header says {header.entries} entries, the tree has {layer.entries}")
    end_of_tar = DATA_START + header.tar_size
    if header.tar_size and os.fstat(fd).st_size < end_of_tar:  # an empty tar leaves an empty file
        raise ValueError(f"the file does not hold the tar of {header.tar_size} bytes")
    # In this order: nodes prefetch the tar while it is written, so the head must say where it ends before anything
    # that is not tar stands behind it. The first truncation drops what an earlier attempt left there.
    room(layer.unpacked)
    os.ftruncate(fd, end_of_tar)
    write_at(fd, 0, unfinished(header.tar_size))
    os.ftruncate(fd, layer.total)
    for position, data in _body(layer, read_tar or tar_in(fd)):
        write_at(fd, position, data)
    write_at(fd, 0, head(layer.layout, header))
    return layer.total


def verify_image(fd: int, root: Inode, header: LayerHeader, *, limits: Limits = DEFAULT) -> None:
    """Prove that everything outside the tar of a layer image is what ``write_image`` makes of the same tree.

    The tar itself is not read: its digest proves it. Raises StoreCorrupt with the first byte that differs, and
    what ``plan`` raises.
    """
    layer = plan(root, header.tar_size, limits=limits)
    size = os.fstat(fd).st_size
    if size != layer.total:
        raise StoreCorrupt(f"the layer image has {size} bytes, but its tar gives {layer.total}")
    position = 0
    zeros = bytes(_CHUNK)
    for start, data in pieces(layer, header, tar_in(fd)):
        # Between the pieces there must be zeros: bytes that no rule explains are not proven. The tar is skipped.
        for gap in range(max(position, DATA_START + header.tar_size), start, _CHUNK):
            _compare(fd, gap, zeros[: start - gap])
        _compare(fd, start, data)
        position = start + len(data)


def _compare(fd: int, position: int, expected: bytes) -> None:
    found = os.pread(fd, len(expected), position)
    if found != expected:
        differing = next((n for n, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), len(found))
        raise StoreCorrupt(f"the layer image differs at byte {position + differing} from what its tar gives")


def write_at(fd: int, position: int, data: bytes) -> None:
    """Write all of ``data`` at ``position``; pwrite(2) may write less than asked for."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, position)
        view = view[written:]
        position += written


def tar_in(fd: int) -> ReadTar:
    """Reads the tar of the layer image that is open as ``fd``."""

    def read(offset: int, length: int) -> bytes:
        data = os.pread(fd, length, DATA_START + offset)
        if len(data) != length:
            raise MalformedLayer(f"the layer image ends at {DATA_START + offset + len(data)}, inside its tar")
        return data

    return read
