"""Prove that a layer image is what it claims: ``verify`` a complete file, ``prove`` one while it arrives.

The tar inside has a digest, and every other byte of the file follows from the tar, so both are computed again and
compared. It works on file descriptors alone. It must not know names, stores or registries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from imagecache.builder.convert import header_of
from imagecache.builder.derive import assemble_tar
from imagecache.digest import DiffID, Digest
from imagecache.erofs.layer_header import DATA_START, HEADER_OFFSET, LayerFlags, LayerHeader
from imagecache.erofs.reader import LayerImage
from imagecache.erofs.writer import verify_image
from imagecache.errors import DigestMismatch, MalformedLayer, StoreCorrupt
from imagecache.layer.assemble import LayerTree, assemble
from imagecache.layer.implied_directories import restore_implied
from imagecache.layer.tar_sources import BoundedSource, ChunkSource
from imagecache.limits import Limits

_NOTHING = Digest.sha256(b"")
"""The diffID of a tar of 0 bytes."""


def verify(fd: int, *, limits: Limits) -> LayerImage:
    """Prove a layer image: its tar has the diffID, and every other byte of the file follows from the tar.

    Attributes of implied directories come from the layers below, which are not available here: they are taken from the
    file itself, everything else about them is proven. Raises DigestMismatch, StoreCorrupt, and what ``LayerImage``
    raises for a malformed file.
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
    bottom = LayerFlags.BOTTOM in header.flags
    _compare(fd, image, assemble_tar(fd, header.tar_size, bottom=bottom, limits=limits), limits)
    return image


def prove(
    fd: int, arriving: Iterable[memoryview], *, diff_id: DiffID, tar_size: int | None, limits: Limits
) -> LayerImage:
    """``verify`` without the tar's digest, while the file arrives: the tree is made of the bytes as they pass.

    ``arriving`` yields all bytes of the file in order; when it ends they are in ``fd``. Without ``tar_size`` the
    transfer began before the size was known, so they begin at ``DATA_START``, and only files that are right at every
    position are proven. The caller hashes the tar. Raises StoreCorrupt, and what ``LayerImage`` raises.
    """
    if tar_size is None:
        return _prove_without_size(fd, arriving, diff_id=diff_id, limits=limits)
    source = ChunkSource(arriving)
    head = source.read(DATA_START)
    if len(head) < DATA_START:
        raise MalformedLayer(f"the layer image ends after {len(head)} bytes")
    header = LayerHeader.unpack(head[HEADER_OFFSET : HEADER_OFFSET + LayerHeader.STRUCT.size])
    _check_diff_id(header, diff_id)
    if header.tar_size != tar_size:  # otherwise bytes behind the tar could pass for entries of it
        raise StoreCorrupt(
            f"the header of the layer image says that its tar has {header.tar_size} bytes, not {tar_size}"
        )
    tree = assemble(BoundedSource(source, tar_size), bottom=LayerFlags.BOTTOM in header.flags, limits=limits)
    source.drain()  # to the end, so that the file is complete
    image = LayerImage.from_fd(fd, limits=limits)
    if image.header != header:  # the arriving bytes and the file are two copies: both must be the same image
        raise StoreCorrupt("the layer image on the disk has another header than the one that arrived")
    _compare(fd, image, tree, limits)
    return image


def _prove_without_size(fd: int, arriving: Iterable[memoryview], *, diff_id: DiffID, limits: Limits) -> LayerImage:
    """The header, which says whether this is a bottom layer, arrives last, so the tree is made as for another one.

    That is right for every file that fits all positions: one of a bottom layer has no whiteouts then.
    """
    source = ChunkSource(arriving)
    # An archive ends with zeros, or with the stream. Of an empty one nothing tells where it ends but its digest.
    tree = assemble(BoundedSource(source, 0) if diff_id == _NOTHING else source, bottom=False, limits=limits)
    end = source.tell()
    source.drain()
    image = LayerImage.from_fd(fd, limits=limits)
    header = image.header
    _check_diff_id(header, diff_id)
    if end > header.tar_size:  # bytes behind the tar were read as entries of it
        raise StoreCorrupt(f"the layer image says that its tar has {header.tar_size} bytes; its entries need {end}")
    bottom_only = LayerFlags.BOTTOM | LayerFlags.WHITEOUTS
    if LayerFlags.IMPLIED in header.flags or header.flags & bottom_only == bottom_only:
        raise StoreCorrupt(f"layer image {diff_id} does not fit every position")
    _compare(fd, image, tree, limits)
    return image


def _check_diff_id(header: LayerHeader, diff_id: DiffID) -> None:
    if header.diff_id != diff_id:
        raise StoreCorrupt(f"the layer image claims to be {header.diff_id}; {diff_id} was expected")


def _compare(fd: int, image: LayerImage, tree: LayerTree, limits: Limits) -> None:
    """Compare everything in the file outside the tar with what its tree gives."""
    header = image.header
    bottom = LayerFlags.BOTTOM in header.flags
    if not bottom:
        restore_implied(tree, image, limits)
    verify_image(fd, tree.root, header_of(tree, header.tar_size, header.diff_id, bottom=bottom), limits=limits)
