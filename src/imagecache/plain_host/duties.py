"""What the agent of a host without Kubernetes looks after: this host's own ImageCache objects.

The cluster's controller over files: it updates, expires and retries, and leaves alone what a command has claimed. What
a command has attached is attached again after a restart, since containerd may be a new one. It must not decide.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path

from imagecache.api import building, events
from imagecache.api.assignment import SERVING
from imagecache.api.types import ImageCache
from imagecache.containerd.client import ContainerdClient
from imagecache.controller.decision import Role
from imagecache.controller.dependencies import Builder
from imagecache.controller.reconciler import Dependencies, Reconciler
from imagecache.errors import ImageCacheError, StoreBusy
from imagecache.host.node_process import every
from imagecache.kube.api import ChangeKind
from imagecache.kube.claims import FileClaims
from imagecache.kube.informer import Informer
from imagecache.kube.resources import IMAGE_CACHES
from imagecache.plain_host.verbs import HostDependencies
from imagecache.snapshotter.container_starts import ContainerStarts
from imagecache.telemetry.metrics import Metrics

_ATTACH_INTERVAL = 5.0
"""Seconds between two looks for what is meant to be attached: a containerd that was away is noticed so soon."""


class PlainHostDuties:
    """``apps.agent.Duties``. ``builder`` makes the one for builds that begin without a command."""

    collects = True

    def __init__(self, dependencies: HostDependencies, builder: Callable[[Metrics], Builder]) -> None:
        self._dependencies = dependencies
        self._builder = builder
        self._attached: set[str] = set()
        """Ids of bundles that are attached since this process started, or that are not meant to be."""

    def used(self, layers: Iterable[Path]) -> None:
        """Nothing: no budget here."""

    def serves(self, starts: ContainerStarts) -> None:
        """Nothing: no pods here."""

    def forgotten(self) -> None:
        self._attached.clear()

    def works(self, containerd: ContainerdClient | None, metrics: Metrics) -> Sequence[Coroutine[object, object, None]]:
        del containerd
        own = self._dependencies
        reconciler = Reconciler(
            Dependencies(
                kube=own.kube,
                builder=self._builder(metrics),
                store=own.store,
                clock=own.clock,
                architecture=own.architecture,
                role=Role.HOST_AGENT,
                claims=FileClaims(own.files),
                read=own.read,
                nodes=own.node.views,
                detach=lambda cache: own.node.detach(cache.name),
                configuration=own.configuration,
                looks=own.looks,
            )
        )
        return (
            reconciler.run(),
            _follow(Informer(own.kube, IMAGE_CACHES), reconciler),
            every(_ATTACH_INTERVAL, lambda: self._attach_all(reconciler, metrics)),
        )

    async def _attach_all(self, reconciler: Reconciler, metrics: Metrics) -> None:
        """Attach what is meant to be attached and was not since this process started; detach what is left over."""
        files, node = self._dependencies.files, self._dependencies.node
        await node.detach_others(lambda: [cache.name for cache in files.caches()])
        for cache in await asyncio.to_thread(files.caches):
            status = cache.status
            if status is None or status.phase not in SERVING or status.image_cache_id in self._attached:
                continue
            try:
                with files.claimed(cache.name):
                    # With the claim, so that no command detaches it meanwhile. By name: after an update that was killed
                    # before its attach, the new bundle is meant where the old one is.
                    if await asyncio.to_thread(node.is_meant, cache.name):
                        await self._attach(cache, status.image_cache_id, reconciler, metrics)
            except StoreBusy:
                continue  # a command works on it; looked at again next time
            self._attached.add(status.image_cache_id)

    async def _attach(self, cache: ImageCache, bundle_id: str, reconciler: Reconciler, metrics: Metrics) -> None:
        own = self._dependencies
        start = own.clock.monotonic()
        bundle = await asyncio.to_thread(own.store.get, bundle_id)
        try:
            attached = await own.node.attach(bundle, cache)
        except ImageCacheError as error:
            message = building.explain(error)
            failed = events.event("AttachFailed", message, about=cache.name, now=own.clock.now(), kind=events.WARNING)
            reconciler.report(cache.name, failed)
            raise
        reconciler.report(cache.name)
        metrics.attach_seconds.observe(own.clock.monotonic() - start)
        metrics.attached_images.inc(len(attached.images))


async def _follow(informer: Informer, reconciler: Reconciler) -> None:
    async for change in informer.changes():
        reconciler.take(informer.resource, change.object, gone=change.kind is ChangeKind.DELETED)
