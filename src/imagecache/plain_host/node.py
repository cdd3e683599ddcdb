"""A host without Kubernetes as the only node: what is attached here, and what is meant to be.

It is remembered as a Node's agent remembers it (``agent.state``), under a name that no Node can have. It must not know
why something is attached.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from imagecache.agent import names
from imagecache.agent.state import NodeState
from imagecache.api import building
from imagecache.api.nodes import HOST, NodeStatus, NodeView, also_unpack, direct_io
from imagecache.api.types import ImageCache
from imagecache.containerd.api import ALONE, Attached, Beside
from imagecache.errors import ImageCacheError
from imagecache.oci.descriptor import Platform
from imagecache.oserrors import converting
from imagecache.store.bundle_document import Bundle
from imagecache.store.durable_files import fsync_directory
from imagecache.store.owner import make_directory


class Attacher(Protocol):
    """``apps.attach.LocalAttacher``; the fake is in ``testkit.builder``."""

    async def attach(self, bundle: Bundle, also: Collection[str] = (), beside: Beside = ALONE) -> Attached:
        """Make the images usable in containerd. Idempotent. Raises HostError, StoreError.

        ``also`` are the snapshotters that its cache asks for, ``beside`` is what else is on the host.
        """

    async def detach(self, bundle: Bundle, keep: Sequence[Bundle] = (), had: Collection[str] = ()) -> tuple[str, ...]:
        """Remove the records, but for those that the host ``had`` before, and return the names that are gone.

        A name that a bundle in ``keep`` has too, of several the first, means its image then.
        """


class HostNode:
    """The caller has claimed the object that a call is about.

    Args:
        nodes: the store's directory of nodes.
        attacher: makes the attacher when it is needed; most commands need none.
        platform: of this host.
    """

    def __init__(self, nodes: Path, attacher: Callable[[], Attacher], platform: Platform) -> None:
        self._directory = nodes / HOST
        self._meant = self._directory / "meant"
        """A file for each cache that a command wants attached here, by name: its first build may be the agent's."""
        self._attacher = attacher
        self._platform = platform

    async def attach(self, bundle: Bundle, cache: ImageCache) -> Attached:
        """Attach what a cache's bundle has for this host; an earlier one of the same cache is detached after that.

        Raises as the attacher.
        """
        own = bundle.on(self._platform)
        here = {image.reference for image in own.images}
        foreign = tuple(dict.fromkeys(image.reference for image in bundle.images if image.reference not in here))
        state = await asyncio.to_thread(self._load)
        attached = Attached()
        if own.images:
            attached = await self._attach(own, cache, state)
        for earlier in _of(state, cache.name):  # last, so that a name which both have is never missing
            if earlier.id != bundle.id or not own.images:
                await self._detach(state, earlier)
        return replace(attached, foreign=foreign)

    async def _attach(self, own: Bundle, cache: ImageCache, state: NodeState) -> Attached:
        annotations = cache.metadata.annotations
        also, rank = also_unpack(annotations), names.rank(cache.name, annotations, cache.metadata.creation_timestamp)
        # before the records are made: whatever is half made then, detach finds it, and the agent completes it
        await asyncio.to_thread(state.write, own, [cache.name], also, direct_io=direct_io(annotations), rank=rank)
        try:
            beside = Beside(state.asked(without=own.id), names.taken(own.id, state.claims()), state.all_made())
            attached = await self._attacher().attach(own, also, beside)
        except ImageCacheError as error:
            await asyncio.to_thread(state.settle, own.id, building.explain(error))
            raise
        await asyncio.to_thread(state.made, own.id, attached)
        await asyncio.to_thread(state.settle, own.id)
        return attached

    def mean(self, cache: str) -> None:
        """The cache is to be attached here as soon as it serves, whoever builds it. Blocks. Raises StoreError."""
        self._load()
        with converting(self._meant):
            make_directory(self._meant)
            (self._meant / cache).touch()
            fsync_directory(self._meant)

    async def detach(self, cache: str) -> tuple[str, ...]:
        """Remove the records of a cache's bundles, unless another attached cache has them too; returns their names."""
        state = await asyncio.to_thread(self._load)
        (self._meant / cache).unlink(missing_ok=True)
        return tuple([name for bundle in _of(state, cache) for name in await self._detach(state, bundle)])

    async def detach_others(self, caches: Callable[[], Collection[str]]) -> None:
        """Detach what is attached for caches that do not exist: they were deleted while containerd was away."""
        state = await asyncio.to_thread(self._load)
        # after the state, so that a cache that is created and attached just now is among them
        existing = frozenset(await asyncio.to_thread(caches))
        known = state.known()
        for bundle in list(state.documents.values()):
            if not known[bundle.id].caches & existing:
                await self._detach(state, bundle)
        await asyncio.to_thread(self._forget, existing)

    def _forget(self, names: Collection[str]) -> None:
        for path in self._meant.glob("*"):
            if path.name not in names:
                path.unlink(missing_ok=True)

    def is_meant(self, cache: str) -> bool:
        """Whether the cache is wanted here, or was attached and not detached, whichever bundle it has now. Blocks."""
        return (self._meant / cache).exists() or bool(self._load().report(cache))

    def views(self, cache: ImageCache) -> tuple[NodeView, ...] | None:
        """This node for the cache's counts, or no node when it is detached; None when it never was attached. Blocks."""
        report = self._load().report(cache.name)
        if report:
            return (NodeView(HOST, None, NodeStatus(caches=report)),)
        return () if cache.status and cache.status.nodes else None

    async def _detach(self, state: NodeState, bundle: Bundle) -> tuple[str, ...]:
        # the others keep the names that they share with it, such as a tag that two caches have
        others = [claim.document for claim in names.by_rank(state.claims()) if claim.document.id != bundle.id]
        removed = await self._attacher().detach(bundle, others, state.had(bundle.id))
        await asyncio.to_thread(state.erase, bundle.id)
        return removed

    def _load(self) -> NodeState:
        # anew at every call: commands and the agent are processes of their own, and all of them change it
        state = NodeState(self._directory)
        state.load()
        return state


def _of(state: NodeState, cache: str) -> list[Bundle]:
    known = state.known()
    return [bundle for bundle in state.documents.values() if cache in known[bundle.id].caches]
