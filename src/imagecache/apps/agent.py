"""The node process: snapshotter, attacher, page-cache trim, expiry, collection, health and metrics, side by side.

Each part is a task of its own with its own failures: whatever happens to one, containers go on and the others too. It
must not decide what the parts decide.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from imagecache.api.types import Phase
from imagecache.apps.metered import MeteredMounter, MeteredProvider
from imagecache.cli.settings import Mode, Settings
from imagecache.clock import Clock
from imagecache.errors import ImageCacheError
from imagecache.node.containerd import ContainerdClient
from imagecache.node.mounter import KernelMounter
from imagecache.node.native import NativeUse, holder_of
from imagecache.node.trim import Trimmer, drop_cached_pages, follow_starts
from imagecache.snapshotter.server import serve
from imagecache.snapshotter.snapshotter import Snapshotter
from imagecache.standalone.controller import Controller
from imagecache.store.store import Store
from imagecache.telemetry.health import HealthServer
from imagecache.telemetry.log import get_logger
from imagecache.telemetry.metrics import Metrics

_log = get_logger(__name__)
_ATTACH_INTERVAL = 5.0
_EXPIRE_INTERVAL = 60.0
_NATIVE_INTERVAL = 10.0
_COLLECT_PAUSE = 2.0
"""Seconds after a layer was let go: containerd lets go of a whole image in one burst."""
_MEASURE_INTERVAL = 60.0


class Agent:
    """One node. ``run`` ends when it is cancelled; mounts and containers stay."""

    def __init__(
        self, store: Store, settings: Settings, clock: Clock, mounter: KernelMounter, controller: Controller
    ) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._controller = controller
        self._metrics = Metrics()
        self._mounter = MeteredMounter(mounter, self._metrics)
        self._trimmer = Trimmer(settings.trim_delay, clock, self._trim)
        self._released = asyncio.Event()
        self._serving = False
        self._attached: set[str] = set()

    async def run(self, listener: socket.socket | None, *, ready: Callable[[], None]) -> None:
        """Serve ``listener``, or a socket of our own."""
        health = HealthServer(self._metrics, ready=self._not_ready)
        if self._settings.metrics_address:
            await health.start(self._settings.metrics_address)
        try:
            async with asyncio.TaskGroup() as group, ContainerdClient(self._settings.address, self._clock) as client:
                group.create_task(self._trimmer.run())
                group.create_task(self._every(_ATTACH_INTERVAL, self._attach))
                group.create_task(self._every(_EXPIRE_INTERVAL, self._expire))
                group.create_task(self._every(_MEASURE_INTERVAL, self._measure))
                group.create_task(self._collect())
                if self._settings.mode is not Mode.PROXY:
                    native = NativeUse(client, self._store.root / "layers")
                    group.create_task(follow_starts(client, self._trimmer.used))
                    group.create_task(self._every(_NATIVE_INTERVAL, lambda: self._renew(native)))
                if self._settings.mode is Mode.NATIVE:
                    self._is_ready(ready)
                else:
                    group.create_task(self._serve(listener or self._settings.agent_socket, ready))
        finally:
            await health.stop()

    async def _serve(self, address: socket.socket | Path, ready: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()

        def released() -> None:
            loop.call_soon_threadsafe(self._released.set)

        provider = MeteredProvider(self._store.provider, self._metrics, released)
        snapshotter = Snapshotter(
            self._settings.agent_root, provider, self._mounter, self._clock, observer=self._trimmer
        )
        try:
            await serve(snapshotter, address, ready=lambda: self._is_ready(ready), answered=self._count)
        finally:
            self._serving = False
            snapshotter.close()

    def _count(self, method: str, code: str, seconds: float) -> None:
        self._metrics.snapshot_calls.labels(method, code).inc()
        self._metrics.snapshot_seconds.labels(method).observe(seconds)

    def _is_ready(self, ready: Callable[[], None]) -> None:
        self._serving = True
        _log.info("agent is ready", mode=self._settings.mode.value, store=str(self._store.root))
        ready()

    def _not_ready(self) -> str:
        return "" if self._serving else "the snapshotter is not being served"

    async def _every(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        """Again and again; a failure is logged once and tried again."""
        told = ""
        while True:
            try:
                await work()
                told = ""
            except ImageCacheError as error:
                if str(error) != told:
                    told = str(error)
                    _log.warning("will try again", reason=error.reason, problem=told, hint=error.hint)
            await asyncio.sleep(seconds)

    async def _attach(self) -> None:
        """Attach what is wanted here and was not attached since this process started (containerd may be a new one)."""
        for cache in await asyncio.to_thread(self._controller.list):
            status = cache.status
            if status is None or status.phase is not Phase.READY or status.image_cache_id in self._attached:
                continue
            if status.nodes is not None and status.nodes.desired:
                start = self._clock.monotonic()
                done = await self._controller.attach(cache.name)
                self._metrics.attach_seconds.observe(self._clock.monotonic() - start)
                self._metrics.attached_images.inc(len(done.images))
            self._attached.add(status.image_cache_id)

    async def _expire(self) -> None:
        expired = await self._controller.expire()
        for deleted in expired.deleted:
            _log.info("image cache expired", name=deleted.cache.name)
        for name, error in expired.failed:
            _log.warning("image cache cannot be deleted yet", name=name, reason=error.reason, problem=str(error))

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
        holder = holder_of(self._settings.address)
        before = await asyncio.to_thread(self._store.leases.of, holder)
        if before - await native.renew(self._store.leases, holder):
            self._released.set()

    def _trim(self, file: Path) -> None:
        drop_cached_pages(file)
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
