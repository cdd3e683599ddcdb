"""The index that pods are matched with, made anew after a change of a cache or of what nodes have of it.

At most ten times a second, and of what has changed alone: a thousand nodes report again and again. It must not do I/O.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from imagecache.api import parse
from imagecache.controller.informer_cache import InformerCache
from imagecache.errors import InvalidManifest
from imagecache.kube.resources import IMAGE_CACHES, Resource
from imagecache.match.index import Index, view
from imagecache.match.views import CacheView

_PAUSE = 0.1
"""Seconds between two indexes."""
_LARGE = 2000
"""Caches from which on the event loop does not wait for an index: some 20 ms."""
_Key = tuple[str, str]
"""Name of a cache and id of its bundle."""


@dataclass(frozen=True, slots=True)
class Change:
    """Names of caches that differ from those of the index before."""

    caches: frozenset[str]
    spread: frozenset[str]
    """Others, of which only the nodes that have them differ."""
    appeared: bool
    """Any of them is new."""


Changed = Callable[[Change], None]


class Caches:
    """``changed`` is called after each new index."""

    def __init__(self, informers: InformerCache, changed: Changed, *, large: int = _LARGE) -> None:
        self.index = Index(())
        self._large = large
        self._informers = informers
        self._changed = changed
        self._views: dict[str, CacheView] = {}
        self._earlier: dict[str, str] = {}
        """By name, the id of the content that a cache served before, if that had all of its images too."""
        self._dirty: set[str] = set()
        self._moved: set[str] = set()
        self._news = asyncio.Event()

    def take(self, resource: Resource, concerned: Iterable[str]) -> None:
        """A change of such an object concerns these caches: of a node, only which nodes have them."""
        (self._dirty if resource == IMAGE_CACHES else self._moved).update(concerned)
        if self._dirty or self._moved:
            self._news.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._news.wait()
            await self.refresh()
            await asyncio.sleep(_PAUSE)

    async def refresh(self) -> None:
        """Take over what has changed since the last call."""
        self._news.clear()
        dirty, self._dirty = self._dirty, set()
        moved, self._moved = self._moved, set()
        changed, spread = set[str](), set[str]()
        appeared = False
        for name in dirty | moved:
            before = self._views.get(name)
            after = self._view(name, before if name not in dirty else None)
            if after == before:
                continue
            (spread if _has_only_spread(before, after) else changed).add(name)
            if after is None:
                del self._views[name]
                self._earlier.pop(name, None)
            else:
                self._views[name] = after
                appeared |= before is None or before.uid != after.uid
        if not (changed or spread):
            return
        views = tuple(self._views.values())
        self.index = await asyncio.to_thread(Index, views) if len(views) > self._large else Index(views)
        self._changed(Change(frozenset(changed), frozenset(spread), appeared))

    def _view(self, name: str, before: CacheView | None) -> CacheView | None:
        """Of one cache as it is now. ``before``: only what nodes have of it has changed since then."""
        if before is not None:
            return replace(before, nodes=self._nodes((name, before.id)), still=self._still(name))
        item = self._informers.caches.get(name)
        if item is None:
            return None
        try:
            cache = parse.stored(item).cache
        except InvalidManifest:  # not an object of the API
            return None
        key = (name, cache.status.image_cache_id if cache.status else "")
        found = view(cache, {key: self._nodes(key)})
        self._note_switch(self._views.get(name), found)
        return replace(found, still=self._still(name))

    def _note_switch(self, before: CacheView | None, after: CacheView) -> None:
        """At the end of an update nodes serve the old content until they have the new one."""
        if before is None or before.id == after.id:
            return
        if before.serves and after.serves and before.uid == after.uid and before.digests.keys() >= after.digests.keys():
            self._earlier[after.name] = before.id
        else:
            self._earlier.pop(after.name, None)

    def _still(self, name: str) -> frozenset[str]:
        return self._nodes((name, self._earlier[name])) if name in self._earlier else frozenset()

    def _nodes(self, key: _Key) -> frozenset[str]:
        return self._informers.nodes.usable(*key)


def _has_only_spread(before: CacheView | None, after: CacheView | None) -> bool:
    if before is None or after is None:
        return False
    return replace(before, nodes=after.nodes, still=after.still, ready=after.ready) == after
