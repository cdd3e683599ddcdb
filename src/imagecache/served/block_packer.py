"""Compressed blocks for the nodes that want them: one that is kept, or one that is made now and then kept.

Blocking, for threads. Builds need the processor too, so only so many blocks are compressed at a time, and no request
waits for its turn: it gets the block as it is. It must not know what a request is.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from imagecache.errors import StoreCorrupt
from imagecache.layer import frames
from imagecache.served.store_reader import read_into
from imagecache.store.layer_name import LayerName
from imagecache.store.packed_blocks import PackedBlocks

_WORTH = 0.9
"""A block that is not smaller than this share of it is sent as it is: unpacking it costs the node more."""
_REMEMBERED = 100_000
"""Most blocks that are remembered as not worth it."""
_WAIT = 1.0
"""Seconds for another thread that compresses the same block: nodes that start together ask for the same ones."""
_Block = tuple[LayerName, int]


@dataclass(frozen=True, slots=True)
class Source:
    """Where the bytes of a block are."""

    name: LayerName
    number: int
    fd: int
    span: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Packed:
    length: int
    pieces: Iterator[memoryview]
    """Each valid until the next one is taken."""


class BlockPacker:
    """Thread-safe."""

    def __init__(self, kept: PackedBlocks, packers: int) -> None:
        """``packers``: blocks that are compressed at a time."""
        self._kept = kept
        self._packers = threading.BoundedSemaphore(packers)
        self._running: dict[_Block, threading.Event] = {}
        self._not_worth: OrderedDict[_Block, None] = OrderedDict()
        self._lock = threading.Lock()

    def packed(self, source: Source, buffer: memoryview, held: ExitStack) -> Packed | None:
        """None: the block is to be sent as it is. ``held`` gets what the pieces need. Raises StoreCorrupt, StoreError.

        The pieces are read into ``buffer``.
        """
        block = source.name, source.number
        with self._lock:
            if block in self._not_worth:
                return None
            running = self._running.get(block)
        if running is not None:
            running.wait(_WAIT)
        found = self._kept.open(*block)
        if found is not None:
            fd, length = found
            held.callback(os.close, fd)
            return Packed(length, self._kept.read(*block, fd, buffer))
        content = self._turn(block, lambda: self._pack(source))
        return None if content is None else Packed(len(content), _pieces(content, len(buffer)))

    def _turn(self, block: _Block, pack: Callable[[], bytes | None]) -> bytes | None:
        """What ``pack`` makes, if no other thread does the same and there is a processor for it."""
        if not self._packers.acquire(blocking=False):
            return None
        try:
            with self._lock:
                if block in self._running:
                    return None
                ended = self._running[block] = threading.Event()
            try:
                return pack()
            finally:
                with self._lock:
                    del self._running[block]
                ended.set()
        finally:
            self._packers.release()

    def _pack(self, source: Source) -> bytes | None:
        block = memoryview(bytearray(source.span[1] - source.span[0]))
        filled = 0
        while filled < len(block):
            count = read_into(source.fd, block[filled:], source.span[0] + filled)
            if not count:
                raise StoreCorrupt(f"layer image {source.name} ends at byte {source.span[0] + filled} while it is read")
            filled += count
        content = frames.pack(block)
        if len(content) < _WORTH * len(block):
            self._kept.keep(source.name, source.number, content)
            return content
        with self._lock:
            self._not_worth[source.name, source.number] = None
            while len(self._not_worth) > _REMEMBERED:
                self._not_worth.popitem(last=False)
        return None


def _pieces(content: bytes, size: int) -> Iterator[memoryview]:
    view = memoryview(content)
    return (view[at : at + size] for at in range(0, len(view), size))
