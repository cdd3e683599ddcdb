"""The cluster as the informers have it: ImageCaches, Nodes, and the reports of their agents.

It maps every change to the ImageCaches that it concerns. It must not do I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TypeVar

from imagecache.api.nodes import NodeStatus, NodeView, parse_status, platform_of
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
        # made anew after a change only: with a thousand nodes and caches each decision would copy a thousand views
        self._nodes: tuple[NodeView, ...] | None = None

    @property
    def nodes(self) -> tuple[NodeView, ...]:
        """Every node that exists and has an agent."""
        if self._nodes is None:
            self._nodes = tuple(
                NodeView(name, self._machines[name][0], report, self._machines[name][1])
                for name, report in self._reports.items()
                if name in self._machines
            )
        return self._nodes

    @property
    def machines(self) -> Collection[Machine]:
        """Every node that exists, with or without an agent."""
        return self._machines.values()

    def take(self, resource: Resource, item: Object, *, gone: bool) -> Iterable[str]:
        """Record a change; returns the names of the ImageCaches that it may concern."""
        name = objects.name(item)
        if resource == IMAGE_CACHES:
            return self._take_cache(name, item, gone=gone)
        before = self.nodes
        if resource == NODES:
            _put(self._machines, name, None if gone else _machine(item))
        else:
            _put(self._reports, name, None if gone else parse_status(item.get("status") or {}))
        self._nodes = None
        return self._concerned(before, self.nodes)

    def _take_cache(self, name: str, item: Object, *, gone: bool) -> Iterable[str]:
        _put(self.caches, name, None if gone else item)
        return (name,)

    def _concerned(self, before: tuple[NodeView, ...], after: tuple[NodeView, ...]) -> Iterable[str]:
        """A new, deleted or relabelled node concerns all caches; a report those whose state it changes.

        Agents also report progress and free space, which no ImageCache shows: such a report concerns none.
        """
        if [_identity(node) for node in before] != [_identity(node) for node in after]:
            return tuple(self.caches)
        concerned: set[str] = set()
        for one, other in zip(before, after, strict=True):
            if one.status is not other.status:
                states = [
                    {(entry.name, entry.id, entry.state) for entry in each.status.caches} for each in (one, other)
                ]
                concerned |= {name for name, _, _ in states[0] ^ states[1]}
        return tuple(concerned & self.caches.keys())


def _put(table: dict[str, _T], name: str, value: _T | None) -> None:
    if value is None:
        table.pop(name, None)
    else:
        table[name] = value


def _machine(item: Object) -> Machine:
    labels = objects.texts(item, "metadata", "labels")
    return labels, platform_of(objects.at(item, "status", "nodeInfo"), labels)


def _identity(node: NodeView) -> object:
    """What of a node decides which caches it gets."""
    return node.name, node.labels, node.platform
