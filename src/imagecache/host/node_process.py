"""The node process: snapshotter, page-cache trim, collection, measurements, and the duties of its surroundings.

Each part is a task that handles its own failures, so that containers and the other parts continue. It must not decide
what the parts decide.
"""

from __future__ import annotations

import asyncio
import gc
import shutil
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from imagecache.backoff import Backoff, Retries
from imagecache.clock import Clock
from imagecache.concurrency import run_all
from imagecache.containerd.client import ContainerdClient
from imagecache.containerd.left_out_images import restore
from imagecache.containerd.native import NativeUse
from imagecache.errors import ImageCacheError
from imagecache.host.config_guard import ConfigGuard
from imagecache.host.containerd_process import identity
from imagecache.host.mountinfo import MOUNTINFO, parse
from imagecache.host.page_cache_trim import Trimmer, drop_second_copy, follow_starts
from imagecache.oserrors import converting
from imagecache.snapshotter.container_starts import ContainerStarts
from imagecache.snapshotter.dependencies import Observer
from imagecache.snapshotter.grpc_server import serve
from imagecache.snapshotter.snapshotter import Snapshotter
from imagecache.store.store import Store
from imagecache.telemetry.log import get_logger
from imagecache.telemetry.metrics import Metrics

_log = get_logger(__name__)
_NATIVE_INTERVAL = 10.0
"""Seconds between two looks at what containerd's erofs snapshotter uses: it sends no events about that."""
_CRI_INTERVAL = 1.0
"""Seconds between two looks whether containerd was started."""
_COLLECT_DELAY = 2.0
"""Seconds from a release to the collection: containerd removes the snapshots of an image in one burst."""
_MEASURE_INTERVAL = 60.0


class Duties(Protocol):
    """The part of the process that differs between a plain host and a node of a cluster."""

    @property
    def collects(self) -> bool:
        """The store is this node's own, so that what nobody needs may be removed."""

    def serves(self, starts: ContainerStarts) -> None:
        """Our snapshotter is open, and this is what it knows of containers that start. Called before ``works``."""

    def works(self, containerd: ContainerdClient, metrics: Metrics) -> Sequence[Coroutine[object, object, None]]:
        """To run side by side until they are cancelled."""

    def used(self, layers: Iterable[Path]) -> None:
        """A container starts from these layer images. Called from any thread, returns at once."""

    def forgotten(self) -> None:
        """Image records were deleted, which are to be made again. Called from any thread, returns at once."""


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


@dataclass(frozen=True, slots=True)
class NativeLeases:
    """Layer images that native containers use, leased under the name ``holder``."""

    use: NativeUse
    holder: str


