"""A controller over a Kubernetes API in memory, with a fake builder and store."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest_asyncio

from imagecache.api.parse import stored
from imagecache.api.types import ImageCache, Phase, Status
from imagecache.api.yamltext import JSON
from imagecache.backoff import Backoff
from imagecache.controller.quota import Limits
from imagecache.controller.reconciler import Dependencies, Reconciler
from imagecache.errors import ObjectNotFound
from imagecache.kube import objects
from imagecache.kube.api import ChangeKind, Object
from imagecache.kube.informer import Informer
from imagecache.kube.resources import EVENTS, IMAGE_CACHES, NODE_IMAGE_CACHES, NODES, SECRETS, Resource
from testkit.builder import FakeBuilder, MemoryStore
from testkit.clock import FakeClock
from testkit.kube import FakeKube

_SECONDS = 10
PAUSE = Backoff(0.01, 0.02)
"""Between two looks at a Secret."""


def manifest(name: str = "a", *images: str, annotations: dict[str, JSON] | None = None, **spec: JSON) -> Object:
    metadata: Object = {"name": name, "annotations": annotations or {}}
    return {"metadata": metadata, "spec": {"images": list(images or ("nginx:1.25",)), **spec}}


def secret(name: str, word: str) -> Object:
    config = base64.b64encode(f'{{"auths": {{"x": {{"auth": "{word}"}}}}}}'.encode()).decode()
    return {"metadata": {"name": name}, "type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": config}}


@dataclass
class Bench:
    """A cluster with nobody but a controller in it."""

    kube: FakeKube
    clock: FakeClock
    store: MemoryStore
    builder: FakeBuilder
    controller: Reconciler
    tasks: list[asyncio.Task[None]]
    interval: float = 0.0
    """Between two writes of a progress."""
    configuration: str = ""
    """Version of what is configured about registries."""
    limits: Limits = field(default_factory=Limits)

    def start(self) -> None:
        """A controller begins, knowing nothing."""
        dependencies = Dependencies(
            kube=self.kube,
            builder=self.builder,
            store=self.store,
            clock=self.clock,
            architecture="amd64",
            builds=2,
            interval=self.interval,
            configuration=lambda: self.configuration,
            looks=PAUSE,
            limits=self.limits,
        )
        self.controller = Reconciler(dependencies)
        self.tasks = [asyncio.create_task(self.controller.run())]
        for resource in (IMAGE_CACHES, NODE_IMAGE_CACHES, NODES):
            self.tasks.append(asyncio.create_task(self._follow(resource, self.controller)))

    async def _follow(self, resource: Resource, controller: Reconciler) -> None:
        async for change in Informer(self.kube, resource).changes():
            controller.take(resource, change.object, gone=change.kind is ChangeKind.DELETED)

    async def kill(self) -> None:
        """The controller ends, whatever it is doing."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def create(self, item: Object) -> Object:
        return await self.kube.create(IMAGE_CACHES, item)

    async def get(self, name: str = "a") -> ImageCache:
        return stored(await self.kube.get(IMAGE_CACHES, name)).cache

    async def status(self, name: str = "a") -> Status:
        status = (await self.get(name)).status
        assert status is not None
        return status

    async def until(self, condition: Callable[[Status], bool], name: str = "a") -> Status:
        """The status once it is so."""
        found: Status | None = None

        async def so() -> bool:
            nonlocal found
            found = (await self.get(name)).status
            return found is not None and condition(found)

        await eventually(so, lambda: found)
        assert found is not None
        return found

    async def phase(self, phase: Phase, name: str = "a") -> Status:
        return await self.until(lambda status: status.phase is phase, name)

    async def gone(self, name: str = "a") -> None:
        async def so() -> bool:
            try:
                await self.kube.get(IMAGE_CACHES, name)
            except ObjectNotFound:
                return True
            return False

        await eventually(so, lambda: name)

    async def node(self, name: str, *caches: JSON, labels: dict[str, JSON] | None = None) -> None:
        """A node whose agent says this."""
        await self.kube.create(NODES, {"metadata": {"name": name, "labels": labels or {}}})
        await self.kube.create(NODE_IMAGE_CACHES, {"metadata": {"name": name}})
        await self.report(name, *caches)

    async def report(self, name: str, *caches: JSON) -> None:
        patch: Object = {"status": {"mode": "proxy", "caches": list(caches)}}
        await self.kube.patch(NODE_IMAGE_CACHES, name, patch, subresource="status")

    async def secret(self, name: str, word: str) -> None:
        await self.kube.create(SECRETS, secret(name, word), namespace="default")

    async def events(self) -> list[tuple[str, str]]:
        found = (await self.kube.list(EVENTS)).items
        order = sorted(found, key=lambda item: int(objects.resource_version(item)))
        return [(objects.text(item, "reason"), objects.text(item, "involvedObject", "name")) for item in order]


async def eventually(condition: Callable[[], object], shown: Callable[[], object]) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _SECONDS
    while loop.time() < deadline:
        answer = condition()
        if asyncio.iscoroutine(answer):
            answer = await answer
        if answer:
            return
        await asyncio.sleep(0.002)
    raise AssertionError(f"it never was; last seen: {shown()}")


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    clock, store = FakeClock(), MemoryStore()
    kube, builder = FakeKube(clock), FakeBuilder(store, clock=clock)
    dependencies = Dependencies(kube=kube, builder=builder, store=store, clock=clock, architecture="amd64")
    bench = Bench(kube, clock, store, builder, Reconciler(dependencies), [])
    yield bench
    await bench.kill()
