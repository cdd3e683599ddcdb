"""The cluster's controller, wired: leads, watches, reconciles, builds in processes, serves the store.

A candidate that does not lead serves, waits and changes nothing; a leader that loses the lease ends at once. It must
not decide what the parts decide.
"""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from imagecache.apps import pods, registry_configuration
from imagecache.apps.bundle_store import LocalBundles
from imagecache.apps.platform import host_platform
from imagecache.builder.inflate_threads import cores
from imagecache.clock import Clock
from imagecache.concurrency import cancel_all, first_to_end, run_all
from imagecache.controller.build_process import ProcessBuilder
from imagecache.controller.fork_server import ForkServer
from imagecache.controller.leader import Leader
from imagecache.controller.node_caches import NodeCaches
from imagecache.controller.node_gc import NodeGarbageCollector
from imagecache.controller.pods.reconciler import PodReconciler
from imagecache.controller.quota import Limits
from imagecache.controller.reconciler import Dependencies, Reconciler
from imagecache.controller.tag_checks import TagChecks
from imagecache.controller.tag_process import ProcessTagReader
from imagecache.errors import ImageCacheError, InternalError, InvalidSetting
from imagecache.kube import connection
from imagecache.kube.api import ChangeKind, ClusterKube, Kube
from imagecache.kube.client import KubeClient
from imagecache.kube.informer import Informer
from imagecache.kube.labelled_secrets import LabelledSecretsClient
from imagecache.kube.resources import IMAGE_CACHES, NODE_IMAGE_CACHES, NODES
from imagecache.kube.reviewer import KubeTokenReviewer
from imagecache.limits import GIB
from imagecache.registry.listed_hosts import AUTO, ListedHosts
from imagecache.served.authenticator import Authenticator, AuthenticatorSettings
from imagecache.served.server_certificate import ServerCertificate
from imagecache.served.server_settings import ServerSettings
from imagecache.served.store_reader import StoreReader
from imagecache.served.store_server import StoreServer
from imagecache.settings.flags import as_flags
from imagecache.settings.table import Settings
from imagecache.store.packed_blocks import PackedBlocks
from imagecache.store.store import Store
from imagecache.telemetry.health import HealthServer
from imagecache.telemetry.log import get_logger
from imagecache.telemetry.metrics import Metrics

_log = get_logger(__name__)
_COLLECT = 300.0
"""Seconds between two collections that nothing asked for: nodes of a shared store release leases without an event."""
_FLUSH = 4.0
"""Seconds for what is written at the end: nobody else leads before the lease has run out."""


