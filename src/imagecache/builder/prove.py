"""Prove that a layer image is what it has to be: ``verify`` a complete file, ``prove`` one while it arrives.

The tar inside has a digest, and every other byte of the file follows from the tar, from the position that the file has
to be right for, and from the layers below that position. So all of it is computed again and compared; what the file
says of itself decides nothing. It works on file descriptors alone. It must not know names, stores or registries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from imagecache.builder.convert import header_of
from imagecache.builder.derive import assemble_tar
from imagecache.builder.position import Position, is_right_everywhere
from imagecache.digest import DiffID, Digest
from imagecache.erofs.layer_header import DATA_START, HEADER_OFFSET, LayerHeader
from imagecache.erofs.reader import LayerImage
from imagecache.erofs.writer import verify_image
from imagecache.errors import DigestMismatch, MalformedLayer, StoreCorrupt
from imagecache.layer.assemble import LayerTree, assemble
from imagecache.layer.implied_directories import resolve_implied
from imagecache.layer.tar_sources import BoundedSource, ChunkSource
from imagecache.limits import Limits

_NOTHING = Digest.sha256(b"")
"""The diffID of a tar of 0 bytes."""


def verify(fd: int, *, position: Position, lowers: Sequence[LayerImage] = (), limits: Limits) -> LayerImage:
    """Prove a layer image: its tar has the diffID in its header, and every other byte follows.

    ``lowers`` are the layer images below, top to bottom, where the position needs them. Raises DigestMismatch,
    StoreCorrupt, and what ``LayerImage`` raises for a malformed file.
    """
    image = LayerImage.from_fd(fd, limits=limits)
    header = image.header
    digest = hashlib.sha256()
    for piece in image.tar():
        digest.update(piece)
    if digest.hexdigest() != header.diff_id.hex:
        raise DigestMismatch(
            f"the tar inside has the digest sha256:{digest.hexdigest()}; the header says {header.diff_id}",
            hint="the file is damaged: remove it and create the image cache again",
        )
    tree = assemble_tar(fd, header.tar_size, bottom=position.by_bottom_rules, limits=limits)
    _compare(image, tree, position, lowers, limits)
    return image


def prove_above(fd: int, lowers: Sequence[LayerImage], *, diff_id: DiffID, tar_size: int, limits: Limits) -> LayerImage:
    """``verify`` without the tar's digest, of a file that is right on top of ``lowers`` (top to bottom) alone.

    The caller has hashed the tar. Raises StoreCorrupt, and what ``LayerImage`` raises.
    """
    image = LayerImage.from_fd(fd, limits=limits)
    _check_header(image.header, diff_id, tar_size)
    tree = assemble_tar(fd, tar_size, bottom=False, limits=limits)
    _compare(image, tree, Position(everywhere=False, bottom=False), lowers, limits)
    return image


def prove(
    fd: int,
    arriving: Iterable[memoryview],
    *,
    diff_id: DiffID,
    tar_size: int | None,
    position: Position,
    limits: Limits,
) -> LayerImage:
    """``verify`` without the tar's digest, while the file arrives: the tree is made of the bytes as they pass.

    ``arriving`` yields all bytes of the file in order; when it ends they are in ``fd``. Without ``tar_size`` the
    transfer began before the size was known, so they begin at ``DATA_START``. ``position`` is one that needs no layers
    below. The caller hashes the tar. Raises StoreCorrupt, and what ``LayerImage`` raises.
    """
    if position.needs_lowers:
        raise ValueError("a layer image that needs the layers below is proven when it is whole")
    if tar_size is None:
        return _prove_without_size(fd, arriving, diff_id=diff_id, position=position, limits=limits)
    source = ChunkSource(arriving)
    head = source.read(DATA_START)
    if len(head) < DATA_START:
        raise MalformedLayer(f"the layer image ends after {len(head)} bytes")
    header = LayerHeader.unpack(head[HEADER_OFFSET : HEADER_OFFSET + LayerHeader.STRUCT.size])
    _check_header(header, diff_id, tar_size)
    tree = assemble(BoundedSource(source, tar_size), bottom=position.by_bottom_rules, limits=limits)
    source.drain()  # to the end, so that the file is complete
    image = LayerImage.from_fd(fd, limits=limits)
    if image.header != header:  # the arriving bytes and the file are two copies: both must be the same image
        raise StoreCorrupt("the layer image on the disk has another header than the one that arrived")
    _compare(image, tree, position, (), limits)
    return image


def _prove_without_size(
    fd: int, arriving: Iterable[memoryview], *, diff_id: DiffID, position: Position, limits: Limits
) -> LayerImage:
    source = ChunkSource(arriving)
    # An archive ends with zeros, or with the stream. Of an empty one nothing tells where it ends but its digest.
    nothing = diff_id == _NOTHING
    tree = assemble(BoundedSource(source, 0) if nothing else source, bottom=position.by_bottom_rules, limits=limits)
    end = source.tell()
    source.drain()
    image = LayerImage.from_fd(fd, limits=limits)
    _check_header(image.header, diff_id, image.header.tar_size)
    if end > image.header.tar_size:  # bytes behind the tar were read as entries of it
        raise StoreCorrupt(
            f"the layer image says that its tar has {image.header.tar_size} bytes; its entries need {end}"
        )
    _compare(image, tree, position, (), limits)
    return image


def _check_header(header: LayerHeader, diff_id: DiffID, tar_size: int) -> None:
    if header.diff_id != diff_id:
        raise StoreCorrupt(f"the layer image claims to be {header.diff_id}; {diff_id} was expected")
    if header.tar_size != tar_size:  # otherwise bytes behind the tar could pass for entries of it
        raise StoreCorrupt(
            f"the header of the layer image says that its tar has {header.tar_size} bytes, not {tar_size}"
        )


def _compare(
    image: LayerImage, tree: LayerTree, position: Position, lowers: Sequence[LayerImage], limits: Limits
) -> None:
    """Compare everything in the file outside the tar with what its tree gives at the position."""
    tar_size, diff_id = image.header.tar_size, image.header.diff_id
    if position.needs_lowers:
        resolve_implied(tree, lowers, limits)
    header = header_of(tree, tar_size, diff_id, bottom=position.by_bottom_rules)
    if is_right_everywhere(header.flags, bottom=position.bottom) != position.everywhere:
        where = "every position" if position.everywhere else "one position alone"
        raise StoreCorrupt(f"layer {diff_id} has a tree that is not right for {where}")
    verify_image(image.fileno(), tree.root, header, limits=limits)
