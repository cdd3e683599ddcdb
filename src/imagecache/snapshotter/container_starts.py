"""What the snapshotter has done for containers that start, kept until somebody asks: time by snapshot, layers below.

The gRPC service reports each call after its reply, in the event loop: nothing here delays a start, and nothing needs a
lock. Only who has said that he asks makes it remember anything, and what he does not ask for is forgotten, the oldest
first. ``answered`` must not block.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from imagecache.snapshotter.snapshot import LayerBelow, is_unpack

MOST = 1000
"""Snapshots that are remembered: those of a node's pods that all start at once."""
_OK = "OK"


@dataclass(slots=True)
class Prepared:
    """The snapshot that a container starts from."""

    key: str
    """As the snapshotter knows it."""
    seconds: float
    """In Prepare, with the mounts that it made, and in Mounts."""


class ContainerStarts:
    """For one event loop. ``below`` reads the layers of a snapshot; it may block."""

    def __init__(self, below: Callable[[str], Sequence[LayerBelow]]) -> None:
        self._below = below
        self._namespace = ""
        self._prepared: dict[str, Prepared] = {}
        """By the key that containerd's client has chosen: the container's id."""
        self._unpacks: dict[str, None] = {}

    def follow(self, namespace: str) -> None:
        """Remember containers of this namespace of containerd from now on."""
        self._namespace = namespace

    def answered(self, method: str, key: str, code: str, seconds: float) -> None:
        """A call about the snapshot ``key`` was answered. Other calls have an empty key."""
        namespace, _, rest = key.partition("/")
        if not rest or namespace != self._namespace:
            return
        if is_unpack(key):
            self._unpack(method, key, code)
            return
        name = rest.partition("/")[2]
        if method == "Prepare" and code == _OK:
            self._prepared[name] = Prepared(key, seconds)
            _bound(self._prepared)
        elif method == "Mounts" and name in self._prepared:
            self._prepared[name].seconds += seconds
        elif method == "Remove":
            self._prepared.pop(name, None)

    def take(self, name: str) -> Prepared | None:
        """What is known of a container's snapshot, once. None: it was prepared by somebody else, or long ago."""
        return self._prepared.pop(name, None)

    @property
    def unpacking(self) -> bool:
        """A layer is being pulled that no layer image serves."""
        return bool(self._unpacks)

    async def layers(self, key: str) -> Sequence[LayerBelow]:
        """The layers below a snapshot, the uppermost first. Raises StoreError."""
        return await asyncio.to_thread(self._below, key)

    def _unpack(self, method: str, key: str, code: str) -> None:
        if method == "Prepare" and code == _OK:  # a layer that is served is answered with another code
            self._unpacks[key] = None
            _bound(self._unpacks)
        elif method in {"Commit", "Remove"}:
            self._unpacks.pop(key, None)


def _bound(known: dict[str, Prepared] | dict[str, None]) -> None:
    if len(known) > MOST:
        del known[next(iter(known))]
