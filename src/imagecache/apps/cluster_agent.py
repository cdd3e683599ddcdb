"""The agent of a cluster's node, wired: ``agent.loop`` over this cluster and this machine.

It needs nothing but settings to start: credentials may arrive later, the API server and the store may be away, and none
of that stops the snapshotter beside it. It must not decide anything.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from imagecache import memory
from imagecache.agent.budget import Policy
from imagecache.agent.daemonset import OwnDaemonSet, withdraw
from imagecache.agent.dependencies import Attacher, Dependencies, LayerSource
from imagecache.agent.kubernetes import KubeCaches, KubeNodes, KubeReporter
from imagecache.agent.layer_source import DescribedLayerSource, FetchedLayerSource, SharedLayerSource, expectation
from imagecache.agent.loop import AgentLoop
from imagecache.agent.pod_credentials import HandedOver, is_kept
from imagecache.agent.pod_reporter import PodReporter, PodReporterSettings
from imagecache.agent.restart import keep_running, until_replaced
from imagecache.agent.runtime import ContainerdRecords, LocalMachine, disk_of
from imagecache.agent.settings import LoopSettings
from imagecache.agent.state import NodeState
from imagecache.api.assignment import Cache
from imagecache.apps.attach import LocalAttacher
from imagecache.apps.platform import host_platform
from imagecache.builder.worker_pool import WorkerPool
from imagecache.clock import Clock
from imagecache.concurrency import first_to_end
from imagecache.containerd.attach import NodeAttacher
from imagecache.containerd.client import ContainerdClient
from imagecache.containerd.cri import CriClient
from imagecache.containerd.image_records import CRI_NAMESPACE
from imagecache.containerd.native import NativeUse, holder_of
from imagecache.containerd.prepull import Prepuller
from imagecache.containerd.reserved import ReservedNames
from imagecache.errors import InvalidSetting
from imagecache.fetch.bundle import BundleFetcher, Described, describe, own_part
from imagecache.fetch.prefetch import PREFETCH, BuildPrefetcher
from imagecache.fetch.remote_store import RemoteStore
from imagecache.fetch.tars import RemoteTars
from imagecache.fetch.transfer import LayerFetcher
from imagecache.fetch.verifier import Verifier
from imagecache.fetch.wire_form import WireForm
from imagecache.file_version import file_version
from imagecache.host.lease_holders import holder
from imagecache.host.pod_directory import PodDirectory
from imagecache.host.service_files import HostFiles
from imagecache.host.systemd import Systemd
from imagecache.host.systemd_units import UNINSTALL
from imagecache.kube import connection
from imagecache.kube.client import KubeClient
from imagecache.kube.object_files import ObjectFiles
from imagecache.served.store_client import ClientSettings, StoreClient
from imagecache.served.store_reader import StoreReader
from imagecache.settings.choices import Mode
from imagecache.settings.table import Settings
from imagecache.snapshotter.container_starts import ContainerStarts
from imagecache.store.store import Store
from imagecache.telemetry.log import get_logger
from imagecache.telemetry.metrics import Metrics

_log = get_logger(__name__)


class ClusterDuties:
    """``host.node_process.Duties``."""

    def __init__(self, store: Store, settings: Settings, clock: Clock) -> None:
        """Raises InvalidSetting."""
        if not 0 <= settings.reserve < 1:
            raise InvalidSetting(f"reserve: {settings.reserve} is not a share", hint="for example 0.15")
        if "/" in settings.node_name:
            raise InvalidSetting(f"node_name: {settings.node_name!r} is not the name of a Node")
        self._store = store
        self._settings = settings
        self._clock = clock
        self._platform = host_platform()
        self._loop: AgentLoop | None = None
        self._starts: ContainerStarts | None = None
        self.collects = bool(settings.store_url)

    def used(self, layers: Iterable[Path]) -> None:
        if self._loop is not None:
            self._loop.used(layers)

    def serves(self, starts: ContainerStarts) -> None:
        self._starts = starts

    def forgotten(self) -> None:
        """Nothing: the loop looks for records that are missing."""

    def works(self, containerd: ContainerdClient, metrics: Metrics) -> Sequence[Coroutine[object, object, None]]:
        works: list[Coroutine[object, object, None]] = [keep_running(lambda: self._run(containerd, metrics))]
        if is_kept(self._settings):
            handed = HandedOver(
                HostFiles(directory=self._settings.host_directory),
                PodDirectory(),
                has_store=bool(self._settings.store_url),
                leave=lambda: Systemd().begin(UNINSTALL),
            )
            works.append(handed.follow())
        return works

    async def _run(self, containerd: ContainerdClient, metrics: Metrics) -> None:
        settings = self._settings
        version = file_version(settings.kubeconfig)
        access = await asyncio.to_thread(connection.find, settings.kubeconfig, os.environ, Path.home())
        async with AsyncExitStack() as stack:
            kube = await stack.enter_async_context(KubeClient(access))
            if settings.mode is Mode.PREPULL:
                source, attacher = await self._prepull(stack, containerd, metrics)
            else:
                source = await self._layer_source(stack, metrics)
                attacher = LocalAttacher(self._store, settings, self._clock).attacher(containerd)
            self._loop = AgentLoop(
                Dependencies(
                    caches=KubeCaches(kube),
                    nodes=KubeNodes(kube, settings.node_name, self._platform),
                    machine=LocalMachine(self._store.root, containerd, attacher),
                    source=source,
                    attacher=self._records(stack, containerd, attacher),
                    reporter=KubeReporter(kube, settings.node_name),
                    state=NodeState(self._store.paths.nodes / settings.node_name),
                    clock=self._clock,
                    metrics=metrics,
                ),
                LoopSettings(
                    taint_timeout=settings.taint_timeout,
                    policy=Policy(reserve=settings.reserve),
                ),
            )
            daemonset = OwnDaemonSet(settings)
            _log.info("agent of a cluster's node starts", node=settings.node_name, server=access.server)
            try:
                works = [self._loop.run(), until_replaced(settings.kubeconfig, version)]
                if settings.mode is not Mode.PREPULL:  # there containers start from nothing of ours
                    works.append(self._pods(containerd, kube, metrics).run())
                if settings.daemonset:
                    works.append(daemonset.follow(kube))
                await first_to_end(*works)
            except asyncio.CancelledError:
                if settings.daemonset and await daemonset.has_left(kube):
                    await withdraw(kube, settings.node_name)
                raise

    def _pods(self, containerd: ContainerdClient, kube: KubeClient, metrics: Metrics) -> PodReporter:
        settings = PodReporterSettings(
            node=self._settings.node_name,
            namespace=self._settings.namespace,
            snapshotter=self._settings.snapshotter,
            layers=self._store.root / "layers",
            events=self._settings.pod_events,
        )
        return PodReporter(containerd, self._starts, kube, self._clock, metrics, settings)

    async def _layer_source(self, stack: AsyncExitStack, metrics: Metrics) -> LayerSource:
        if not self._settings.store_url:
            return SharedLayerSource(self._store, self._platform)
        remote = await stack.enter_async_context(self._served())
        workers = _workers()
        pool = await stack.enter_async_context(WorkerPool(workers.number, memory=workers.memory))
        form = WireForm(self._settings.store_compression)
        layers = LayerFetcher(self._store, remote, Verifier(pool), form=form, fetched=metrics.fetched_bytes.inc)
        stack.callback(layers.close)
        builds = await self._builds(stack, remote, metrics)
        fetcher = BundleFetcher(self._store, remote, layers, builds, self._platform)
        return FetchedLayerSource(self._store, fetcher, self._foreign)

    async def _prepull(
        self, stack: AsyncExitStack, containerd: ContainerdClient, metrics: Metrics
    ) -> tuple[LayerSource, NodeAttacher]:
        """Documents and tars from the cluster's store; only what the runtime makes of them is on this node."""
        local = LocalAttacher(self._store, replace(self._settings, namespace=CRI_NAMESPACE), self._clock)
        if not self._settings.store_url:
            reader = StoreReader(self._store.root)

            async def look_up(cache: Cache) -> Described:
                document = await asyncio.to_thread(reader.bundle, cache.id)
                expected = expectation(cache)
                await asyncio.to_thread(expected.check, document)
                return Described(own_part(document, self._platform), expected.digest, {})

            return DescribedLayerSource(look_up), local.attacher(containerd)
        remote = await stack.enter_async_context(self._served())
        source = DescribedLayerSource(lambda cache: describe(remote, expectation(cache), self._platform))
        tars = RemoteTars(remote, metrics.fetched_bytes.inc)
        return source, local.attacher(containerd, documents=source, tars=tars, room=self._room)

    async def _room(self) -> int:
        """Bytes of kubelet's disk above its threshold; it is containerd's too, unless images have one of their own."""
        disk = await disk_of(self._store.root)
        return disk.free - int(disk.capacity * self._settings.reserve)

    def _served(self) -> StoreClient:
        settings = self._settings
        return StoreClient(
            ClientSettings(
                url=settings.store_url,
                ca_file=settings.store_ca,
                token_file=settings.store_token,
                name=settings.store_name,
            )
        )

    async def _builds(self, stack: AsyncExitStack, remote: RemoteStore, metrics: Metrics) -> BuildPrefetcher:
        # Workers of its own: a partial layer occupies one as long as its build takes. Each may have as much memory as
        # one of the others: they mostly wait, and when it runs out all the same, one of them ends and nothing else.
        bounded = WorkerPool(PREFETCH.layers, memory=_workers().memory, seldom=True)
        pool = await stack.enter_async_context(bounded)
        layers = LayerFetcher(self._store, remote, Verifier(pool), PREFETCH, fetched=metrics.fetched_bytes.inc)
        stack.callback(layers.close)
        return BuildPrefetcher(self._store, remote, layers, self._platform.architecture)

    def _records(self, stack: AsyncExitStack, containerd: ContainerdClient, attacher: NodeAttacher) -> Attacher:
        settings = self._settings
        if settings.mode is Mode.PREPULL:
            cri = CriClient(settings.address)
            stack.callback(cri.close)
            reserved = ReservedNames.parse(settings.reserved_names)
            return Prepuller(cri, settings.allow_private_names, attacher, reserved=reserved)
        return ContainerdRecords(containerd, attacher, settings.namespace, lambda: self._lease_native(containerd))

    def _foreign(self) -> frozenset[str]:
        """Bundles that ``imagecache create`` made on this host."""
        return ObjectFiles(self._store.paths).ids()

    async def _lease_native(self, containerd: ContainerdClient) -> None:
        """Lease the layers of native snapshots, before this agent or the controller of a shared store collects."""
        ours = holder(self._settings, holder_of(self._settings.address))
        await NativeUse(containerd, self._store.root / "layers").renew(self._store.leases, ours)


def _workers() -> memory.Workers:
    """That prove layers while they are fetched."""
    return memory.share_out(memory.available(), builds=1, jobs=0, cores=len(os.sched_getaffinity(0)))
