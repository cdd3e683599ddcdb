"""The cluster as the informers have it: ImageCaches, Nodes, and the reports of their agents.

It maps every change to the ImageCaches that it concerns. It must not do I/O.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeVar

from imagecache.api.nodes import NodeStatus, NodeView, parse_status, platform_of
from imagecache.controller.node_index import NodeIndex
from imagecache.kube import objects
from imagecache.kube.api import Object
from imagecache.kube.resources import IMAGE_CACHES, NODES, Resource
from imagecache.oci.descriptor import Platform

_T = TypeVar("_T")
Machine = tuple[dict[str, str], Platform | None]
"""Labels and platform of a Node."""


class InformerCache:
    def __init__(self) -> None:
        self.caches: dict[str, Object] = {}
        self._machines: dict[str, Machine] = {}
        self._reports: dict[str, NodeStatus] = {}
        self.nodes = NodeIndex()
        """Every node that exists and has an agent."""

    @property
    def machines(self) -> Collection[Machine]:
        """Every node that exists, with or without an agent."""
        return self._machines.values()

    def take(self, resource: Resource, item: Object, *, gone: bool) -> Collection[str]:
        """Record a change; returns the names of the ImageCaches that it may concern."""
        name = objects.name(item)
        if resource == IMAGE_CACHES:
            return self._take_cache(name, item, gone=gone)
        if resource == NODES:
            _put(self._machines, name, None if gone else _machine(item))
        else:
            _put(self._reports, name, None if gone else parse_status(item.get("status") or {}))
        concerned = self.nodes.put(name, self._view(name))
        return tuple(self.caches if concerned is None else concerned & self.caches.keys())

    def _view(self, node: str) -> NodeView | None:
        if node not in self._machines or node not in self._reports:
            return None
        labels, platform = self._machines[node]
        return NodeView(node, labels, self._reports[node], platform)

    def _take_cache(self, name: str, item: Object, *, gone: bool) -> Collection[str]:
        _put(self.caches, name, None if gone else item)
        return (name,)


def _put(table: dict[str, _T], name: str, value: _T | None) -> None:
    if value is None:
        table.pop(name, None)
    else:
        table[name] = value


def _machine(item: Object) -> Machine:
    labels = objects.texts(item, "metadata", "labels")
    return labels, platform_of(objects.at(item, "status", "nodeInfo"), labels)
