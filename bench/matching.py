"""Two hundred pods a second beside a thousand caches: until each that asks is matched, and what that costs the server.

A real API server and no kubelets, as in ``controller``, which has made the caches and their nodes. A pod is bound as it
is created and stays Pending. Requests are counted by the API server: patches of pods, and Events that it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from bench.figures import Goal, Measured, Row, quantile, single
from imagecache.controller.event_recorder import COMPONENT
from imagecache.controller.pods.bare import BARE, Bare
from imagecache.kube.api import ClusterKube, Object
from imagecache.kube.objects import text
from imagecache.kube.resources import EVENTS, PODS
from imagecache.kube.stream import Seen, Stream
from imagecache.match import keys
from testkit.cluster.installed import Installed

RATE = 200
"""Pods a second."""
_SECONDS = 60
_PLAIN = 10
"""Seconds of pods about which nobody has written anything."""
_NAMESPACE = "default"
_LATEST = 30.0
"""Seconds after the last pod until its annotation must be there."""


@dataclass(frozen=True, slots=True)
class _Pods:
    """To be created, each with one of these images, and on one of these nodes."""

    kube: ClusterKube
    nodes: Sequence[str]
    images: Sequence[str]

    async def create(self, name: str, count: int, annotations: Object) -> dict[str, float]:
        """So many, at ``RATE``, however long each takes; when the API server had each."""
        created: dict[str, float] = {}
        start = time.perf_counter()

        async def one(number: int) -> None:
            await asyncio.sleep(max(0.0, start + number / RATE - time.perf_counter()))
            own: Object = {"name": f"{name}-{number}", "annotations": annotations}
            await self.kube.create(PODS, {"metadata": own, "spec": self._spec(number)}, namespace=_NAMESPACE)
            created[f"{name}-{number}"] = time.perf_counter()

        await asyncio.gather(*map(one, range(count)))
        return created

    def _spec(self, number: int) -> Object:
        return {
            "containers": [{"name": "main", "image": self.images[number % len(self.images)]}],
            "nodeName": self.nodes[number % len(self.nodes)],
            "automountServiceAccountToken": False,
        }


@dataclass(slots=True)
class _Matched:
    moments: dict[str, float] = field(default_factory=dict)
    """When a pod was seen with its annotation first."""
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def see(self, pod: Bare) -> None:
        if keys.MATCHED in (pod.metadata.annotations or {}):
            self.moments.setdefault(pod.metadata.name, time.perf_counter())
            self._arrived.set()

    async def wait(self, count: int) -> None:
        while len(self.moments) < count:
            self._arrived.clear()
            await self._arrived.wait()


async def measure(system: Installed, kube: ClusterKube, nodes: Sequence[str], images: Sequence[str]) -> Measured:
    """Each pod has one of these images, and one of these nodes."""
    pods, matched = _Pods(kube, nodes, images), _Matched()
    before = await _requests(system, kube)
    async with _following(kube, matched):
        quiet = await pods.create("plain", RATE * _PLAIN, {})
        plain = await _requests(system, kube) - before
        asked = await pods.create("asks", RATE * _SECONDS, {keys.AUTO: "true"})
        async with asyncio.timeout(_LATEST):
            await matched.wait(len(asked))
    lag = quantile([max(0.0, matched.moments[name] - asked[name]) for name in asked], 0.99)
    each = (await _requests(system, kube) - before - plain) / len(asked)
    return Measured(list(_rows(lag, each, plain / len(quiet), f"{len(images):,} caches, {RATE} pods a second")))


def _rows(lag: float, asking: float, plain: float, note: str) -> Iterator[Row]:
    yield Row("pod bound → matched, p99", single(lag), goal=Goal(1, unit="s"), note=note)
    yield Row("requests for a pod that asks", single(asking), goal=Goal(2, unit=""), unit="", note=note)
    yield Row("requests for a pod that does not", single(plain), goal=Goal(0, unit=""), unit="", note=note)


@contextlib.asynccontextmanager
async def _following(kube: ClusterKube, matched: _Matched) -> AsyncIterator[None]:
    stream = Stream(kube, PODS, BARE, namespace=_NAMESPACE)

    async def follow() -> None:
        async for news in stream.news():
            if isinstance(news, Seen):
                matched.see(news.object)

    following = asyncio.create_task(follow())
    try:
        await stream.synced.wait()
        yield
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def _requests(system: Installed, kube: ClusterKube) -> float:
    """Patches of pods that the API server has answered, and our controller's Events on pods that it has."""
    metrics = await asyncio.to_thread(system.cluster.kubectl, "get", "--raw", "/metrics")
    events = await kube.list(EVENTS, namespace=_NAMESPACE, fields="involvedObject.kind=Pod")
    own = [event for event in events.items if text(event, "source", "component") == COMPONENT]
    return sum(_patches(metrics)) + len(own)


def _patches(metrics: str) -> Iterator[float]:
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            found = [sample.labels.get(key, "") for key in ("verb", "resource", "subresource")]
            if sample.name == "apiserver_request_total" and found == ["PATCH", "pods", ""]:
                yield sample.value
