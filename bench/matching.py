"""Two hundred pods a second beside a thousand caches: until each that asks is matched, and what that costs the API server.

A real API server and no kubelets, as in ``controller``, which has made the caches and their nodes. A pod is bound as it
is created and stays Pending. Requests are counted by the API server: patches of pods, and Events that it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

from prometheus_client.parser import text_string_to_metric_families

from bench.figures import Goal, Measured, Row, Samples, single
from imagecache.controller.event_recorder import COMPONENT
from imagecache.controller.pods.bare import BARE
from imagecache.kube.api import ClusterKube
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
_ASKS = {keys.AUTO: "true"}
_KEPT = 10
"""Of so many pods one is in the data."""
_LATEST = 30.0
"""Seconds after the last pod until its annotation must be there."""


async def measure(system: Installed, kube: ClusterKube, nodes: Sequence[str], images: Sequence[str]) -> Measured:
    """Each pod has one of these images, and one of these nodes."""
    asked, matched = dict[str, float](), dict[str, float]()
    before = await _requests(system, kube)
    async with _following(kube, matched):
        await _create(kube, "plain", RATE * _PLAIN, nodes, images, {}, {})
        plain = await _requests(system, kube) - before
        await _create(kube, "asks", RATE * _SECONDS, nodes, images, _ASKS, asked)
        async with asyncio.timeout(_LATEST):
            while len(matched) < len(asked):
                await asyncio.sleep(0.1)
    lags = Samples()
    for name in list(asked)[::_KEPT]:
        lags.add(max(0.0, matched[name] - asked[name]))
    each = (await _requests(system, kube) - before - plain) / len(asked)
    note = f"{len(images):,} caches, {RATE} pods a second"
    return Measured(
        [
            Row("pod bound → matched, p99", lags, goal=Goal(1, unit="s"), share=0.99, note=note),
            Row("requests for each pod that asks", single(each), goal=Goal(2, unit=""), unit="", note=note),
            Row("requests for each pod that does not", single(plain / (RATE * _PLAIN)), goal=Goal(0, unit=""), unit="",
                note=note),
        ]
    )


async def _create(
    kube: ClusterKube,
    name: str,
    count: int,
    nodes: Sequence[str],
    images: Sequence[str],
    annotations: Mapping[str, str],
    created: dict[str, float],
) -> None:
    """So many, at ``RATE``, however long each takes; ``created`` gets the moment at which the API server has it."""

    async def one(number: int) -> None:
        await asyncio.sleep(max(0.0, start + number / RATE - time.perf_counter()))
        container = {"name": "main", "image": images[number % len(images)]}
        spec = {"containers": [container], "nodeName": nodes[number % len(nodes)], "automountServiceAccountToken": False}
        metadata = {"name": f"{name}-{number}", "annotations": dict(annotations)}
        await kube.create(PODS, {"metadata": metadata, "spec": spec}, namespace=_NAMESPACE)  # type: ignore[dict-item]  # JSON
        created[f"{name}-{number}"] = time.perf_counter()

    start = time.perf_counter()
    await asyncio.gather(*map(one, range(count)))


@contextlib.asynccontextmanager
async def _following(kube: ClusterKube, matched: dict[str, float]) -> AsyncIterator[None]:
    """Inside, ``matched`` gets the moment at which a pod was seen with its annotation first."""
    stream = Stream(kube, PODS, BARE, namespace=_NAMESPACE)

    async def follow() -> None:
        async for news in stream.news():
            if isinstance(news, Seen) and keys.MATCHED in (news.object.metadata.annotations or {}):
                matched.setdefault(news.object.metadata.name, time.perf_counter())

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
