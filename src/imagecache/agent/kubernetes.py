"""The dependencies of the agent that are objects of the Kubernetes API: ImageCaches, our Node, our NodeImageCache.

Objects are kept in informer caches, so while the API server is away the agent sees old objects, never none. It must not
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
from imagecache.api.nodes import NodeStatus, platform_of
from imagecache.errors import ObjectExists, ObjectNotFound
from imagecache.kube import objects
from imagecache.kube.api import ChangeKind, Kube, Object
from imagecache.kube.informer import Informer
from imagecache.kube.resources import IMAGE_CACHES, NODE_IMAGE_CACHES, NODES, Resource
from imagecache.oci.descriptor import Platform


@dataclass
class _InformerCache:
    """All objects of a kind, as the API server last showed them."""

    kube: Kube
    resource: Resource
    fields: str = ""
    items: dict[str, Object] = field(default_factory=dict)

    async def watch(self) -> AsyncGenerator[dict[str, Object], None]:
        """All objects by name, once the first list is complete and after each change; changes at one time are one."""
        changed = asyncio.Event()
        informer = Informer(self.kube, self.resource, fields=self.fields)
        updating = asyncio.create_task(self._update(informer, changed))
        # an informer never ends; if a bug ends it, both waits below must end too, so that the bug is raised
        updating.add_done_callback(lambda _task: changed.set())
        updating.add_done_callback(lambda _task: informer.synced.set())
        try:
            await informer.synced.wait()
            while True:
                if updating.done():
                    updating.result()
                changed.clear()
                yield dict(self.items)
                await changed.wait()
        finally:
            updating.cancel()
            with suppress(asyncio.CancelledError):
                await updating

    async def _update(self, informer: Informer, changed: asyncio.Event) -> None:
        async for change in informer.changes():
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
        async with aclosing(_InformerCache(self.kube, IMAGE_CACHES).watch()) as lists:
            async for items in lists:
                caches = [cache_of(item) for item in items.values()]
                if caches != before:  # most changes are progress of a build
                    yield caches
                before = caches


@dataclass
class KubeNodes:
    """``agent.dependencies.Nodes``."""

    kube: Kube
    name: str
    platform: Platform
    """Of this machine, for a Node that does not say its own."""
    _latest: Object | None = None

    async def watch(self) -> AsyncGenerator[Node | None, None]:
        seen = False
        before: Node | None = None
        async with aclosing(_InformerCache(self.kube, NODES, f"metadata.name={self.name}").watch()) as lists:
            async for items in lists:
                self._latest = items.get(self.name)
                node = self._node(self._latest) if self._latest is not None else None
                if not seen or node != before:  # kubelet writes the Node's status every few seconds
                    yield node
                seen, before = True, node

    async def untaint(self) -> None:
        item = self._latest or {}
        left = taint.without(objects.at(item, "spec", "taints"))
        if left is None:
            return
        # with the version we saw: the patch replaces the whole list, and must not drop a taint that was added meanwhile
        version: Object = {"resourceVersion": objects.resource_version(item)}
        patch: Object = {"metadata": version, "spec": {"taints": left or None}}
        await self.kube.patch(NODES, self.name, patch)

    def _node(self, item: Object) -> Node:
        tainted = taint.without(objects.at(item, "spec", "taints")) is not None
        labels = objects.texts(item, "metadata", "labels")
        platform = platform_of(objects.at(item, "status", "nodeInfo"), labels) or self.platform
        return Node(objects.uid(item), labels, platform, tainted)


@dataclass
class KubeReporter:
    """``agent.dependencies.Reporter``."""

    kube: Kube
    name: str
    """Of the Node, and so of the NodeImageCache."""

    _owner: str = ""
    """Uid of the Node that owns our object; empty until we have seen to it."""

    async def report(self, status: NodeStatus, node: Node) -> None:
        if node.uid != self._owner:
            await self._own(node)
        # a merge patch removes a field only by null, and omitted defaults would keep their old value
        fields: Object = {each.encode_name: None for each in msgspec.structs.fields(NodeStatus)}
        patch: Object = {"status": fields | msgspec.to_builtins(status)}
        try:
            await self.kube.patch(NODE_IMAGE_CACHES, self.name, patch, subresource="status")
        except ObjectNotFound:  # a person deleted it
            await self._own(node)
            await self.kube.patch(NODE_IMAGE_CACHES, self.name, patch, subresource="status")

    async def withdraw(self) -> None:
        """Delete the report of a node that has no agent any longer: it counts for no cache then."""
        with suppress(ObjectNotFound):
            await self.kube.delete(NODE_IMAGE_CACHES, self.name)

    async def _own(self, node: Node) -> None:
        """Create our object, or make the present Node its owner, so that it is deleted with the Node."""
        owner: Object = {"apiVersion": NODES.api_version, "kind": NODES.kind, "name": self.name, "uid": node.uid}
        try:
            metadata: Object = {"name": self.name, "ownerReferences": [owner]}
            await self.kube.create(NODE_IMAGE_CACHES, {"metadata": metadata})
        except ObjectExists:
            patch: Object = {"metadata": {"ownerReferences": [owner]}}
            await self.kube.patch(NODE_IMAGE_CACHES, self.name, patch)
        self._owner = node.uid
