"""How many bytes of the disk a build that is prefetched may take."""

from __future__ import annotations

from imagecache.errors import NoSpace


class Allowance:
    """Bytes that builds which are followed may still take: what is spare, and never more.

    How large their layers become nobody knows before the end, so no space is made or kept for them: whoever is in need
    of it comes first, and a build that does not fit is fetched when it is ready, by the rules for all.
    """

    def __init__(self, spare: int = 0) -> None:
        self._left = spare

    def grant(self, spare: int) -> None:
        """As the disk was found just now."""
        self._left = spare

    def take(self, size: int) -> None:
        """Raises NoSpace."""
        if size > self._left:
            raise NoSpace("the node has no space to spare for a cache that is not ready yet", hint="it is tried again")
        self._left -= size
