"""The node process: snapshotter, page-cache trim, collection, health and metrics, and the duties of its surroundings.

Each part is a task of its own with its own failures: whatever happens to one, containers go on and the others too. It
must not decide what the parts decide.
"""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from imagecache.apps.holders import holder, snapshotter_settings
from imagecache.apps.metered import MeteredMounter, MeteredProvider
from imagecache.apps.mount import mounter
from imagecache.apps.systemd import inherited_socket, notify
from imagecache.backoff import Backoff, Retries
from imagecache.clock import Clock
from imagecache.containerd.client import ContainerdClient
from imagecache.containerd.native import NativeUse, holder_of
from imagecache.errors import ImageCacheError
from imagecache.host.mounter import KernelMounter
from imagecache.host.trim import Trimmer, drop_second_copy, follow_starts
from imagecache.settings.table import Mode, Settings
from imagecache.snapshotter.server import serve
from imagecache.snapshotter.snapshotter import Snapshotter
from imagecache.store.store import Store
from imagecache.telemetry.health import HealthServer
from imagecache.telemetry.log import get_logger
from imagecache.telemetry.metrics import Metrics

_log = get_logger(__name__)
_NATIVE_INTERVAL = 10.0
_COLLECT_PAUSE = 2.0
"""Seconds after a layer was let go: containerd lets go of a whole image in one burst."""
_MEASURE_INTERVAL = 60.0
_SERVING = frozenset({Mode.AUTO, Mode.PROXY})
_NATIVE = frozenset({Mode.AUTO, Mode.NATIVE})


class Duties(Protocol):
    """What depends on where the node is: alone, or in a cluster."""

    @property
    def collects(self) -> bool:
        """The store is this node's own, so that what nobody needs may be removed."""

    def works(self, containerd: ContainerdClient, metrics: Metrics) -> Sequence[Coroutine[None, None, None]]:
        """To run side by side until they are cancelled."""

    def used(self, layers: Iterable[Path]) -> None:
        """A container starts from these layer images. Called from any thread, returns at once."""


async def every(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    """Repeat the work until cancelled; a problem is logged once and the work tried again."""
    retries = Retries(Backoff(seconds, seconds), _log)
    while True:
        try:
            await work()
            retries.succeeded()
        except ImageCacheError as error:
            retries.failed(error)
        await asyncio.sleep(seconds)


async def run(settings: Settings, clock: Clock) -> None:
    """The agent of this host until cancelled."""
    store = Store.open(settings.store, clock)
    agent = Agent(store, settings, clock, mounter(), _duties(store, settings, clock))
    await agent.run(inherited_socket(os.environ), ready=lambda: notify(os.environ, "READY=1"))


def _duties(store: Store, settings: Settings, clock: Clock) -> Duties:
    if not settings.node_name:
        from imagecache.apps.local import standalone_controller
        from imagecache.apps.standalone_agent import StandaloneDuties

        return StandaloneDuties(standalone_controller(store, settings, clock), clock)
    from imagecache.apps.cluster_agent import ClusterDuties  # aiohttp: in a cluster alone

    return ClusterDuties(store, settings, clock)


class Agent:
    """One node. ``run`` ends when it is cancelled; mounts and containers stay."""

    def __init__(self, store: Store, settings: Settings, clock: Clock, mounter: KernelMounter, duties: Duties) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._duties = duties
        self._metrics = Metrics()
        self._mounter = MeteredMounter(mounter, self._metrics)
        self._trimmer = Trimmer(settings.trim_delay, clock, self._trim)
        self._released = asyncio.Event()
        self._serving = False

    async def run(self, listener: socket.socket | None, *, ready: Callable[[], None]) -> None:
        """Serve ``listener``, or a socket of our own."""
        health = HealthServer(self._metrics, ready=self._not_ready)
        if self._settings.metrics_address:
            await health.start(self._settings.metrics_address)
        try:
            async with asyncio.TaskGroup() as group, ContainerdClient(self._settings.address, self._clock) as client:
                for work in self._works(client):
                    group.create_task(work)
                if self._settings.mode in _SERVING:
                    group.create_task(self._serve(listener or self._settings.agent_socket, ready))
                else:
                    self._is_ready(ready)
        finally:
            await health.stop()

    def _works(self, client: ContainerdClient) -> list[Coroutine[None, None, None]]:
        works = [
            self._trimmer.run(),
            every(_MEASURE_INTERVAL, self._measure),
            *self._duties.works(client, self._metrics),
        ]
        if self._duties.collects:
            works.append(self._collect())
        if self._settings.mode in _NATIVE:
            native = NativeUse(client, self._store.root / "layers")
            works.append(follow_starts(client, self.used))
            works.append(every(_NATIVE_INTERVAL, lambda: self._renew(native)))
        return works

    async def _serve(self, address: socket.socket | Path, ready: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()

        def released() -> None:
            loop.call_soon_threadsafe(self._released.set)

        provider = MeteredProvider(self._store.provider, self._metrics, released)
        settings = snapshotter_settings(self._settings)
        snapshotter = Snapshotter(self._settings.agent_root, provider, self._mounter, self._clock, settings, self)
        try:
            await serve(snapshotter, address, ready=lambda: self._is_ready(ready), answered=self._count)
        finally:
            self._serving = False
            snapshotter.close()

    def used(self, layers: Iterable[Path]) -> None:
        """``snapshotter.provider.Observer``; called from any thread."""
        files = tuple(layers)
        self._trimmer.used(files)
        self._duties.used(files)

    def _count(self, method: str, code: str, seconds: float) -> None:
        self._metrics.snapshot_calls.labels(method, code).inc()
        self._metrics.snapshot_seconds.labels(method).observe(seconds)

    def _is_ready(self, ready: Callable[[], None]) -> None:
        self._serving = True
        gc.freeze()  # what is loaded stays: the collector need not look at it in the middle of a container's start
        _log.info("agent is ready", mode=self._settings.mode.value, store=str(self._store.root))
        ready()

    def _not_ready(self) -> str:
        return "" if self._serving else "the snapshotter is not being served"

    async def _collect(self) -> None:
        """After containerd let go of something, remove what nobody needs any more."""
        while True:
            await self._released.wait()
            await asyncio.sleep(_COLLECT_PAUSE)
            self._released.clear()
            try:
                collected = await asyncio.to_thread(self._store.collect)
            except ImageCacheError as error:
                _log.warning("collection failed", reason=error.reason, problem=str(error))
                continue
            self._metrics.collected_bytes.inc(collected.freed)

    async def _renew(self, native: NativeUse) -> None:
        """Hold what native containers stand on; when something was let go, a collection follows."""
        ours = holder(self._settings, holder_of(self._settings.address))
        before = await asyncio.to_thread(self._store.leases.of, ours)
        if before - await native.renew(self._store.leases, ours):
            self._released.set()

    def _trim(self, file: Path) -> None:
        drop_second_copy(file)
        self._metrics.trims.inc()

    async def _measure(self) -> None:
        usage = await asyncio.to_thread(self._store.usage)
        for kind in ("layers", "chains", "blobs", "downloads"):
            self._metrics.store_bytes.labels(kind).set(getattr(usage, kind))
        self._metrics.store_free_bytes.set(shutil.disk_usage(self._store.root).free)
        self._metrics.mounts.set(_count_mounts(self._settings.agent_root))


def _count_mounts(root: Path) -> int:
    text = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    return sum(f" {root}/m/" in line and " - erofs " in line for line in text.splitlines())
