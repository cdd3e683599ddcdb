"""The result of a conversion. A worker process sends it to the build, so it is a message, too.

It must not import what converts: the parent of the workers loads no decompressor.
"""

from __future__ import annotations

import msgspec

from imagecache.digest import Digest
from imagecache.erofs.layer_header import LayerHeader


class Converted(msgspec.Struct, tag=True, frozen=True, kw_only=True):
    """A layer image, or its tar alone when the filesystem depends on the layers below."""

    header: LayerHeader
    size: int = 0
    """Bytes of the layer image file."""
    digest: Digest | None = None
    """``image_digest`` of the layer image. None: only the tar is written, and ``derive`` completes the file."""
    threads: int = 1
    """Cores that have inflated the blob."""
    compression: str = ""
    """Of the blob, as ``layer.compression`` found it. Empty: there was no blob."""
