"""Compressed blocks for the nodes that want them: one that is kept, or one that is made now and then kept.

Blocking, for threads. Builds need the processor too, so only so many blocks are compressed at a time, and no request
waits for its turn: it gets the block as it is. It must not know what a request is.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from imagecache.errors import StoreCorrupt
from imagecache.layer import frames
from imagecache.served.store_reader import read_into
from imagecache.store.layer_name import LayerName
from imagecache.store.packed_blocks import PackedBlocks, version

_WORTH = 0.9
"""A block that is not smaller than this share of it is sent as it is: unpacking it costs the node more."""
_REMEMBERED = 100_000
"""Most blocks that are remembered as not worth it."""
_WAIT = 1.0
"""Seconds for another thread that compresses the same block: nodes that start together ask for the same ones."""
_Block = tuple[LayerName, str]


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
        """``packers``: blocks that are compressed at a time, or in memory until they are sent."""
        self._kept = kept
        self._packers = threading.BoundedSemaphore(packers)
        self._running: dict[_Block, threading.Event] = {}
        self._not_worth: OrderedDict[_Block, None] = OrderedDict()
        self._lock = threading.Lock()

    def packed(self, source: Source, buffer: memoryview, held: ExitStack) -> Packed | None:
        """None: the block is to be sent as it is. ``held`` gets what the pieces need. Raises StoreCorrupt, StoreError.

        The pieces are read into ``buffer``.
        """
        block = source.name, version(source.fd, source.number)
        with self._lock:
            if block in self._not_worth:
                return None
            running = self._running.get(block)
        if running is not None:
            running.wait(_WAIT)
            return self._found(block, buffer, held)
        return self._found(block, buffer, held) or self._made(block, source, buffer, held)

    def _found(self, block: _Block, buffer: memoryview, held: ExitStack) -> Packed | None:
        found = self._kept.open(*block)
        if found is None:
            return None
        fd, length = found
        held.callback(os.close, fd)
        return Packed(length, self._kept.read(*block, fd, buffer))

    def _made(self, block: _Block, source: Source, buffer: memoryview, held: ExitStack) -> Packed | None:
        """None: another thread makes it, no processor is free, or it is not worth it."""
        with ExitStack() as turn:
            if not self._packers.acquire(blocking=False):
                return None
            turn.callback(self._packers.release)
            with self._lock:
                if block in self._running:
                    return None
                running = self._running[block] = threading.Event()
            turn.callback(self._ended, block, running)
            content = self._pack(block, source)
            if content is None:
                return None
            if self._kept.keep(*block, content):
                found = self._found(block, buffer, held)
                if found is not None:
                    return found
            self._ended(block, running)
            held.enter_context(turn.pop_all())  # slow readers hold the memory for long, and so the turn
            return Packed(len(content), _pieces(content, len(buffer)))

    def _ended(self, block: _Block, running: threading.Event) -> None:
        with self._lock:
            if self._running.get(block) is running:
                del self._running[block]
        running.set()

    def _pack(self, block: _Block, source: Source) -> bytes | None:
        start, end = source.span
        plain = memoryview(bytearray(end - start))
        filled = 0
        while filled < len(plain):
            count = read_into(source.fd, plain[filled:], start + filled)
            if not count:
                raise StoreCorrupt(f"layer image {source.name} ends at byte {start + filled} while it is read")
            filled += count
        content = frames.pack(plain)
        if len(content) < _WORTH * len(plain):
            return content
        with self._lock:
            self._not_worth[block] = None
            while len(self._not_worth) > _REMEMBERED:
                self._not_worth.popitem(last=False)
        return None


def _pieces(content: bytes, size: int) -> Iterator[memoryview]:
    view = memoryview(content)
    return (view[at : at + size] for at in range(0, len(view), size))
