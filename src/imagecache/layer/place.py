"""Paths of a layer as a tree of their own: what is known of a path outlives what lies there.

A path is one object, so that it is compared and kept without its text: a text for each of many deep names would take
more memory than the tree. It must not know inodes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Place:
    """A path. ``depth`` is its number of names, ``length`` their bytes with one slash for each."""

    above: Place | None
    """None: the root."""
    name: bytes
    depth: int = 0
    length: int = 0
    written: bool = False
    """An entry wrote it, and a later one removed it. The bottom layer's opaque markers spare it (unpack-rules §11)."""
    emptied: bool = False
    """Its opaque marker has acted, in the bottom layer (§11)."""
    _known: dict[bytes, Place] | None = None
    """Those below it that must be the same object when something is made there again."""

    def below(self, name: bytes) -> Place:
        """The place ``name`` in this one."""
        known = None if self._known is None else self._known.get(name)
        return known or Place(self, name, self.depth + 1, self.length + len(name) + 1)

    def remember(self, place: Place) -> None:
        """Keep what is known of a place in this one."""
        if self._known is None:
            self._known = {}
        self._known[place.name] = place

    def knows(self, name: bytes) -> bool:
        """Whether ``remember`` was called for ``name``."""
        return self._known is not None and name in self._known

    def path(self) -> tuple[bytes, ...]:
        """Names from the root on."""
        names = []
        place = self
        while place.above is not None:
            names.append(place.name)
            place = place.above
        return tuple(reversed(names))