@dataclass(slots=True)
class NodeProcess:
    """One node. ``run`` ends when it is cancelled; mounts and containers stay."""

    store: Store
    containerd: ContainerdClient
    clock: Clock
    metrics: Metrics
    mode: str
    """For the log."""
    duties: Duties
    agent_root: Path
    trim_delay: float
    snapshotter: Callable[[Observer], Snapshotter] | None
    """Opens the proxy snapshotter; None in modes that serve nothing."""
    native: NativeLeases | None
    """None in modes without containerd's erofs snapshotter."""
    guard: ConfigGuard | None = None
    """Of containerd's configuration; None where that is not ours to repair."""
    _trimmer: Trimmer = field(init=False)
    _released: asyncio.Event = field(default_factory=asyncio.Event)
    _loop: asyncio.AbstractEventLoop | None = None
    _starts: ContainerStarts | None = None
    _serving: bool = False
    _restored: str = ""
    """The containerd whose CRI was shown what it had left out."""

    def __post_init__(self) -> None:
        self._trimmer = Trimmer(self.trim_delay, self.clock, self._trim)

    async def run(self, address: socket.socket | Path, *, ready: Callable[[], None]) -> None:
        """Serve at ``address`` and call ``ready`` when containerd may connect."""
        self._loop = asyncio.get_running_loop()
        snapshotter = self.snapshotter(self) if self.snapshotter is not None else None
        if snapshotter is not None:
            self._starts = ContainerStarts(snapshotter.below)
            self.duties.serves(self._starts)
        works = [
            self._trimmer.run(),
            every(_MEASURE_INTERVAL, self._measure),
            *self.duties.works(self.containerd, self.metrics),
        ]
        if self.guard is not None:
            works.append(self.guard.run())
        if self.duties.collects:
            works.append(self._collect())
        if self.native is not None:
            native = self.native
            works.append(follow_starts(self.containerd, self.used))
            works.append(every(_NATIVE_INTERVAL, lambda: self._renew(native)))
        if snapshotter is not None:
            works.append(every(_CRI_INTERVAL, self._restore))
            works.append(self._serve(snapshotter, address, ready))
        else:
            self._is_ready(ready)
        await run_all(*works)

    def problem(self) -> str:
        """Why the node process is not ready; empty when it is."""
        return "" if self._serving else "the snapshotter is not being served"

    async def _serve(self, snapshotter: Snapshotter, address: socket.socket | Path, ready: Callable[[], None]) -> None:
        try:
            await serve(snapshotter, address, ready=lambda: self._is_ready(ready), answered=self._count)
        finally:
            self._serving = False
            snapshotter.close()

    # snapshotter.provider.Observer: called from any thread

    def used(self, layers: Iterable[Path]) -> None:
        files = tuple(layers)
        self._trimmer.used(files)
        self.duties.used(files)

    def looked_up(self, *, found: bool) -> None:
        (self.metrics.layer_hits if found else self.metrics.layer_misses).inc()

    def released(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._released.set)

    def _count(self, method: str, key: str, code: str, seconds: float) -> None:
        self.metrics.snapshot_calls.labels(method, code).inc()
        self.metrics.snapshot_seconds.labels(method).observe(seconds)
        if self._starts is not None:
            self._starts.answered(method, key, code, seconds)

    def _is_ready(self, ready: Callable[[], None]) -> None:
        self._serving = True
        gc.freeze()  # what is loaded stays: the garbage collector need not scan it while a container starts
        _log.info("agent is ready", mode=self.mode, store=str(self.store.root))
        ready()

    async def _collect(self) -> None:
        """Remove what nothing needs, after containerd has released something."""
        while True:
            await self._released.wait()
            await asyncio.sleep(_COLLECT_DELAY)
            self._released.clear()
            try:
                collected = await asyncio.to_thread(self.store.collect)
            except ImageCacheError as error:
                _log.warning("collection failed", reason=error.reason, problem=str(error))
                continue
            self.metrics.collected_bytes.inc(collected.freed)

    async def _restore(self) -> None:
        """Once for each start of containerd, which may have found no snapshotter that answers."""
        started = await asyncio.to_thread(identity, self.containerd.address)
        if started in {"", self._restored}:
            return
        names = await restore(self.containerd)
        self._restored = started
        if names:
            _log.warning("CRI had left out images when containerd started", names=names)

    async def _renew(self, native: NativeLeases) -> None:
        """Lease what native containers use; a release starts a collection."""
        before = await asyncio.to_thread(self.store.leases.of, native.holder)
        if before - await native.use.renew(self.store.leases, native.holder):
            self._released.set()

    def _trim(self, file: Path) -> None:
        drop_second_copy(file)
        self.metrics.trims.inc()

    async def _measure(self) -> None:
        usage = await asyncio.to_thread(self.store.usage)
        for kind in ("layers", "chains", "blobs", "downloads"):
            self.metrics.store_bytes.labels(kind).set(getattr(usage, kind))
        with converting(self.store.root):  # a store whose filesystem is gone must not end the process
            self.metrics.store_free_bytes.set(shutil.disk_usage(self.store.root).free)
        self.metrics.mounts.set(_count_mounts(self.agent_root))


def _count_mounts(root: Path) -> int:
    mounted = parse(MOUNTINFO.read_text(errors="surrogateescape"))
    return sum(mount.kind == "erofs" and mount.target.startswith(f"{root}/m/") for mount in mounted)
