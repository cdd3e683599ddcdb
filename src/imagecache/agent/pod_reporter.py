"""Follows containers that start on this node, and tells each pod's facts: one event on the pod, and metrics.

It looks a second after a start, when nobody waits any longer, and asks containerd and our own snapshotter. Everything
is bounded: pods that wait, tries, events in a second; what is too much is dropped and counted. Containers that started
before it runs, or while containerd's events cannot be heard, are not told. It must not decide what the facts mean:
``pod_starts`` does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from imagecache.agent import pod_starts
from imagecache.agent.pod_starts import Patience, PodFacts, Waiting
from imagecache.agent.supervision import failure_of
from imagecache.backoff import Attempts, Backoff, Retries, Retryable
from imagecache.clock import Clock
from imagecache.concurrency import run_all
from imagecache.containerd import task_starts
from imagecache.containerd.api import Containerd, ContainerRecord, Session, TaskStarted
from imagecache.containerd.layer_sizes import layer_sizes
from imagecache.containerd.native import SOURCE_LABEL, layer_name
from imagecache.containerd.pod_containers import PodContainer, PodRef, pod_container
from imagecache.errors import ContainerdUnavailable, KubernetesUnavailable, ObjectExists
from imagecache.kube.api import Kube, Object
from imagecache.kube.resources import EVENTS
from imagecache.snapshotter.container_starts import ContainerStarts, Prepared
from imagecache.snapshotter.snapshot import LayerBelow
from imagecache.telemetry.log import get_logger
from imagecache.telemetry.metrics import Metrics

_QUEUE = 1000
"""Starts that wait to be looked at: twice the pods of a node, with their sandboxes."""
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PodReporterSettings:
    """Times in seconds."""

    node: str
    """Name of our Node."""
    namespace: str
    """containerd's, of the pods."""
    snapshotter: str
    """Name of our proxy snapshotter in containerd."""
    layers: Path
    """Directory of layer images that containerd's own snapshotter reads, in native mode."""
    events: bool = True
    """False: metrics alone."""
    patience: Patience = field(default_factory=Patience)
    pause: float = 1.0
    """From a start until it is looked at: containerd answers more slowly during the start itself."""
    look: float = 1.0
    """Between two looks for pods that have started."""
    spacing: float = 0.2
    """Between two events: a node that starts hundreds of pods must not flood the API server."""
    listen: float = 0.5
    """Until containerd's events are listened to again: starts in between are missed."""
    retry: float = 2.0
    """Until containerd is asked again about a container."""
    tries: int = 5
    """For one container, and for one event."""
    backoff: Backoff = Backoff(1.0, 30.0, jitter=0.5)
    """Of the tries for an event."""


