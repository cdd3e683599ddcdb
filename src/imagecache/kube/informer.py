"""Watch a resource without end: list, watch from the list's version, list again when that version has expired.

An object that vanished between a watch and the next list is reported as deleted, so the informer's cache is complete.
It must not know what it watches.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field

from imagecache.backoff import Backoff, Retries
from imagecache.kube import objects
from imagecache.kube.api import Change, ChangeKind, Kube, Object
from imagecache.kube.resources import Resource
from imagecache.kube.resuming import BACKOFF, resuming
from imagecache.telemetry.log import get_logger

_log = get_logger(__name__)

Key = tuple[str, str]


@dataclass
class Informer:
    """Iterate over ``changes()``. ``synced`` is set when the whole first list has been reported."""

    kube: Kube
    resource: Resource
    namespace: str = ""
    labels: str = ""
    fields: str = ""
    backoff: Backoff = BACKOFF
    synced: asyncio.Event = field(default_factory=asyncio.Event)
    _known: dict[Key, Object] = field(default_factory=dict)
    _version: str = ""

    @property
    def names(self) -> frozenset[str]:
        """Of all objects that exist now; incomplete before ``synced``."""
        return frozenset(name for _namespace, name in self._known)

    def changes(self) -> AsyncGenerator[Change, None]:
        """Changes without end. Errors of the API server are logged once and retried, never raised."""
        return resuming(self._once, self._forget, Retries(self.backoff, _log, resource=self.resource.qualified))

    def _forget(self) -> None:
        self._version = ""

    async def _once(self) -> AsyncIterator[Change]:
        """One list, unless the watch can resume at the last version, and one watch."""
        if not self._version:
            listing = await self.kube.list(
                self.resource, namespace=self.namespace, labels=self.labels, fields=self.fields
            )
            for change in self._compare(listing.items):
                yield change
            self._version = listing.resource_version
            self.synced.set()
        async for change in self.kube.watch(
            self.resource,
            resource_version=self._version,
            namespace=self.namespace,
            labels=self.labels,
            fields=self.fields,
        ):
            self._version = objects.resource_version(change.object) or self._version
            if change.kind is not ChangeKind.BOOKMARK:
                self._remember(change)
                yield change

    def _compare(self, items: tuple[Object, ...]) -> list[Change]:
        """What changed between the known objects and a new list; deletions first."""
        found = {_key(item): item for item in items}
        gone = [Change(ChangeKind.DELETED, item) for key, item in self._known.items() if key not in found]
        fresh = []
        for key, item in found.items():
            before = self._known.get(key)
            if before is None or objects.resource_version(before) != objects.resource_version(item):
                fresh.append(Change(ChangeKind.ADDED if before is None else ChangeKind.MODIFIED, item))
        self._known = found
        return gone + fresh

    def _remember(self, change: Change) -> None:
        if change.kind is ChangeKind.DELETED:
            self._known.pop(_key(change.object), None)
        else:
            self._known[_key(change.object)] = change.object


def _key(item: Object) -> Key:
    return objects.namespace(item), objects.name(item)
