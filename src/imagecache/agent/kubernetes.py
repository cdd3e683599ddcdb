"""The ports of ``cluster`` that are objects of the Kubernetes API: ImageCaches, our Node, our NodeImageCache.

Pictures are kept by followers, so an API server that is away means an old picture, never an empty one. They must not
decide anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field

import msgspec

from imagecache.agent import taint
from imagecache.agent.cache_object import cache_of
from imagecache.agent.dependencies import Node
from imagecache.api.assignment import Cache
from imagecache.api.nodes import NodeStatus
from imagecache.errors import ObjectExists, ObjectNotFound
from imagecache.kube import objects
from imagecache.kube.api import ChangeKind, Kube, Object
from imagecache.kube.informer import Informer
from imagecache.kube.resources import IMAGE_CACHES, NODE_IMAGE_CACHES, NODES, Resource


@dataclass
class _Informed:
    """All objects of a kind, as they are now."""

    kube: Kube
    resource: Resource
    fields: str = ""
    items: dict[str, Object] = field(default_factory=dict)

    async def watch(self) -> AsyncGenerator[dict[str, Object], None]:
        """The picture once it is complete, and again after changes; several changes at once are one."""
        changed = asyncio.Event()
        follower = Informer(self.kube, self.resource, fields=self.fields)
        following = asyncio.create_task(self._follow(follower, changed))
        following.add_done_callback(lambda _task: changed.set())
        following.add_done_callback(lambda _task: follower.synced.set())
        try:
            await follower.synced.wait()
            while True:
                if following.done():
                    following.result()  # a bug: it never ends by itself
                changed.clear()
                yield dict(self.items)
                await changed.wait()
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following

    async def _follow(self, follower: Informer, changed: asyncio.Event) -> None:
        async for change in follower.changes():
            name = objects.name(change.object)
            if change.kind is ChangeKind.DELETED:
                self.items.pop(name, None)
            else:
                self.items[name] = change.object
            changed.set()


@dataclass
class KubeCaches:
    """``agent.dependencies.Caches``."""

    kube: Kube

    async def watch(self) -> AsyncGenerator[Sequence[Cache], None]:
        before: list[Cache] | None = None
        async with aclosing(_Informed(self.kube, IMAGE_CACHES).watch()) as pictures:
            async for items in pictures:
                caches = [cache_of(item) for item in items.values()]
                if caches != before:  # most changes are a build's progress
                    yield caches
                before = caches


@dataclass
class KubeNodes:
    """``agent.dependencies.Nodes``."""

    kube: Kube
    name: str
    _latest: Object | None = None

    async def watch(self) -> AsyncGenerator[Node | None, None]:
        seen = False
        before: Node | None = None
        async with aclosing(_Informed(self.kube, NODES, f"metadata.name={self.name}").watch()) as pictures:
            async for items in pictures:
                self._latest = items.get(self.name)
                node = _node(self._latest) if self._latest is not None else None
                if not seen or node != before:  # kubelet writes its own status all the time
                    yield node
                seen, before = True, node

    async def untaint(self) -> None:
        item = self._latest or {}
        left = taint.without(objects.at(item, "spec", "taints"))
        if left is None:
            return
        version: Object = {"resourceVersion": objects.resource_version(item)}
        patch: Object = {"metadata": version, "spec": {"taints": left or None}}
        await self.kube.patch(NODES, self.name, patch)


def _node(item: Object) -> Node:
    tainted = taint.without(objects.at(item, "spec", "taints")) is not None
    return Node(objects.uid(item), objects.texts(item, "metadata", "labels"), tainted)


@dataclass
class KubeReporter:
    """``agent.dependencies.Reporter``."""

    kube: Kube
    name: str
    """Of the Node, and so of the NodeImageCache."""

    _owner: str = ""
    """Uid of the Node that owns our object, once that is so."""

    async def report(self, status: NodeStatus, node: Node) -> None:
        if node.uid != self._owner:
            await self._own(node)
        fields: Object = {each.encode_name: None for each in msgspec.structs.fields(NodeStatus)}
        patch: Object = {"status": fields | msgspec.to_builtins(status)}
        try:
            await self.kube.patch(NODE_IMAGE_CACHES, self.name, patch, subresource="status")
        except ObjectNotFound:  # somebody deleted it
            await self._own(node)
            await self.kube.patch(NODE_IMAGE_CACHES, self.name, patch, subresource="status")

    async def withdraw(self) -> None:
        """For a node without an agent: nothing is said of it, and it counts for no cache."""
        with suppress(ObjectNotFound):
            await self.kube.delete(NODE_IMAGE_CACHES, self.name)

    async def _own(self, node: Node) -> None:
        """Have our object, owned by the Node as it is now, so that it goes with it."""
        owner: Object = {"apiVersion": NODES.api_version, "kind": NODES.kind, "name": self.name, "uid": node.uid}
        try:
            metadata: Object = {"name": self.name, "ownerReferences": [owner]}
            await self.kube.create(NODE_IMAGE_CACHES, {"metadata": metadata})
        except ObjectExists:
            patch: Object = {"metadata": {"ownerReferences": [owner]}}
            await self.kube.patch(NODE_IMAGE_CACHES, self.name, patch)
        self._owner = node.uid
