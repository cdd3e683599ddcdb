"""Every Prometheus metric, declared once, in a registry of our own.

Base units, no image references and no digests as labels (unbounded). Constructed by ``apps`` and handed to the code
that counts; the client library's process-wide registry is not used, so tests and agents in one process do not collide.
It must not serve anything: ``health`` does.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from imagecache import __version__

_PREFIX = "imagecache"
_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
"""Seconds: snapshotter calls and mounts."""
_SLOW = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
"""Seconds: builds, fetches, pods that wait."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The metrics of one process, by what they are about."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._build_info()
        self._builds()
        self._snapshotter()
        self._node()
        self._store()
        self._cluster()
        self._pods()
        self._pod_starts()

    def render(self) -> bytes:
        """The exposition text, for ``CONTENT_TYPE``."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, namespace=_PREFIX, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, namespace=_PREFIX, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, text, labels, namespace=_PREFIX, registry=self.registry, buckets=buckets)

    def _build_info(self) -> None:
        self._gauge("build_info", "Always 1; the label is the version.", "version").labels(__version__).set(1)

    def _builds(self) -> None:
        self.builds = self._counter("builds_total", "Builds that ended, by reason (Ready or the error's).", "reason")
        self.build_seconds = self._histogram("build_seconds", "Duration of a build that ended Ready.", _SLOW)

    def _snapshotter(self) -> None:
        self.snapshot_calls = self._counter(
            "snapshotter_calls_total", "Calls, by method and gRPC code.", "method", "code"
        )
        self.snapshot_seconds = self._histogram("snapshotter_call_seconds", "Duration of a call.", _FAST, "method")
        self.layer_hits = self._counter("snapshotter_layer_hits_total", "Layers that containerd need not pull.")
        self.layer_misses = self._counter("snapshotter_layer_misses_total", "Layers that are plain overlay.")

    def _node(self) -> None:
        self.mounts = self._gauge("mounts", "Layer images mounted right now.")
        self.mount_seconds = self._histogram("mount_seconds", "Duration of a layer image's mount.", _FAST)
        self.mount_failures = self._counter("mount_failures_total", "Mounts that failed.")
        self.attached_images = self._gauge("attached_images", "Images recorded in containerd by us.")
        self.attach_seconds = self._histogram("attach_seconds", "Duration of an attach.", _FAST)
        self.trims = self._counter("trims_total", "Times that a layer's second copy left the page cache.")

    def _store(self) -> None:
        self.store_bytes = self._gauge(
            "store_bytes", "Bytes on disk, by kind (layers, chains, blobs, downloads).", "kind"
        )
        self.store_free_bytes = self._gauge("store_free_bytes", "Free bytes of the store's filesystem.")
        self.collected_bytes = self._counter("collected_bytes_total", "Bytes given back by collections.")

    def _cluster(self) -> None:
        self.fetched_bytes = self._counter("fetched_bytes_total", "Bytes of layer images that came from another store.")
        self.fetch_seconds = self._histogram("fetch_seconds", "Duration of a bundle's fetch that ended well.", _SLOW)
        self.caches = self._gauge(
            "node_caches", "Image caches assigned to this node, by state (Pending, Fetching, Ready, Failed).", "state"
        )

    def _pods(self) -> None:
        self.pod_matches = self._counter(
            "pod_matches_total",
            "Pods that were matched with caches, by outcome (hit, missed, not found, not complete, nothing).",
            "outcome",
        )
        self.pods_held = self._gauge("pods_held", "Pods that wait for the cache that they pin.")
        self.pod_held_seconds = self._histogram(
            "pod_held_seconds", "From the creation of a pod that pins a cache until it was let go.", _SLOW
        )
        self.auto_caches = self._counter(
            "auto_caches_total",
            "Caches that missing pods asked for, by what became of it (created, exists, refused, dropped).",
            "outcome",
        )
        self.pod_events_dropped = self._counter(
            "pod_events_dropped_total", "Events about pods that were not posted: there were too many at once."
        )

    def _pod_starts(self) -> None:
        self.pod_layers = self._counter(
            "pod_layers_total",
            "Layers of pods that started on this node, by source: a cache, a pull while the pod started (pulled), or "
            "neither, since they were unpacked here already (present).",
            "source",
        )
        self.pod_pulled_bytes = self._counter(
            "pod_pulled_bytes_total", "Compressed bytes of layers that were pulled while a pod started, for each pod."
        )
        self.pod_seconds = self._histogram(
            "pod_snapshot_seconds", "Time in our snapshotter for the containers of a pod that started.", _FAST
        )
        self.pod_events = self._counter(
            "pod_events_total",
            "Events ImageCacheServed, by outcome: told, repeated (it was there already) or dropped.",
            "outcome",
        )
        self.pod_starts_dropped = self._counter(
            "pod_starts_dropped_total", "Container starts of which nothing could be found out, or that were too many."
        )
