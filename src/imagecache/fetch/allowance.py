"""How many bytes of the disk the builds that are prefetched may take."""

from __future__ import annotations

from imagecache.errors import NoSpace


class Allowance:
    """Bytes of the disk that no bundle needs, and that prefetched layers may still take.

    The size of a partial layer is not known before its end, so no space is reserved and nothing is evicted for it. A
    build that does not fit is fetched when it has finished, by the rules for all bundles.
    """

    def __init__(self, spare: int = 0) -> None:
        self._left = spare

    def grant(self, spare: int) -> None:
        """Replace what is left by ``spare``, which was measured just now."""
        self._left = spare

    def take(self, size: int) -> None:
        """Raises NoSpace."""
        if size > self._left:  # builds share it: the one that asks first gets it
            raise NoSpace("the node has no space to spare for a cache that is not ready yet", hint="it is retried")
        self._left -= size
