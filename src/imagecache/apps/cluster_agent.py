"""What the agent of a cluster's node looks after, wired: the loop of ``cluster`` over this cluster and this machine.

It begins without anything but the settings: credentials may come later (on a host they do, with the first Pod), the API
server and the store may be away, and none of that stops the snapshotter beside it. It must not decide anything.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from imagecache.agent.budget import Policy
from imagecache.agent.dependencies import Attacher, Inventory, LayerSource, Node, Reporter
from imagecache.agent.kubernetes import KubeCaches, KubeNodes, KubeReporter
from imagecache.agent.layer_source import DescribedLayerSource, FetchedLayerSource, SharedLayerSource
from imagecache.agent.loop import AgentLoop, Dependencies, LoopSettings
from imagecache.agent.runtime import ContainerdRecords, LocalMachine, PrepulledImages
from imagecache.agent.state import NodeState
from imagecache.api.assignment import Cache
from imagecache.api.nodes import CacheState, NodeStatus
from imagecache.apps.attach import LocalAttacher
from imagecache.apps.daemonset import has_left, withdraw
from imagecache.apps.holders import holder
from imagecache.apps.kubernetes import connection
from imagecache.backoff import Backoff, Retries
from imagecache.builder.worker_pool import WorkerPool
from imagecache.clock import Clock
from imagecache.concurrency import first_to_end
from imagecache.containerd.api import Attached
from imagecache.containerd.attach import NodeAttacher
from imagecache.containerd.client import ContainerdClient
from imagecache.containerd.cri import CriClient
from imagecache.containerd.native import NativeUse, holder_of
from imagecache.containerd.prepull import Prepuller
from imagecache.errors import ImageCacheError, InvalidSetting
from imagecache.fetch.allowance import Allowance
from imagecache.fetch.bundle import BundleFetcher
from imagecache.fetch.partial_transfer import FollowSettings, LayerFollower
from imagecache.fetch.prefetch import BuildFollower
from imagecache.fetch.transfer import LayerFetcher
from imagecache.fetch.verify import WorkerVerifier
from imagecache.file_version import FileVersion, file_version
from imagecache.kube.client import KubeClient
from imagecache.served.client import ClientSettings, ServedStore
from imagecache.served.directory_store import DirectoryStore
from imagecache.served.remote_store import RemoteStore
from imagecache.settings.table import Mode, Settings
from imagecache.standalone.objects import ObjectFiles
from imagecache.store.model import Bundle
from imagecache.store.store import Store
from imagecache.telemetry.log import get_logger
from imagecache.telemetry.metrics import Metrics

_log = get_logger(__name__)
_AGAIN = 5.0
"""Seconds until the loop is begun again after it could not, or ended; and between two looks at a kubeconfig file."""
_PULLS = 2
"""Bundles that the runtime pulls at once in prepull mode, so that one that hangs does not stop all."""


class ClusterDuties:
    """``apps.agent.Duties``."""

    def __init__(self, store: Store, settings: Settings, clock: Clock) -> None:
        """Raises InvalidSetting."""
        if not 0 <= settings.reserve < 1:
            raise InvalidSetting(f"reserve: {settings.reserve} is not a share", hint="for example 0.15")
        if "/" in settings.node_name:
            raise InvalidSetting(f"node_name: {settings.node_name!r} is not the name of a Node")
        self._store = store
        self._settings = settings
        self._clock = clock
        self._loop: AgentLoop | None = None
        self.collects = bool(settings.store_url)

    def used(self, layers: Iterable[Path]) -> None:
        if self._loop is not None:
            self._loop.used(layers)

    def works(self, containerd: ContainerdClient, metrics: Metrics) -> Sequence[Coroutine[None, None, None]]:
        return (self._work(containerd, metrics),)

    async def _work(self, containerd: ContainerdClient, metrics: Metrics) -> None:
        """Begin, and begin again when the credentials are other ones, or when something nobody thought of happened."""
        retries = Retries(Backoff(_AGAIN, _AGAIN), _log, "not in the cluster yet")
        while True:
            try:
                await self._once(containerd, metrics)
                retries.succeeded()
            except ImageCacheError as error:
                retries.failed(error)
            except Exception as error:
                if asyncio.current_task().cancelling():  # type: ignore[union-attr]  # we are inside a task
                    raise  # a failure on the way out must not undo that we are to end
                _log.exception("the cluster's part ended, it begins again", kind=type(error).__name__)
            await asyncio.sleep(_AGAIN)

    async def _once(self, containerd: ContainerdClient, metrics: Metrics) -> None:
        settings = self._settings
        access = await asyncio.to_thread(connection, settings, os.environ)
        version = file_version(settings.kubeconfig)
        async with AsyncExitStack() as stack:
            kube = await stack.enter_async_context(KubeClient(access))
            attacher = LocalAttacher(self._store, settings, self._clock).attacher(containerd)
            source = await self._layer_source(stack, metrics)
            records = self._records(stack, containerd, attacher)
            self._loop = AgentLoop(
                Dependencies(
                    caches=KubeCaches(kube),
                    nodes=KubeNodes(kube, settings.node_name),
                    machine=LocalMachine(self._store.root, containerd, attacher),
                    source=_MeteredLayerSource(source, metrics, self._clock),
                    attacher=_MeteredAttacher(records, metrics, self._clock),
                    reporter=_MeteredReporter(KubeReporter(kube, settings.node_name), metrics),
                    state=NodeState(self._store.paths.nodes / settings.node_name),
                    clock=self._clock,
                ),
                LoopSettings(
                    taint_timeout=settings.taint_timeout,
                    policy=Policy(reserve=settings.reserve),
                    records=_PULLS if settings.mode is Mode.PREPULL else 1,
                ),
            )
            _log.info("looking after the caches of a cluster", node=settings.node_name, server=access.server)
            try:
                await first_to_end(self._loop.run(), _changed(settings.kubeconfig, version))
            except asyncio.CancelledError:
                if settings.daemonset and await has_left(kube, settings):
                    await withdraw(kube, settings.node_name)
                raise

    async def _layer_source(self, stack: AsyncExitStack, metrics: Metrics) -> LayerSource:
        settings = self._settings
        prepull = settings.mode is Mode.PREPULL
        if not settings.store_url:
            return DescribedLayerSource(DirectoryStore(self._store.root)) if prepull else SharedLayerSource(self._store)
        served = ServedStore(
            ClientSettings(
                url=settings.store_url,
                ca_file=settings.store_ca,
                token_file=settings.store_token,
                name=settings.store_name,
            )
        )
        remote = await stack.enter_async_context(served)
        if prepull:
            return DescribedLayerSource(remote)
        pool = await stack.enter_async_context(WorkerPool())
        layers = LayerFetcher(self._store, remote, WorkerVerifier(pool), fetched=metrics.fetched_bytes.inc)
        stack.callback(layers.close)
        builds = await self._builds(stack, remote, metrics)
        return FetchedLayerSource(self._store, BundleFetcher(self._store, remote, layers, builds), self._foreign)

    async def _builds(self, stack: AsyncExitStack, remote: RemoteStore, metrics: Metrics) -> BuildFollower:
        settings = FollowSettings()
        pool = await stack.enter_async_context(WorkerPool(settings.layers, seldom=True))
        layers = LayerFollower(self._store, remote, WorkerVerifier(pool), settings, fetched=metrics.fetched_bytes.inc)
        stack.callback(layers.close)
        return BuildFollower(self._store, remote, layers)

    def _records(self, stack: AsyncExitStack, containerd: ContainerdClient, attacher: NodeAttacher) -> Attacher:
        settings = self._settings
        if settings.mode is Mode.PREPULL:
            cri = CriClient(settings.address)
            stack.callback(cri.close)
            return PrepulledImages(Prepuller(cri, settings.allow_private_names))
        return ContainerdRecords(containerd, attacher, settings.namespace, lambda: self._hold_native(containerd))

    def _foreign(self) -> frozenset[str]:
        """Bundles that ``imagecache create`` has made on this host."""
        found = (cache.status.image_cache_id for cache in ObjectFiles(self._store.paths).all() if cache.status)
        return frozenset(found)

    async def _hold_native(self, containerd: ContainerdClient) -> None:
        """What native bundles stand on is held before anybody collects, us or the controller of a shared store."""
        ours = holder(self._settings, holder_of(self._settings.address))
        await NativeUse(containerd, self._store.root / "layers").renew(self._store.leases, ours)


async def _changed(kubeconfig: str, version: FileVersion | None) -> None:
    """Returns when the file is another one; tokens in files of their own are read again without this."""
    while not kubeconfig or file_version(kubeconfig) in {version, None}:  # noqa: ASYNC110 - a file has no event
        await asyncio.sleep(_AGAIN)


@dataclass(frozen=True, slots=True)
class _MeteredLayerSource:
    """Measures how long fetches take."""

    inner: LayerSource
    metrics: Metrics
    clock: Clock

    @property
    def bounded(self) -> bool:
        return self.inner.bounded

    async def inventory(self, wanted: Iterable[str]) -> Inventory:
        return await self.inner.inventory(wanted)

    async def describe(self, cache: Cache) -> None:
        await self.inner.describe(cache)

    async def fetch(self, cache: Cache, progress: Callable[[int], None]) -> None:
        start = self.clock.monotonic()
        await self.inner.fetch(cache, progress)
        self.metrics.fetch_seconds.observe(self.clock.monotonic() - start)

    async def follow(self, bundle_id: str, allowance: Allowance) -> None:
        await self.inner.follow(bundle_id, allowance)

    async def forget(self, bundle_id: str) -> None:
        await self.inner.forget(bundle_id)

    async def collect(self) -> None:
        await self.inner.collect()


@dataclass(frozen=True, slots=True)
class _MeteredAttacher:
    """Measures how long attaches take, and counts the images that are recorded."""

    inner: Attacher
    metrics: Metrics
    clock: Clock
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def mode(self) -> str:
        return self.inner.mode

    async def attach(self, bundle: Bundle) -> Attached:
        start = self.clock.monotonic()
        attached = await self.inner.attach(bundle)
        self.metrics.attach_seconds.observe(self.clock.monotonic() - start)
        self.names[bundle.id] = attached.images
        self._count()
        return attached

    async def detach(self, bundle: Bundle, keep: Sequence[Bundle]) -> None:
        await self.inner.detach(bundle, keep)
        self.names.pop(bundle.id, None)
        self._count()

    def _count(self) -> None:
        self.metrics.attached_images.set(len({name for names in self.names.values() for name in names}))

    async def missing(self, names: Iterable[str]) -> frozenset[str]:
        return await self.inner.missing(names)


@dataclass(frozen=True, slots=True)
class _MeteredReporter:
    """Counts caches by their state."""

    inner: Reporter
    metrics: Metrics

    async def report(self, status: NodeStatus, node: Node) -> None:
        for state in CacheState:
            count = sum(entry.state is state for entry in status.caches)
            self.metrics.caches.labels(state.value).set(count)
        await self.inner.report(status, node)