@dataclass(frozen=True, slots=True)
class ClusterController:
    store: Store
    settings: Settings
    clock: Clock

    async def run(self) -> None:
        """Until cancelled. Raises LeadershipLost, InvalidSetting, HostError."""
        ListedHosts.parse(self.settings.insecure_registries)  # an error in it ends us, and not each build
        access, metrics = connection.find(self.settings.kubeconfig, os.environ, Path.home()), Metrics()
        async with AsyncExitStack() as stack:
            if self.settings.metrics_address:
                health = HealthServer(metrics)
                stack.push_async_callback(health.stop)
                await health.start(self.settings.metrics_address)
            client = LabelledSecretsClient if self.settings.labelled_secrets else KubeClient
            kube = await stack.enter_async_context(client(access))
            allowed = NodeCaches()
            await stack.enter_async_context(self._served(kube, allowed))
            leader = Leader(kube, self.clock, self.settings.lease_namespace or access.namespace, _identity())
            await first_to_end(leader.acquire(), _allow(kube, allowed))
            allowed.forget()  # from now on the reconciler's informers say it
            stack.push_async_callback(leader.release)
            processes = ForkServer()
            stack.push_async_callback(processes.close)
            await self._lead(leader, kube, metrics, processes, allowed)

    async def _lead(
        self, leader: Leader, kube: ClusterKube, metrics: Metrics, processes: ForkServer, allowed: NodeCaches
    ) -> None:
        reconciler = Reconciler(
            Dependencies(
                kube=kube,
                builder=ProcessBuilder(
                    self._flags, metrics, self.clock, discreet=True, starter=processes.starter("build")
                ),
                store=LocalBundles(self.store),
                clock=self.clock,
                architecture=host_platform().architecture,
                builds=max(1, self.settings.controller_builds),
                configuration=registry_configuration.configuration(self.settings, os.environ, Path.home()),
                limits=self._limits,
            )
        )
        caches, nodes, reports = Informer(kube, IMAGE_CACHES), Informer(kube, NODES), Informer(kube, NODE_IMAGE_CACHES)
        synced = [caches.synced, nodes.synced, reports.synced]
        matching = None
        if self.settings.pods:
            matching = pods.pod_reconciler(kube, reconciler, self.settings, self.clock, metrics)
        _log.info("controller is running", store=str(self.store.root))
        await work(
            reconciler,
            leader.keep(),
            _run_when([nodes.synced, caches.synced], reconciler, allowed),
            *(_inform(each, reconciler, matching, allowed) for each in (caches, nodes, reports)),
            self._collect(nodes),
            *self._tag_checks(kube, reconciler, processes),
            *([pods.run_when(synced, matching)] if matching is not None else []),
        )
        raise InternalError("a part of the controller ended without a reason")

    @property
    def _flags(self) -> dict[str, str]:
        """For a process that speaks to registries. A Pod's loopback is its own: nothing there is a registry."""
        listed = tuple(each for each in self.settings.insecure_registries if each != AUTO)
        return as_flags(replace(self.settings, insecure_registries=listed))

    @property
    def _limits(self) -> Limits:
        automatic = self.settings.auto_caches if self.settings.pods else 0
        return Limits(self.settings.max_caches, self.settings.max_store_size * GIB, automatic)

    def _tag_checks(
        self, kube: Kube, reconciler: Reconciler, processes: ForkServer
    ) -> list[Coroutine[object, object, None]]:
        if self.settings.tag_check_interval <= 0:
            return []
        checks = TagChecks(
            kube=kube,
            reader=ProcessTagReader(self._flags, starter=processes.starter("tags")),
            caches=lambda: reconciler.informers.caches,
            report=reconciler.checked,
            clock=self.clock,
            interval=self.settings.tag_check_interval,
        )
        return [checks.run()]

    @asynccontextmanager
    async def _served(self, kube: Kube, allowed: NodeCaches) -> AsyncIterator[None]:
        """The store over HTTPS, when the settings say so; also by those who wait to lead, who read the same volume."""
        settings = self.settings
        if not settings.serve_address:
            yield
            return
        host, _, port = settings.serve_address.rpartition(":")
        if not port.isdigit():
            raise InvalidSetting(f"serve_address: {settings.serve_address!r} is not host:port")
        authenticator = Authenticator(
            KubeTokenReviewer(kube), self.clock, AuthenticatorSettings(allowed=frozenset(settings.serve_agents))
        )
        server = StoreServer(
            StoreReader(self.store.root),
            authenticator,
            ServerSettings(host=host.strip("[]"), port=int(port), packers=max(1, cores() // 2)),
            tls=ServerCertificate(settings.serve_certificate, settings.serve_key).context,
            caches=allowed,
            packed=PackedBlocks(self.store.paths, settings.serve_compressed_size * GIB),
        )
        await server.start()
        try:
            yield
        finally:
            await server.stop()

    async def _collect(self, nodes: Informer) -> None:
        """What killed builds and nodes that are gone have left, now and then."""
        node_gc = NodeGarbageCollector(self.store, self.clock)
        await nodes.synced.wait()
        while True:
            try:
                await asyncio.to_thread(node_gc.release, nodes.names)
                await asyncio.to_thread(self.store.collect)
            except ImageCacheError as error:
                _log.warning("collection failed", reason=error.reason, problem=str(error))
            await asyncio.sleep(_COLLECT)


async def _allow(kube: Kube, allowed: NodeCaches) -> None:
    """Tell the served store of a controller that waits to lead which node may read what, without end."""
    caches, nodes = Informer(kube, IMAGE_CACHES), Informer(kube, NODES)

    async def follow(informer: Informer) -> None:
        async for change in informer.changes():
            allowed.take(informer.resource, change)

    async def know() -> None:
        await caches.synced.wait()
        await nodes.synced.wait()
        allowed.known = True

    await run_all(follow(caches), follow(nodes), know())


async def _run_when(synced: Iterable[asyncio.Event], reconciler: Reconciler, allowed: NodeCaches) -> None:
    """Before the nodes are known, caches would be built for the controller's architecture, which no node may have.

    And before all caches are, there would be room for too many.
    """
    for each in synced:
        await each.wait()
    allowed.known = True
    await reconciler.run()


async def work(reconciler: Reconciler, *parts: Coroutine[object, object, None]) -> None:
    """Until a part ends, and raise what it raised; when stopped, write what is in no status yet.

    Not when a part has failed: the lease may be lost, and whoever has lost it must write nothing more.
    """
    try:
        await first_to_end(*parts)
    except asyncio.CancelledError:
        await _flush(reconciler)
        raise


async def _flush(reconciler: Reconciler) -> None:
    writing = asyncio.ensure_future(reconciler.flush())
    try:
        await asyncio.wait({writing}, timeout=_FLUSH)
    finally:
        await cancel_all([writing])


async def _inform(
    informer: Informer, reconciler: Reconciler, matching: PodReconciler | None, allowed: NodeCaches
) -> None:
    async for change in informer.changes():
        allowed.take(informer.resource, change)
        concerned = reconciler.take(informer.resource, change.object, gone=change.kind is ChangeKind.DELETED)
        if matching is not None:
            matching.caches.take(informer.resource, concerned)


def _identity() -> str:
    return f"{socket.gethostname()}_{uuid.uuid4()}"
