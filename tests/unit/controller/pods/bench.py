"""A cluster in memory with nobody but the controller's part for pods in it. Tests play kubelet, scheduler, builder."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec.structs import replace

from imagecache.api import ids, phases, times
from imagecache.api.types import NodeCounts, Phase, StatusImage
from imagecache.api.yamltext import JSON
from imagecache.apps.pods import run_when
from imagecache.backoff import Backoff
from imagecache.controller.informer_cache import InformerCache
from imagecache.controller.pods.reconciler import PodDependencies, PodReconciler
from imagecache.kube import objects
from imagecache.kube.api import ChangeKind, Object
from imagecache.kube.informer import Informer
from imagecache.kube.resources import EVENTS, IMAGE_CACHES, NAMESPACES, NODE_IMAGE_CACHES, NODES, PODS, Resource
from imagecache.match.keys import GATE, MATCHED, PIN
from imagecache.telemetry.metrics import Metrics
from testkit.clock import FakeClock
from testkit.kube import FakeKube

_SECONDS = 10
_SOON = Backoff(0.001, 0.01)
IMAGE = "nginx:1.25"
DIGEST = "sha256:" + "a" * 64


@dataclass
class Controller:
    """One process that leads."""

    kube: FakeKube
    clock: FakeClock
    changes: dict[str, Any] = field(default_factory=dict)
    """Of its dependencies."""
    matched: list[str] = field(default_factory=list)
    used: list[str] = field(default_factory=list)
    metrics: Metrics = field(default_factory=Metrics)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.informers = InformerCache()
        dependencies = PodDependencies(
            kube=self.kube,
            informers=self.informers,
            clock=self.clock,
            metrics=self.metrics,
            matched=lambda name, _when: self.matched.append(name),
            used=lambda name, _when: self.used.append(name),
            own_namespace="imagecache-system",
            backoff=_SOON,
            retries=_SOON,
        )
        self.pods = PodReconciler(dataclasses.replace(dependencies, **self.changes))

    def start(self) -> None:
        informers = [Informer(self.kube, each, backoff=_SOON) for each in (IMAGE_CACHES, NODES, NODE_IMAGE_CACHES)]
        works = [self._inform(each) for each in informers]
        works.append(run_when([each.synced for each in informers], self.pods))
        self.tasks = [asyncio.ensure_future(work) for work in works]

    async def kill(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def knows(self, cache: str, node: str) -> bool:
        """Whether its index has the cache on the node; or it has ended."""
        found = self.pods.caches.index.caches.get(cache)
        return any(task.done() for task in self.tasks) or (found is not None and node in found.nodes)

    def look(self) -> None:
        """At all that it remembers, now."""
        for uid in list(self.pods._memories):
            self.pods._queue.add(uid)

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"imagecache_{name}", labels) or 0.0

    async def _inform(self, informer: Informer) -> None:
        async for change in informer.changes():
            gone = change.kind is ChangeKind.DELETED
            concerned = self.informers.take(informer.resource, change.object, gone=gone)
            self.pods.caches.take(informer.resource, concerned)


@dataclass
class Bench:
    kube: FakeKube
    clock: FakeClock
    controllers: list[Controller] = field(default_factory=list)

    def start(self, **changes: Any) -> Controller:
        """A controller begins, knowing nothing."""
        controller = Controller(self.kube, self.clock, changes)
        self.controllers.append(controller)
        controller.start()
        return controller

    async def pass_time(self, seconds: float = 0.0, *, hours: float = 0.0) -> None:
        """Let time pass, for what waits for that."""
        await self.settled()
        self.clock.advance(seconds, hours=hours)
        for controller in self.controllers:
            controller.look()
        await self.settled()

    async def settled(self) -> None:
        """Nothing has changed for a moment."""
        count, still = -1, 0
        while still < 5:
            await asyncio.sleep(0.005)
            now = len(self.kube.calls)
            still = still + 1 if now == count else 0
            count = now

    # caches and nodes

    async def cache(
        self,
        name: str = "app",
        *images: str,
        phase: Phase = Phase.READY,
        on: Collection[str] = ("node-1",),
        desired: int = 1,
        labels: Mapping[str, JSON] | None = None,
        annotations: Mapping[str, JSON] | None = None,
    ) -> str:
        """An ImageCache in that phase, usable on these nodes; its id."""
        metadata: Object = {"name": name, "labels": dict(labels or {}), "annotations": dict(annotations or {})}
        spec: Object = {"images": list(images or (IMAGE,))}
        await self.kube.create(IMAGE_CACHES, {"metadata": metadata, "spec": spec})
        cache_id = await self.set_phase(name, phase, desired=desired)
        for node in on if phase is Phase.READY else ():
            await self.report(node, name, cache_id)
        return cache_id

    async def set_phase(self, name: str, phase: Phase, *, desired: int = 1, matched: dt.datetime | None = None) -> str:
        item, now = await self.kube.get(IMAGE_CACHES, name), self.clock.now()
        cache_id = ids.derived_cache_id(objects.uid(item))
        images = objects.at(item, "spec", "images")
        status = phases.begin(cache_id, 1, now)
        if phase is Phase.READY:
            found = tuple(
                StatusImage(image=str(image), platform="linux/amd64", digest=DIGEST)
                for image in (images if isinstance(images, list) else [])
            )
            status = phases.ready(status, 1, now, images=found, size=1000, retention_days=None)
        elif phase is Phase.FAILED:
            status = phases.failed(status, 1, now, reason="ImageNotFound", message="no such tag")
        elif phase is Phase.CREATING:
            status = phases.advance(status, 1, 2, now)
        last = matched.strftime("%Y-%m-%dT%H:%M:%SZ") if matched else ""
        counts = NodeCounts(desired=desired, ready=await self._ready(name, cache_id))
        status = replace(status, nodes=counts, last_matched_time=last)
        await self.kube.patch(IMAGE_CACHES, name, {"status": msgspec.to_builtins(status)}, subresource="status")
        return cache_id

    async def node(self, name: str, labels: Mapping[str, JSON] | None = None) -> None:
        """A node with an agent that has nothing."""
        await self.kube.create(NODES, {"metadata": {"name": name, "labels": dict(labels or {})}})
        await self.kube.create(NODE_IMAGE_CACHES, {"metadata": {"name": name}})
        status: Object = {"mode": "proxy", "caches": []}
        await self.kube.patch(NODE_IMAGE_CACHES, name, {"status": status}, subresource="status")

    async def report(self, node: str, cache: str, cache_id: str) -> None:
        """The node can use the bundle, beside what it has already."""
        item = await self.kube.get(NODE_IMAGE_CACHES, node)
        before = objects.at(item, "status", "caches")
        entry: Object = {"name": cache, "id": cache_id, "state": "Ready"}
        caches: list[JSON] = [*(before if isinstance(before, list) else []), entry]
        await self.kube.patch(NODE_IMAGE_CACHES, node, {"status": {"caches": caches}}, subresource="status")
        counts: Object = {"status": {"nodes": {"ready": await self._ready(cache, cache_id)}}}
        await self.kube.patch(IMAGE_CACHES, cache, counts, subresource="status")
        await eventually(lambda: all(each.knows(cache, node) for each in self.controllers), f"{cache} on {node}")

    async def _ready(self, cache: str, cache_id: str) -> int:
        """Number of nodes that report this bundle."""
        reports = [objects.at(item, "status", "caches") for item in (await self.kube.list(NODE_IMAGE_CACHES)).items]
        entries = [each for caches in reports if isinstance(caches, list) for each in caches]
        return sum((objects.text(each, "name"), objects.text(each, "id")) == (cache, cache_id) for each in entries)

    # pods

    async def namespace(self, name: str, annotations: Mapping[str, JSON] | None = None) -> None:
        await self.kube.create(NAMESPACES, {"metadata": {"name": name, "annotations": dict(annotations or {})}})

    async def pod(
        self,
        name: str = "web",
        *,
        pin: str = "",
        gates: Collection[str] | None = None,
        node: str = "",
        namespace: str = "default",
        annotations: Mapping[str, JSON] | None = None,
        **spec: JSON,
    ) -> Object:
        """One that pins a cache has the gate, unless it is said which gates it has."""
        keys: Object = {**(annotations or {}), **({PIN: pin} if pin else {})}
        held: list[JSON] = [{"name": gate} for gate in ([GATE] if gates is None and pin and not node else gates or ())]
        body: Object = {"containers": [{"name": "a", "image": IMAGE}], **spec}
        if held:
            body["schedulingGates"] = held
        if node:
            body["nodeName"] = node
        item: Object = {"metadata": {"name": name, "annotations": keys}, "spec": body}
        return await self.kube.create(PODS, item, namespace=namespace)

    async def get(self, name: str = "web", namespace: str = "default") -> Object:
        return await self.kube.get(PODS, name, namespace=namespace)

    async def annotate(self, name: str, key: str, value: JSON) -> None:
        await self.kube.patch(PODS, name, {"metadata": {"annotations": {key: value}}}, namespace="default")

    async def bind(self, name: str = "web", node: str = "node-1") -> None:
        now = times.render(self.clock.now())
        scheduled: Object = {"type": "PodScheduled", "status": "True", "lastTransitionTime": now}
        change: Object = {"spec": {"nodeName": node}, "status": {"conditions": [scheduled]}}
        await self.kube.patch(PODS, name, change, namespace="default")

    async def run(self, name: str = "web") -> None:
        await self.kube.patch(PODS, name, {"status": {"phase": "Running"}}, namespace="default")

    async def gates(self, name: str = "web", namespace: str = "default") -> list[str]:
        found = objects.at(await self.get(name, namespace), "spec", "schedulingGates")
        return [objects.text(gate, "name") for gate in found] if isinstance(found, list) else []

    async def matched(self, name: str = "web", namespace: str = "default") -> str:
        return objects.texts(await self.get(name, namespace), "metadata", "annotations").get(MATCHED, "")

    async def until_free(self, *names: str) -> None:
        """Until our gate holds none of these."""

        async def free() -> bool:
            return not any([GATE in await self.gates(name) for name in names])

        await eventually(free, f"{', '.join(names)} to be let go")

    async def until_matched(self, name: str, cache_id: str) -> None:
        async def so() -> bool:
            return await self.matched(name) == cache_id

        await eventually(so, f"{name} to be annotated with {cache_id!r}")

    async def until_told(self, *reasons: str, name: str = "web", namespace: str = "") -> None:
        """Until the pod's events are these, in that order."""
        found: list[str] = []

        async def so() -> bool:
            found[:] = await self.told(name, namespace)
            return found == list(reasons)

        await eventually(so, f"{name} to be told {reasons}", lambda: found)

    async def told(self, name: str = "web", namespace: str = "") -> list[str]:
        events = (await self.kube.list(EVENTS, namespace=namespace)).items
        about = [each for each in events if objects.text(each, "involvedObject", "name") == name]
        order = sorted(about, key=lambda item: int(objects.resource_version(item)))
        return [objects.text(item, "reason") for item in order]

    async def messages(self, name: str = "web") -> list[str]:
        events = (await self.kube.list(EVENTS)).items
        about = [each for each in events if objects.text(each, "involvedObject", "name") == name]
        return [objects.text(each, "message") for each in about]

    def count(self, verb: str, resource: Resource) -> int:
        """Calls so far."""
        return sum(call[:2] == (verb, resource.qualified) for call in self.kube.calls)


async def eventually(condition: Callable[[], object], what: str, shown: Callable[[], object] = lambda: "") -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _SECONDS
    while loop.time() < deadline:
        answer = condition()
        if asyncio.iscoroutine(answer):
            answer = await answer
        if answer:
            return
        await asyncio.sleep(0.002)
    raise AssertionError(f"waited for {what}; last seen: {shown()}")


@asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[Bench]:
    """With one node; its controllers end with it."""
    await bench.node("node-1")
    try:
        yield bench
    finally:
        for controller in bench.controllers:
            await controller.kill()