class PodReporter:
    """``starts``: what our snapshotter knows; None: containerd's own serves the layers (native mode)."""

    def __init__(
        self,
        containerd: Containerd,
        starts: ContainerStarts | None,
        kube: Kube,
        clock: Clock,
        metrics: Metrics,
        settings: PodReporterSettings,
    ) -> None:
        self._containerd = containerd
        self._starts = starts
        self._kube = kube
        self._clock = clock
        self._metrics = metrics
        self._settings = settings
        self._heard: asyncio.Queue[str] = asyncio.Queue(_QUEUE)
        self._waiting = Waiting(settings.patience)
        self._added = asyncio.Event()
        self._problems = Retries(settings.backoff, _log, "event on a pod not written")

    async def run(self) -> None:
        """Until cancelled."""
        if self._starts is not None:
            self._starts.follow(self._settings.namespace)
        await run_all(
            task_starts.follow(self._containerd, self._hear, retry=self._settings.listen),
            self._look_at_all(),
            self._tell_all(),
        )

    # containers

    def _hear(self, started: TaskStarted) -> None:
        if started.namespace != self._settings.namespace:
            return
        try:
            self._heard.put_nowait(started.container_id)
        except asyncio.QueueFull:
            self._take(started.container_id)
            self._metrics.pod_starts_dropped.inc()

    async def _look_at_all(self) -> None:
        while True:
            heard = [await self._heard.get()]
            await asyncio.sleep(self._settings.pause)
            while not self._heard.empty():
                heard.append(self._heard.get_nowait())
            for container_id in heard:
                await self._look_at(container_id)

    async def _look_at(self, container_id: str) -> None:
        prepared = self._take(container_id)

        async def look() -> None:
            try:
                await self._look(container_id, prepared)
            except ContainerdUnavailable as error:
                raise Retryable(error) from error

        attempts = Attempts(self._settings.tries, Backoff(self._settings.retry, self._settings.retry))
        problem = await failure_of(attempts.run(look))
        if problem is not None:
            self._metrics.pod_starts_dropped.inc()
            _log.info("nothing is known of a container's start", reason=problem.reason, problem=str(problem))

    def _take(self, container_id: str) -> Prepared | None:
        return self._starts.take(container_id) if self._starts is not None else None

    async def _look(self, container_id: str, prepared: Prepared | None) -> None:
        session = self._containerd.session(self._settings.namespace)
        record = await session.container(container_id)
        container = pod_container(record) if record is not None else None
        if record is None or container is None or container.restarted:
            return
        layers = await self._layers(session, record, prepared)
        pulled = await self._pulled(session, record, container, layers) if layers else None
        if not layers or pulled is None:  # it has ended, or we were started between its Prepare and its start
            self._metrics.pod_starts_dropped.inc()
            return
        started = pod_starts.start(layers, pulled, prepared.seconds if prepared is not None else None)
        if not self._waiting.add(container.pod, started, self._clock.monotonic()):
            self._metrics.pod_starts_dropped.inc()
        self._added.set()

    async def _layers(
        self, session: Session, record: ContainerRecord, prepared: Prepared | None
    ) -> Sequence[LayerBelow]:
        """The uppermost first; none: not known."""
        if self._starts is not None and record.snapshotter == self._settings.snapshotter:
            return await self._starts.layers(prepared.key) if prepared is not None else ()
        layers: list[LayerBelow] = []
        info = await session.snapshots.stat(record.snapshotter, record.snapshot_key)
        while info is not None and info.parent:
            info = await session.snapshots.stat(record.snapshotter, info.parent)
            if info is not None and info.created is not None:
                source = info.labels.get(SOURCE_LABEL)
                served = source is not None and layer_name(Path(source), self._settings.layers) is not None
                layers.append(LayerBelow(info.name, served, info.created))
        return layers

    async def _pulled(
        self, session: Session, record: ContainerRecord, container: PodContainer, layers: Collection[LayerBelow]
    ) -> Mapping[str, int | None] | None:
        """By chainID: compressed bytes of what was pulled for the pod, None where they are not known.

        None instead of all: the pod has ended.
        """
        if all(layer.served for layer in layers):
            return {}
        sandbox = await session.container(container.sandbox)
        if sandbox is None or sandbox.created is None:
            return None
        fresh = pod_starts.fresh(layers, sandbox.created)
        sizes = await layer_sizes(session, record.image, fresh) if fresh else {}
        return {chain: sizes.get(chain) for chain in fresh}

    # pods

    async def _tell_all(self) -> None:
        while True:
            if not self._waiting:
                self._added.clear()
                await self._added.wait()
            pulling = self._starts is not None and self._starts.unpacking
            started = self._waiting.take(self._clock.monotonic(), pulling=pulling)
            for _, facts in started:
                self._count(facts)
            for pod, facts in started:
                if facts.served and self._settings.events:
                    await self._tell(pod, facts)
            await asyncio.sleep(self._settings.look)

    def _count(self, facts: PodFacts) -> None:
        metrics = self._metrics
        for source, layers in (("cache", facts.served), ("pulled", facts.pulled), ("present", facts.present)):
            metrics.pod_layers.labels(source).inc(layers)
        metrics.pod_pulled_bytes.inc(facts.pulled_bytes or 0)
        if facts.seconds is not None:
            metrics.pod_seconds.observe(facts.seconds)

    async def _tell(self, pod: PodRef, facts: PodFacts) -> None:
        item = pod_starts.event(pod, facts, self._settings.node, self._clock.now())
        attempts = Attempts(self._settings.tries, self._settings.backoff)
        problem = await failure_of(attempts.run(lambda: self._write(item, pod.namespace)))
        if problem is None or isinstance(problem, ObjectExists):
            self._problems.succeeded()
            outcome = "told" if problem is None else "repeated"
        else:
            self._problems.failed(problem)
            outcome = "dropped"
        self._metrics.pod_events.labels(outcome).inc()
        await asyncio.sleep(self._settings.spacing)

    async def _write(self, item: Object, namespace: str) -> None:
        try:
            await self._kube.create(EVENTS, item, namespace=namespace)
        except KubernetesUnavailable as error:
            raise Retryable(error) from error
