"""An ordinary gzip stream on several cores, by rapidgzip where it is installed (ADR 25).

Its output is a guess until the layer's digest proves it: it takes a stream that is cut off, and it may abort on odd
input. So it runs only in a process of its own that may end at any time, and whatever it refuses or gets wrong the plain
decoder reads again. It must not decide how many cores.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Protocol

from imagecache.errors import MalformedLayer
from imagecache.limits import MIB

_MODULE = "rapidgzip"
_PIECE = 4 * MIB


class Compressed(Protocol):
    """The whole stream, as rapidgzip reads it: from several threads, one call at a time."""

    def read(self, size: int = -1, /) -> bytes: ...

    def seek(self, offset: int, whence: int = 0, /) -> int: ...

    def tell(self) -> int: ...

    def seekable(self) -> bool: ...


def available() -> bool:
    return importlib.util.find_spec(_MODULE) is not None


def load() -> None:
    """Import the decoder: in a process that is about to lose its right to read the interpreter's files."""
    importlib.import_module(_MODULE)


def inflate(compressed: Compressed, threads: int) -> Iterator[bytes]:
    """The output in order, in pieces of 4 MiB. Raises MalformedLayer."""
    module: Any = importlib.import_module(_MODULE)  # it has no type stubs
    try:
        with closing(module.open(compressed, parallelization=threads)) as stream:
            while piece := stream.read(_PIECE):
                yield piece
    except (RuntimeError, ValueError, MemoryError, OSError) as error:  # what its C++ exceptions become
        raise MalformedLayer(f"the layer's gzip stream cannot be read on {threads} cores: {error}") from error
