"""Many caches of an image whose layers the store has, one after the other, as pods without one make them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from bench.figures import Goal, Measured, Row, Samples, single
from bench.watched import watched
from imagecache.kube.api import Object
from imagecache.kube.client import KubeClient
from imagecache.kube.connection import kubeconfig
from imagecache.kube.objects import at
from imagecache.kube.resources import IMAGE_CACHES
from testkit.cluster.installed import Installed
from testkit.images import pause_image

CACHES = 40


def measure(directory: Path) -> Measured:
    """On a cluster of its own, without nodes."""
    with Installed(directory / "known", nodes=()) as system:
        image = system.cluster.registry.push("known/app:1", pause_image(directory / "known-image"))
        return asyncio.run(_measure(system, image))


async def _measure(system: Installed, image: str) -> Measured:
    samples = Samples()
    async with KubeClient(kubeconfig(system.cluster.kubeconfig)) as kube, watched(kube, IMAGE_CACHES) as caches:
        for number in range(CACHES + 1):
            name = f"known-{number:03}"
            ready = caches.expect(name, _is_ready)
            start = time.perf_counter()
            await kube.create(IMAGE_CACHES, _manifest(system, name, image))
            seconds = await ready - start
            if number:  # the first one is built
                samples.add(seconds)
    note = "one small image, one cache after the other"
    return Measured(
        [
            Row("cache of a known image: created → Ready", samples, note=note),
            Row(f"{CACHES} caches of a known image", single(sum(samples.values)), goal=Goal(4, unit="s"), note=note),
        ]
    )


def _manifest(system: Installed, name: str, image: str) -> Object:
    host = image.partition("/")[0]
    document = system.manifest(
        name, [image], {"k8s.aliyun.com/plain-http-registry": host, "k8s.aliyun.com/imc-cpu-arch": "amd64"}
    )
    return {key: document[key] for key in ("metadata", "spec")}  # type: ignore[misc]  # JSON, as object


def _is_ready(item: Object) -> bool:
    return at(item, "status", "phase") == "Ready"
