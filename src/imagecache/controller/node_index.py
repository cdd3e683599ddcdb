"""What nodes report, by ImageCache: kept up to date report by report, however many nodes and caches there are.

A report that changes no state costs what the node has, not what the cluster has. It must not do I/O.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from imagecache.api import columns
from imagecache.api.assignment import Target, takes
from imagecache.api.nodes import NAME_TAKEN, CacheState, NodeView
from imagecache.api.types import NodeCounts

_TARGETS = 1000
"""Of which the nodes are remembered: caches have few different ones."""
Key = tuple[str, str]
"""Name of a cache and id of its bundle: a report about an earlier bundle says nothing about this one."""


_Said = tuple[CacheState | None, str]
"""State of a cache on a node, and its words about names that another one owns there; empty: it has its names."""
_NOTHING: _Said = (None, "")


class NodeIndex:
    """Nodes that have an agent. ``assignment.NodeCounter``."""

    def __init__(self) -> None:
        self._views: dict[str, NodeView] = {}
        self._having: dict[CacheState, defaultdict[Key, set[str]]] = {
            state: defaultdict(set) for state in (CacheState.READY, CacheState.FAILED)
        }
        self._taken: defaultdict[Key, dict[str, str]] = defaultdict(dict)
        """What each node says of names that another ImageCache owns there."""
        self._matching: dict[Target, set[str]] = {}

    @property
    def views(self) -> Collection[NodeView]:
        return self._views.values()

    def view(self, node: str) -> NodeView | None:
        return self._views.get(node)

    def usable(self, cache: str, bundle_id: str) -> frozenset[str]:
        """The nodes that report it Ready."""
        return frozenset(self._having[CacheState.READY].get((cache, bundle_id), ()))

    def counts(self, cache: str, bundle_id: str, target: Target) -> NodeCounts:
        nodes = self._nodes_of(target)
        ready, failed = (
            len(nodes & self._having[state].get((cache, bundle_id), frozenset()))
            for state in (CacheState.READY, CacheState.FAILED)
        )
        return NodeCounts(desired=len(nodes), ready=ready, failed=failed)

    def taken(self, cache: str, bundle_id: str, target: Target) -> str:
        nodes = self._nodes_of(target)
        said = {node: words for node, words in self._taken.get((cache, bundle_id), {}).items() if node in nodes}
        if not said:
            return ""
        first = min(said)
        more = f", and on {columns.count(len(said) - 1, 'other node')}" if len(said) > 1 else ""
        return f"{said[first]} (on {first}{more})"

    def put(self, node: str, after: NodeView | None) -> frozenset[str] | None:
        """Take a node's new view, None when it has gone or has no agent any more.

        Returns the names of the caches whose state on it has changed; None: it may concern all, for the node is new,
        gone, or another one by its labels or platform. Agents also report progress and free space: that concerns none.
        """
        before = self._views.pop(node, None)
        if after is not None:
            self._views[node] = after
        if before is after or (before is not None and after is not None and before.status is after.status):
            moved: set[str] = set()
        else:
            moved = self._move(node, _states(before), _states(after))
        if _identity(before) == _identity(after):
            return frozenset(moved)
        for target, nodes in self._matching.items():
            nodes.discard(node)
            if after is not None and _is_for(target, after):
                nodes.add(node)
        return None

    def _move(self, node: str, before: Mapping[Key, _Said], after: Mapping[Key, _Said]) -> set[str]:
        moved = set()
        for key in before.keys() | after.keys():
            (had, lost), (has, loses) = before.get(key, _NOTHING), after.get(key, _NOTHING)
            if (had, lost) == (has, loses):
                continue
            moved.add(key[0])
            self._take(node, key, loses)
            if had is has:
                continue
            if had in self._having:
                nodes = self._having[had][key]
                nodes.discard(node)
                if not nodes:
                    del self._having[had][key]
            if has in self._having:
                self._having[has][key].add(node)
        return moved

    def _take(self, node: str, key: Key, words: str) -> None:
        if words:
            self._taken[key][node] = words
        elif key in self._taken:
            self._taken[key].pop(node, None)
            if not self._taken[key]:
                del self._taken[key]

    def _nodes_of(self, target: Target) -> set[str]:
        if target not in self._matching:
            if len(self._matching) >= _TARGETS:
                self._matching.clear()
            self._matching[target] = {view.name for view in self._views.values() if _is_for(target, view)}
        return self._matching[target]


class FewNodes:
    """``assignment.NodeCounter`` of a host, which is looked at anew each time."""

    def __init__(self, views: Iterable[NodeView]) -> None:
        self._index = NodeIndex()
        for view in views:
            self._index.put(view.name, view)

    def counts(self, cache: str, bundle_id: str, target: Target) -> NodeCounts:
        return self._index.counts(cache, bundle_id, target)

    def taken(self, cache: str, bundle_id: str, target: Target) -> str:
        return self._index.taken(cache, bundle_id, target)


def _states(view: NodeView | None) -> Mapping[Key, _Said]:
    """Of two entries about the same the first counts."""
    entries = view.status.caches if view is not None else ()
    return {
        (entry.name, entry.id): (entry.state, entry.message if entry.reason == NAME_TAKEN else "")
        for entry in reversed(entries)
    }


def _is_for(target: Target, node: NodeView) -> bool:
    # a host without Kubernetes has what it was told to have by name, whatever a selector says
    matches = node.labels is None or target.selector.matches(node.labels)
    return matches and takes(target.platforms, node.platform)


def _identity(node: NodeView | None) -> object:
    """What of a node decides which caches it gets."""
    return node and (node.labels, node.platform)
