"""``imageCacheSize``: what the layer images of one cache may take together. Granted before it is written. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from imagecache.builder.build_plan import LayerGroup
from imagecache.errors import ImageTooLarge
from imagecache.limits import GIB, MIB

_STEP = 4 * MIB
"""Granted in addition, so that a worker need not ask for each piece."""
_AMPLE = 256 * MIB
"""With less left than this, exactly what is asked for is granted: no layer lacks what another one does not use."""


def _unlimited(size: int) -> None:
    del size


class SizeLimit:
    """The layer images of a cache together, each counted once; those that are being written by what is granted to them.

    ``reserve`` is asked whether the disk has room for so many bytes more, and raises NoSpace when it has not.
    """

    def __init__(self, limit: int, reserve: Callable[[int], None] = _unlimited) -> None:
        self.limit = limit
        self.used = 0
        self._reserve = reserve
        self._sizes: dict[str, int] = {}

    @property
    def left(self) -> int:
        """Bytes that no layer image has, and none was granted."""
        return max(0, self.limit - self.used)

    def share(self) -> Share:
        """For one layer image that is written; a context manager."""
        return Share(self)

    def extend(self, granted: int, size: int) -> int:
        """From the bytes that a share has to at least ``size``. Raises ImageTooLarge, NoSpace; then it has no more."""
        more = size - granted
        if more <= 0:
            return granted
        if more > self.left:
            raise _too_large(self.used + more, self.limit, "unpacked")
        self._reserve(more)
        if self.left - more >= _AMPLE:
            more += _STEP
        self.used += more
        return granted + more

    def release(self, size: int) -> None:
        self.used -= size

    def take(self, name: str, size: int) -> None:
        """Count a layer image, once. Raises ImageTooLarge when the sum passes the limit."""
        if name in self._sizes:
            return
        self._sizes[name] = size
        self.used += size
        if self.used > self.limit:
            raise _too_large(self.used, self.limit, "unpacked")

    def precheck(self, groups: Iterable[LayerGroup]) -> None:
        """Raise ImageTooLarge before the first download when even the compressed layers do not fit."""
        compressed = sum(group.blob.size for group in groups)
        if compressed > self.limit:
            raise _too_large(compressed, self.limit, "compressed")


class Share(AbstractContextManager["Share"]):
    """What one file may have. It is given back at the end, unless the file is counted by its name by then."""

    def __init__(self, limit: SizeLimit) -> None:
        self._limit = limit
        self._granted = 0

    def ask(self, size: int) -> int:
        """The file shall have ``size`` bytes; returns how many it may have, at least that. As ``SizeLimit.extend``."""
        self._granted = self._limit.extend(self._granted, size)
        return self._granted

    def clear(self) -> None:
        """The file is empty, or counted by its name."""
        self._limit.release(self._granted)
        self._granted = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()


def _too_large(need: int, limit: int, how: str) -> ImageTooLarge:
    gib = -(-need // GIB)
    return ImageTooLarge(
        f"the images need more than imageCacheSize: {need / GIB:.2f} GiB {how} so far, {limit / GIB:.0f} GiB allowed",
        hint=f"set spec.imageCacheSize to {2 * gib} or more (twice what they need so far), or list fewer images",
    )
