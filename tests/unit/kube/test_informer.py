"""The informer of ``kube``: it reports every change, writes nothing and survives an absent API server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from structlog.testing import capture_logs

from imagecache.backoff import Backoff
from imagecache.errors import KubernetesUnavailable
from imagecache.kube import objects
from imagecache.kube.api import Change, ChangeKind, Object
from imagecache.kube.client import KubeClient
from imagecache.kube.connection import Connection
from imagecache.kube.informer import Informer
from imagecache.kube.resources import IMAGE_CACHES, NODES, Resource
from testkit.kube import FakeKube
from testkit.kube_server import KubeServer

TOKEN = "t0ken"  # noqa: S105 - it is the one that the fake wants
BACKOFF = Backoff(0.001, 0.001)


def image_cache(name: str) -> Object:
    return {"metadata": {"name": name}, "spec": {"images": ["nginx:1.25"]}}


@dataclass
class Watched:
    """What an informer has reported so far: names, and whether the object is gone."""

    informer: Informer
    changes: list[tuple[str, bool]] = field(default_factory=list)

    async def until(self, *expected: tuple[str, bool]) -> None:
        async with asyncio.timeout(10):
            while self.changes != list(expected):  # noqa: ASYNC110 - a list has no event
                await asyncio.sleep(0.005)

    async def run(self) -> None:
        async for change in self.informer.changes():
            self.changes.append((objects.name(change.object), change.kind is ChangeKind.DELETED))


@asynccontextmanager
async def watched(informer: Informer) -> AsyncIterator[Watched]:
    found = Watched(informer)
    task = asyncio.create_task(found.run())
    try:
        yield found
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_every_change_is_reported_and_nothing_is_written(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    async with KubeServer(FakeKube(), token=TOKEN) as server:
        await server.kube.create(IMAGE_CACHES, image_cache("before"))
        async with (
            KubeClient(Connection(server.url, token_file=token)) as client,
            watched(Informer(client, IMAGE_CACHES)) as found,
        ):
            await found.until(("before", False))
            await server.kube.create(IMAGE_CACHES, image_cache("after"))
            await found.until(("before", False), ("after", False))
            await server.kube.delete(IMAGE_CACHES, "before")
            await found.until(("before", False), ("after", False), ("before", True))
        left = await server.kube.get(IMAGE_CACHES, "after")

    path = "GET /apis/eci.alibabacloud.com/v1/imagecaches?"
    assert [line for line in server.requests if not line.startswith(path)] == [], "list and watch of one kind alone"
    assert objects.at(left, "metadata", "finalizers") is None
    assert objects.texts(left, "metadata", "annotations") == {}


async def test_it_begins_when_the_api_server_comes() -> None:
    kube = FakeKube()
    await kube.create(IMAGE_CACHES, image_cache("a"))
    async with (
        KubeServer(kube) as server,
        KubeClient(Connection("http://127.0.0.1:1")) as client,
        watched(Informer(client, IMAGE_CACHES, backoff=BACKOFF)) as found,
    ):
        await asyncio.sleep(0.02)
        assert not found.informer.synced.is_set()
        client._connection = Connection(server.url)
        await found.until(("a", False))
        assert found.informer.synced.is_set()


async def test_what_it_knows_stays_while_the_api_server_is_away() -> None:
    """The problem is logged once, however often it is tried again, and again when it comes back."""
    kube = FakeKube()
    await kube.create(NODES, {"metadata": {"name": "a"}})
    asked = 0

    def away(*_: object) -> KubernetesUnavailable:
        nonlocal asked
        asked += 1
        return KubernetesUnavailable("the API server does not answer")

    async def tries(count: int) -> None:
        before = asked
        await kube.compact()  # ends the watch
        async with asyncio.timeout(10):
            while asked < before + count:  # noqa: ASYNC110 - a number has no event
                await asyncio.sleep(0.001)

    with capture_logs() as logs:
        async with watched(Informer(kube, NODES, backoff=BACKOFF)) as found:
            await found.until(("a", False))
            kube.failure = away
            await tries(5)
            assert found.informer.names == {"a"}
            assert found.changes == [("a", False)], "nothing is reported as gone"
            assert len(logs) == 1
            kube.failure = lambda *_: None
            await kube.create(NODES, {"metadata": {"name": "b"}})
            await found.until(("a", False), ("b", False))
            kube.failure = away
            await tries(2)
    assert [(line["event"], line["resource"], line["problem"]) for line in logs] == [
        ("will try again", "nodes", "the API server does not answer")
    ] * 2


async def test_it_goes_on_after_the_past_was_forgotten() -> None:
    """What vanished meanwhile is reported as gone."""
    kube = FakeKube()
    for name in ("a", "b"):
        await kube.create(NODES, {"metadata": {"name": name}})
    changes = Informer(kube, NODES, backoff=BACKOFF).changes()
    assert [objects.name((await anext(changes)).object) for _ in range(2)] == ["a", "b"]
    down = True
    kube.failure = lambda *_: KubernetesUnavailable("down") if down else None
    await kube.compact()
    waiting = asyncio.ensure_future(anext(changes))
    down = False
    await kube.delete(NODES, "a")
    await kube.patch(NODES, "b", {"metadata": {"labels": {"x": "y"}}})
    await kube.create(NODES, {"metadata": {"name": "c"}})
    await kube.compact()
    seen = [await waiting, await anext(changes), await anext(changes)]

    assert [(change.kind.value, objects.name(change.object)) for change in seen] == [
        ("DELETED", "a"),
        ("MODIFIED", "b"),
        ("ADDED", "c"),
    ]
    await changes.aclose()


class Closing(FakeKube):
    """An API server that ends every watch at once, with nothing to report."""

    watches = 0

    async def watch(
        self, resource: Resource, *, resource_version: str, namespace: str = "", labels: str = "", fields: str = ""
    ) -> AsyncIterator[Change]:
        del resource, resource_version, namespace, labels, fields
        self.watches += 1
        for change in list[Change]():
            yield change


async def test_a_server_that_ends_each_watch_at_once_is_not_asked_without_a_pause() -> None:
    kube = Closing()
    async with watched(Informer(kube, NODES, backoff=Backoff(0.05, 0.05))):
        await asyncio.sleep(0.2)
    assert 1 <= kube.watches <= 5
