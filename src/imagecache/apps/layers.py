"""``imagecache layer``: one layer at a time, without a store.

It joins the pure parts for a person's hand: the same conversion, derivation and proof that builds use.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from imagecache.builder.convert import Converted, convert, hash_file
from imagecache.builder.derive import derive, verify
from imagecache.builder.malloc import keep_freed_memory
from imagecache.cli.application import LayerBuilt, LayerEntry, LayerExported, LayerVerified
from imagecache.digest import DiffID
from imagecache.erofs.header import LayerFlags
from imagecache.erofs.reader import LayerImage
from imagecache.errors import DigestMismatch, NotFound
from imagecache.limits import DEFAULT
from imagecache.oserrors import converting

_CHUNK = 1 << 20


class LocalLayers:
    """``cli.application.LayerTool``."""

    def build(self, source: BinaryIO, output: Path, lower: Sequence[Path]) -> LayerBuilt:
        keep_freed_memory()
        with converting(output), _staged(output) as fd:
            result = convert(iter(lambda: source.read(_CHUNK), b""), fd, bottom=False, limits=DEFAULT)
            if result.context:
                result = self._derive(fd, result, lower)
            assert result.sha256 is not None  # noqa: S101 - a finished layer image has one
        header = result.header
        return LayerBuilt(
            diff_id=header.diff_id,
            sha256=result.sha256,
            size=result.size,
            tar_size=header.tar_size,
            entries=header.entries,
            context_dependent=LayerFlags.IMPLIED in header.flags,
        )

    def _derive(self, fd: int, converted: Converted, lower: Sequence[Path]) -> Converted:
        header = converted.header
        with ExitStack() as stack:
            images = [stack.enter_context(LayerImage.open(path)) for path in reversed(lower)]
            return derive(
                fd, tar_size=header.tar_size, diff_id=header.diff_id, lowers=images, bottom=False, limits=DEFAULT
            )

    def verify(self, file: Path, diff_id: DiffID | None) -> LayerVerified:
        with _reading(file) as fd:
            image = verify(fd, limits=DEFAULT)
            header = image.header
            if diff_id is not None and diff_id != header.diff_id:
                raise DigestMismatch(
                    f"{file} holds the layer {header.diff_id}, not {diff_id}", hint="this is another layer's image"
                )
            size = image.size
            return LayerVerified(header.diff_id, hash_file(fd, size), size, header.entries)

    def export(self, file: Path, output: BinaryIO) -> LayerExported:
        with LayerImage.open(file) as image:
            output.writelines(image.tar())
            return LayerExported(image.header.diff_id, image.header.tar_size)

    def entries(self, file: Path) -> Iterator[LayerEntry]:
        with LayerImage.open(file) as image:
            for path, inode in image.walk():
                if path:
                    yield LayerEntry(
                        path=os.fsdecode(b"/".join(path)),
                        mode=inode.mode,
                        uid=inode.uid,
                        gid=inode.gid,
                        size=inode.size,
                        mtime=inode.mtime,
                        target=os.fsdecode(inode.target),
                        major=inode.major,
                        minor=inode.minor,
                    )


@contextmanager
def _staged(output: Path) -> Iterator[int]:
    """A file that appears as ``output`` only when the block ends well."""
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
        raise NotFound(f"there is no layer image {file}") from error
    try:
        yield fd
    finally:
        os.close(fd)
