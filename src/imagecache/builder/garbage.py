"""A tree grows by millions of objects, none of them garbage, and Python's collector looks at all of them as it grows.

That is a fifth of the time of a layer with many small files. A tree has no cycles, so nothing is kept by doing without.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Without the collector of cycles, in the whole process."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
