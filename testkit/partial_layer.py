"""A partial layer in a real store, written as a build writes one, but step by step.

It does the same as ``builder.layer_builder``: the name's lock, a staged file, and the note that announces it.
It must not know what is in a layer image; a tar, and what follows it, come from the test.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from imagecache.erofs.layer_header import DATA_START, unfinished
from imagecache.oserrors import converting
from imagecache.store.durable_files import write_all
from imagecache.store.layer_name import LayerName
from imagecache.store.store import Store

NO_HEAD = bytes(DATA_START)
"""What precedes a tar that is not complete."""


class PartialLayerWriter:
    """Starts at once. ``finish`` or ``abandon`` ends it, and so does the end of the block."""

    def __init__(self, store: Store, name: LayerName) -> None:
        self._name = name
        self._size = 0
        with ExitStack() as stack:
            lock = stack.enter_context(store.layers.lock(name))
            self._staged = stack.enter_context(store.layers.stage())
            store.layers.announce(lock, self._staged)
            self._held = stack.pop_all()

    def write(self, content: bytes) -> None:
        """Append to the file."""
        with converting(self._staged.path):
            write_all(self._staged.fd, content, self._size)
        self._size += len(content)

    def note_tar(self, size: int) -> None:
        """The tar is complete and has ``size`` bytes: from now on the head has its length."""
        with converting(self._staged.path):
            write_all(self._staged.fd, unfinished(size), 0)

    def start_again(self) -> None:
        """Drop what was written: it was wrong."""
        with converting(self._staged.path):
            os.ftruncate(self._staged.fd, 0)
        self._size = 0

    def finish(self) -> None:
        """Commit what was written."""
        self._staged.commit(self._name)
        self._held.close()

    def abandon(self) -> None:
        """Idempotent."""
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abandon()
