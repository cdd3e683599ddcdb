"""Which bundles of a store a node serves: all in its index, or those that an agent has checked.

A node's own store has in its index what was built or proven here. In a directory that others share, everybody who can
write there writes the index; so there the node's agent compares each document with the API server, and says which ones
are served. It must not look into layer images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import structlog

from imagecache.errors import StoreError
from imagecache.store.bundle_document import Bundle
from imagecache.store.documents import BundleDocuments
from imagecache.store.oci_layout import LayoutIndex

_log = structlog.get_logger(__name__)

Version = object
"""The same object as long as the same bundles are served."""


class ServedBundles(Protocol):
    """Thread-safe; never raises: a miss is an ordinary pull, an exception would be a node that starts nothing."""

    def current(self) -> tuple[Version, Callable[[], Iterable[Bundle]]]:
        """A version, in one stat at most, and what reads the bundles of then."""


class IndexedBundles:
    """Every bundle in ``index.json`` that can be read; the others are left out and logged."""

    def __init__(self, documents: BundleDocuments) -> None:
        self._documents = documents
        self._last = LayoutIndex()
        self._problem = ""

    def current(self) -> tuple[Version, Callable[[], Iterable[Bundle]]]:
        try:
            index = self._documents.index()
        except StoreError as error:
            if str(error) != self._problem:  # once, not for each layer of each container
                self._problem = str(error)
                _log.warning("index of the store is unreadable", problem=self._problem)
            index = self._last
        else:
            self._last, self._problem = index, ""
        return index, lambda: self._read(index)

    def _read(self, index: LayoutIndex) -> Iterator[Bundle]:
        for entry in index.manifests:
            try:
                yield self._documents.load(entry)
            except StoreError as error:
                _log.warning("bundle left out", manifest=entry.digest, problem=str(error))


class CheckedBundles:
    """What somebody else has checked; nothing at first."""

    def __init__(self) -> None:
        self._bundles: tuple[Bundle, ...] = ()

    def replace(self, bundles: Iterable[Bundle]) -> None:
        found = tuple(bundles)
        if found != self._bundles:  # the same ones stay the same object, so that nobody reads them again
            self._bundles = found

    def current(self) -> tuple[Version, Callable[[], Iterable[Bundle]]]:
        bundles = self._bundles
        return bundles, lambda: bundles
