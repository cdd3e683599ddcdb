"""Make the filesystem of a layer image again, from the tar that the file carries.

The tar is inside the file, so everything else can be derived from it again: on other layers below (implied
directories), or by the rules of another position in the image (bottom layer). It works on file descriptors alone. It
must not know names, stores or registries.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from imagecache.builder.convert import ParsedLayer, Room, any_room, header_of
from imagecache.builder.converted import Converted
from imagecache.digest import DiffID
from imagecache.erofs.layer_header import DATA_START
from imagecache.erofs.reader import LayerImage
from imagecache.layer.assemble import LayerTree, assemble
from imagecache.layer.tar_sources import FileSource
from imagecache.limits import Limits


def derive(  # noqa: PLR0913 - what is known of one layer
    fd: int,
    *,
    tar_size: int,
    diff_id: DiffID,
    lowers: Sequence[LayerImage],
    bottom: bool,
    limits: Limits,
    room: Room = any_room,
) -> Converted:
    """Write the filesystem behind a verified tar at ``DATA_START`` of the file; ``lowers`` are top to bottom.

    Raises what ``room`` raises, and the ContentError family.
    """
    tree = assemble_tar(fd, tar_size, bottom=bottom, limits=limits)
    os.ftruncate(fd, DATA_START + tar_size)  # the filesystem of another position may lie behind the tar
    header = header_of(tree, tar_size, diff_id, bottom=bottom)
    return ParsedLayer(tree, header, tar=None, bottom=bottom).finish(fd, lowers, limits=limits, room=room)


def assemble_tar(fd: int, tar_size: int, *, bottom: bool, limits: Limits) -> LayerTree:
    """The tree of the tar at ``DATA_START`` of the file."""
    with os.fdopen(fd, "rb", closefd=False) as file:
        return assemble(FileSource(file, DATA_START, tar_size), bottom=bottom, limits=limits)


def copy_tar(source_fd: int, target_fd: int, tar_size: int) -> None:
    """Copy the data area from one layer image to another file, sharing blocks where the filesystem supports it."""
    offset = DATA_START
    end = DATA_START + tar_size
    while offset < end:
        count = os.copy_file_range(source_fd, target_fd, end - offset, offset, offset)
        if count == 0:
            break
        offset += count
