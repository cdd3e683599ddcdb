"""Which ImageCaches are for which Nodes, as the served store asks it: by selectors and labels.

It is written in the controller's event loop and read in the threads of the server. It must not do I/O.
"""

from __future__ import annotations

from typing import TypeVar

from imagecache.api import assignment, ids
from imagecache.api.selector import Selector
from imagecache.errors import InvalidManifest, StoreBusy
from imagecache.kube import objects
from imagecache.kube.api import Change, ChangeKind, Object
from imagecache.kube.resources import IMAGE_CACHES, NODES, Resource

_T = TypeVar("_T")


class NodeCaches:
    """``served.access.NodeCaches``. Until ``known`` is set, nobody is told anything."""

    def __init__(self) -> None:
        self.known = False
        self._selectors: dict[str, Selector] = {}
        """By what the ids of a cache's bundles begin with. One that cannot be parsed is not here: it has no nodes."""
        self._labels: dict[str, dict[str, str]] = {}

    def forget(self) -> None:
        """Before all objects are listed anew."""
        self.known = False
        self._selectors, self._labels = {}, {}

    def take(self, resource: Resource, change: Change) -> None:
        gone = change.kind is ChangeKind.DELETED
        if resource == NODES:
            _put(self._labels, objects.name(change.object), None if gone else _labels(change.object))
        elif resource == IMAGE_CACHES:
            owner = ids.owner(objects.uid(change.object))
            _put(self._selectors, owner, None if gone else _selector(change.object))

    def has(self, node: str, bundle_id: str) -> bool:
        if not self.known:
            raise StoreBusy("which node may read what is not known yet")
        selector, labels = self._selectors.get(ids.owner_of(bundle_id)), self._labels.get(node)
        return selector is not None and labels is not None and selector.matches(labels)


def _put(found: dict[str, _T], key: str, value: _T | None) -> None:
    if value is None:
        found.pop(key, None)
    else:
        found[key] = value


def _labels(node: Object) -> dict[str, str]:
    return dict(objects.texts(node, "metadata", "labels"))


def _selector(cache: Object) -> Selector | None:
    try:
        return assignment.node_selector(objects.texts(cache, "metadata", "annotations"))
    except InvalidManifest:  # its status says so
        return None
