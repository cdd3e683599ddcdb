"""One layer image in a file of its own, without a store: build, verify, export.

The same conversion, derivation and proof that builds use, for the commands ``imagecache layer`` and ``check``.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from imagecache.builder.convert import convert, hash_file
from imagecache.builder.converted import Converted
from imagecache.builder.derive import derive
from imagecache.builder.malloc import keep_freed_memory
from imagecache.builder.position import Position, position_of
from imagecache.builder.prove import verify as verify_image
from imagecache.digest import DiffID
from imagecache.erofs.layer_header import LayerFlags, LayerHeader
from imagecache.erofs.reader import LayerImage
from imagecache.errors import DigestMismatch, NotFound
from imagecache.limits import DEFAULT
from imagecache.oserrors import converting
from imagecache.store.bundle_document import PlacedLayer

_CHUNK = 1 << 20


def build(source: BinaryIO, output: Path, lower: Sequence[Path] = (), *, bottom: bool = False) -> Converted:
    """Convert a tar (plain, gzip or zstd, detected by its first bytes) to a layer image at ``output``.

    ``lower`` are the layer images below, bottom first; ``bottom``: there are none. ``output`` appears whole or not at
    all.
    """
    keep_freed_memory()
    with converting(output), _staged(output) as fd:
        converted = convert(iter(lambda: source.read(_CHUNK), b""), fd, bottom=bottom, limits=DEFAULT)
        if converted.sha256 is not None:
            return converted
        header = converted.header
        with ExitStack() as stack:
            lowers = [stack.enter_context(LayerImage.open(path)) for path in reversed(lower)]
            return derive(
                fd, tar_size=header.tar_size, diff_id=header.diff_id, lowers=lowers, bottom=False, limits=DEFAULT
            )


def verify(file: Path, diff_id: DiffID | None = None, *, bottom: bool = False, lower: Sequence[Path] = ()) -> Converted:
    """Prove that the data hashes to the diffID, and that the metadata can be derived from the data again.

    ``bottom``: for the bottom of an image; with ``lower``, the layer images below, bottom first: for on top of these.
    Without either: for every position.

    Raises:
        NotFound: the file does not exist.
        ContentError: the file is not a sound layer image, or not that of ``diff_id``.
        StoreCorrupt: it is another one than its tar gives at that position.
    """
    with LayerImage.open(file) as claimed:
        # Two files may be right at one position: that for every position, and that for this one alone. Which of them it
        # means to be is the file's to say: it is proven to be that.
        special = LayerFlags.BOTTOM if bottom else LayerFlags.IMPLIED
        alone = (bottom or bool(lower)) and special in claimed.header.flags
    return _prove(file, Position(everywhere=not alone, bottom=bottom), list(reversed(lower)), diff_id)


def verify_placed(file: Path, placed: PlacedLayer, lowers: Sequence[Path]) -> Converted:
    """Prove that a file is a layer image of a bundle, as nodes do. ``lowers`` are the files of ``placed.below``.

    Raises as ``verify``.
    """
    return _prove(file, position_of(placed), lowers, placed.record.diff_id)


def _prove(file: Path, position: Position, lowers: Sequence[Path], diff_id: DiffID | None) -> Converted:
    with ExitStack() as stack:
        fd = stack.enter_context(_reading(file))
        below = [stack.enter_context(LayerImage.open(path)) for path in lowers]
        image = verify_image(fd, position=position, lowers=below, limits=DEFAULT)
        header = image.header
        if diff_id is not None and diff_id != header.diff_id:
            raise DigestMismatch(
                f"{file} holds the layer {header.diff_id}, not {diff_id}", hint="this is another layer's image"
            )
        return Converted(header=header, size=image.size, sha256=hash_file(fd, image.size))


def export(file: Path, output: BinaryIO) -> LayerHeader:
    """Write the original tar, byte for byte."""
    with LayerImage.open(file) as image:
        output.writelines(image.tar())
        return image.header


@contextmanager
def _staged(output: Path) -> Iterator[int]:
    """A file that appears as ``output`` only when the block succeeds."""
    temporary = output.with_name(f".{output.name}.{secrets.token_hex(8)}.tmp")
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        yield fd
        temporary.replace(output)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


@contextmanager
def _reading(file: Path) -> Iterator[int]:
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound(f"layer image {file} does not exist") from error
    try:
        yield fd
    finally:
        os.close(fd)
