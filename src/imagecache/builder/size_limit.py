"""``imageCacheSize``: what the layer images of one cache may take together. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from imagecache.builder.build_plan import LayerGroup
from imagecache.errors import ImageTooLarge
from imagecache.limits import GIB


class SizeLimit:
    """``imageCacheSize``: the layer images of a cache together, each counted once."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._sizes: dict[str, int] = {}

    @property
    def left(self) -> int:
        """Bytes that no layer image has taken yet."""
        return max(0, self.limit - self.used)

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


def _too_large(need: int, limit: int, how: str) -> ImageTooLarge:
    gib = -(-need // GIB)
    return ImageTooLarge(
        f"the images need more than imageCacheSize: {need / GIB:.2f} GiB {how} so far, {limit / GIB:.0f} GiB allowed",
        hint=f"set spec.imageCacheSize to {2 * gib} or more (twice what they need so far), or list fewer images",
    )
