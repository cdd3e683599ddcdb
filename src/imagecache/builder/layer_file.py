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
from imagecache.builder.prove import verify as verify_image
from imagecache.digest import DiffID
from imagecache.erofs.layer_header import LayerHeader
from imagecache.erofs.reader import LayerImage
from imagecache.errors import DigestMismatch, NotFound
from imagecache.limits import DEFAULT
from imagecache.oserrors import converting

_CHUNK = 1 << 20


def build(source: BinaryIO, output: Path, lower: Sequence[Path] = ()) -> Converted:
    """Convert a tar (plain, gzip or zstd, detected by its first bytes) to a layer image at ``output``.

    ``lower`` are the layer images below, bottom first. ``output`` appears whole or not at all.
    """
    keep_freed_memory()
    with converting(output), _staged(output) as fd:
        converted = convert(iter(lambda: source.read(_CHUNK), b""), fd, bottom=False, limits=DEFAULT)
        if converted.sha256 is not None:
            return converted
        header = converted.header
        with ExitStack() as stack:
            lowers = [stack.enter_context(LayerImage.open(path)) for path in reversed(lower)]
            return derive(
                fd, tar_size=header.tar_size, diff_id=header.diff_id, lowers=lowers, bottom=False, limits=DEFAULT
            )


def verify(file: Path, diff_id: DiffID | None = None) -> Converted:
    """Prove that the data hashes to the diffID, and that the metadata can be derived from the data again.

    Raises:
        NotFound: the file does not exist.
        ContentError: the file is not a sound layer image, or not that of ``diff_id``.
    """
    with _reading(file) as fd:
        image = verify_image(fd, limits=DEFAULT)
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
