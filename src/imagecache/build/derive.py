"""A layer image again, from the tar that it carries.

The tar is inside the file, so everything else can be made anew: with other layers below (implied parents), by the rules
of another place in the image (bottom layer), or to prove that a file is what it says. It works on file descriptors
alone. It must not know names, stores or registries.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

from imagecache.build.convert import Converted, finish, header_of
from imagecache.digest import DiffID
from imagecache.erofs.header import DATA_START, LayerFlags
from imagecache.erofs.reader import LayerImage
from imagecache.erofs.writer import verify_image
from imagecache.errors import DigestMismatch
from imagecache.layer.assemble import LayerTree, assemble
from imagecache.layer.context import resolve_implied, restore_implied
from imagecache.layer.source import FileSource
from imagecache.limits import Limits


def derive(
    fd: int,
    *,
    tar_size: int,
    diff_id: DiffID,
    lowers: Sequence[LayerImage],
    bottom: bool,
    limits: Limits,
) -> Converted:
    """Write the filesystem of a file that holds a verified tar at ``DATA_START``; ``lowers`` are top to bottom."""
    tree = tree_of(fd, tar_size=tar_size, lowers=lowers, bottom=bottom, limits=limits)
    header = header_of(tree, tar_size, diff_id, bottom=bottom)
    os.ftruncate(fd, DATA_START + tar_size)
    size, sha256 = finish(fd, tree, header)
    return Converted(header=header, size=size, sha256=sha256, context=False)


def tree_of(fd: int, *, tar_size: int, lowers: Sequence[LayerImage], bottom: bool, limits: Limits) -> LayerTree:
    """The tree of the tar at ``DATA_START`` of the file."""
    tree = _assemble(fd, tar_size, bottom=bottom, limits=limits)
    if tree.implied and not bottom:
        resolve_implied(tree, lowers, limits)
    return tree


def _assemble(fd: int, tar_size: int, *, bottom: bool, limits: Limits) -> LayerTree:
    with os.fdopen(fd, "rb", closefd=False) as file:
        return assemble(FileSource(file, DATA_START, tar_size), bottom=bottom, limits=limits)


def copy_tar(source_fd: int, target_fd: int, tar_size: int) -> None:
    """Copy the data area from one layer image to another file, sharing blocks where the filesystem can."""
    offset = DATA_START
    end = DATA_START + tar_size
    while offset < end:
        count = os.copy_file_range(source_fd, target_fd, end - offset, offset, offset)
        if count == 0:
            break
        offset += count


def verify(fd: int, *, limits: Limits) -> LayerImage:
    """Prove a layer image: its tar has the diffID, and every other byte of the file follows from the tar.

    Attributes of implied directories come from the layers below, which are not here: they are taken from the file
    itself, everything else about them is proven. Raises DigestMismatch, StoreCorrupt, and what a bad file raises.
    """
    image = LayerImage.from_fd(fd, limits=limits)
    header = image.header
    digest = hashlib.sha256()
    for piece in image.tar():
        digest.update(piece)
    if digest.hexdigest() != header.diff_id.hex:
        raise DigestMismatch(
            f"the tar inside has the digest sha256:{digest.hexdigest()}, the file says {header.diff_id}",
            hint="the file is damaged: remove it and create the image cache again",
        )
    verify_metadata(fd, image, limits=limits)
    return image


def verify_metadata(fd: int, image: LayerImage, *, limits: Limits) -> None:
    """The part of ``verify`` beside the tar's digest, for who has hashed the tar while it arrived."""
    header = image.header
    bottom = LayerFlags.BOTTOM in header.flags
    tree = _assemble(fd, header.tar_size, bottom=bottom, limits=limits)
    if not bottom:
        restore_implied(tree, image, limits)
    verify_image(fd, tree.root, header_of(tree, header.tar_size, header.diff_id, bottom=bottom), limits=limits)
