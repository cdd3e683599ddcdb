"""The stream of ``kube``: pages, bookmarks, a past that was forgotten, a server that restarts; nothing is kept."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import pytest
from structlog.testing import capture_logs

from imagecache.backoff import Backoff
from imagecache.errors import KubernetesError, KubernetesUnavailable, WatchExpired
from imagecache.kube import objects
from imagecache.kube.api import Object
from imagecache.kube.client import KubeClient
from imagecache.kube.connection import Connection
from imagecache.kube.resources import PODS, Resource
from imagecache.kube.stream import Gone, ListBegun, ListEnded, Seen, Stream, pages
from testkit.kube import FakeKube
from testkit.kube_server import KubeServer

PENDING = "status.phase=Pending"


class Metadata(msgspec.Struct, rename="camel"):
    name: str = ""
    resource_version: str = ""


class Container(msgspec.Struct):
    image: str


class Spec(msgspec.Struct):
    containers: list[Container]


class Pod(msgspec.Struct, weakref=True):
    """As strict as a caller's may be."""

    metadata: Metadata
    spec: Spec

    @property
    def resource_version(self) -> str:
        return self.metadata.resource_version


DECODER = msgspec.json.Decoder(Pod)


async def create(kube: FakeKube, name: str, image: object = "nginx:1.25") -> None:
    item: Object = json.loads(json.dumps({"metadata": {"name": name}, "spec": {"containers": [{"image": image}]}}))
    await kube.create(PODS, item, namespace="default")


async def run(kube: FakeKube, name: str) -> None:
    await kube.patch(PODS, name, {"status": {"phase": "Running"}}, namespace="default")


@dataclass
class Read:
    """What a stream has said so far, as words."""

    stream: Stream[Pod]
    words: list[str] = field(default_factory=list)

    async def until(self, *expected: str) -> None:
        async with asyncio.timeout(10):
            while self.words != list(expected):  # noqa: ASYNC110 - a list has no event
                await asyncio.sleep(0.005)

    async def run(self) -> None:
        async for news in self.stream.news():
            match news:
                case ListBegun():
                    self.words.append("list")
                case ListEnded():
                    self.words.append("end")
                case Seen(object=pod):
                    self.words.append(pod.metadata.name)
                case Gone(object=pod):
                    self.words.append(f"-{pod.metadata.name}")


@asynccontextmanager
async def read(stream: Stream[Pod]) -> AsyncIterator[Read]:
    found = Read(stream)
    task = asyncio.create_task(found.run())
    try:
        yield found
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def stream(kube: FakeKube | KubeClient) -> Stream[Pod]:
    return Stream(kube, PODS, DECODER, fields=PENDING, backoff=Backoff(0.001, 0.01))


async def test_a_list_comes_in_pages_and_the_watch_goes_on_from_it() -> None:
    kube = FakeKube(page_size=2)
    for name in "abcde":
        await create(kube, name)
    await run(kube, "b")
    async with read(stream(kube)) as found:
        await found.until("list", "a", "c", "d", "e", "end")
        assert found.stream.synced.is_set()
        await create(kube, "f")
        await run(kube, "c")
        await kube.delete(PODS, "d", namespace="default")
        await found.until("list", "a", "c", "d", "e", "end", "f", "-c", "-d")

    assert [verb for verb, *_ in kube.calls].count("list") == 2, "four pods, two a page"


async def test_a_bookmark_is_no_object_and_is_gone_on_from() -> None:
    """Its ``spec.containers`` is null, which a strict decoder refuses."""
    async with KubeServer(FakeKube()) as server, KubeClient(Connection(server.url)) as client:
        kube = server.kube
        await create(kube, "a")
        with capture_logs() as logs:
            async with read(stream(client)) as found:
                await found.until("list", "a", "end")
                await kube.bookmark()
                await create(kube, "b")
                await found.until("list", "a", "end", "b")
                assert found.stream._version == objects.resource_version(await kube.get(PODS, "b", namespace="default"))
                await kube.bookmark()
                async with asyncio.timeout(10):
                    while found.stream._version != str(kube._version):  # noqa: ASYNC110 - a text has no event
                        await asyncio.sleep(0.005)
        assert logs == []


async def test_it_lists_again_when_the_past_was_forgotten() -> None:
    """What vanished meanwhile is not in the list; who remembers it forgets it."""
    kube = FakeKube()
    for name in ("a", "b"):
        await create(kube, name)
    async with read(stream(kube)) as found:
        await found.until("list", "a", "b", "end")
        kube._objects.pop((PODS.qualified, "default", "a"))
        await kube.compact()
        await found.until("list", "a", "b", "end", "list", "b", "end")
        await create(kube, "c")
        await found.until("list", "a", "b", "end", "list", "b", "end", "c")


async def test_a_list_whose_pages_are_too_old_begins_anew() -> None:
    kube = FakeKube(page_size=1)
    for name in ("a", "b"):
        await create(kube, name)
    listed = 0

    def failure(verb: str, _resource: Resource, _name: str) -> KubernetesError | None:
        nonlocal listed
        listed += verb == "list"
        return WatchExpired("the continue parameter is too old") if verb == "list" and listed == 2 else None

    kube.failure = failure
    async with read(stream(kube)) as found:
        await found.until("list", "a", "list", "a", "b", "end")


async def test_it_goes_on_where_it_was_when_the_server_restarts() -> None:
    kube = FakeKube()
    await create(kube, "a")
    async with KubeClient(Connection("http://127.0.0.1:1")) as client, AsyncExitStack() as stack:
        first = await stack.enter_async_context(KubeServer(kube))
        client._connection = Connection(first.url)
        async with read(stream(client)) as found:
            await found.until("list", "a", "end")
            await stack.aclose()
            await create(kube, "b")
            async with KubeServer(kube) as second:
                client._connection = Connection(second.url)
                await found.until("list", "a", "end", "b")
                assert [line.partition("?")[0] for line in second.requests] == ["GET /api/v1/pods"]
                assert "watch=1" in second.requests[0], "nothing is listed again"


async def test_a_server_that_is_away_is_asked_again_and_logged_once() -> None:
    kube = FakeKube()
    await create(kube, "a")
    away, asked = True, 0

    def failure(*_: object) -> KubernetesError | None:
        nonlocal asked
        asked += 1
        return KubernetesUnavailable("starting") if away else None

    kube.failure = failure
    with capture_logs() as logs:
        async with read(stream(kube)) as found:
            async with asyncio.timeout(10):
                while asked < 5:  # noqa: ASYNC110 - a number has no event
                    await asyncio.sleep(0.001)
            assert (found.words, found.stream.synced.is_set()) == ([], False)
            away = False
            await found.until("list", "a", "end")
    assert [(line["event"], line["resource"]) for line in logs] == [("will try again", "pods")]


async def test_an_object_that_cannot_be_read_hides_no_other() -> None:
    kube = FakeKube()
    await create(kube, "a", image=1)
    await create(kube, "b")
    with capture_logs() as logs:
        async with read(stream(kube)) as found:
            await found.until("list", "b", "end")
            await create(kube, "c", image=2)
            await create(kube, "d")
            await found.until("list", "b", "end", "d")
    assert [line["event"] for line in logs] == ["object not understood, left out"] * 2


async def test_nothing_is_kept() -> None:
    kube = FakeKube(page_size=50)
    for number in range(500):
        await create(kube, f"pod-{number}")
    source, seen = stream(kube), list[weakref.ref[Pod]]()

    async def follow() -> None:
        async for news in source.news():
            if isinstance(news, Seen):
                seen.append(weakref.ref(news.object))

    task = asyncio.create_task(follow())
    await source.synced.wait()
    await asyncio.sleep(0)
    gc.collect()

    assert len(seen) == 500
    assert [each() for each in seen if each() is not None] == []
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("line", [b"nonsense", b'{"type": "SHOUTED", "object": {}}', b'{"type": "ADDED"}', b"[]"])
async def test_a_watch_that_tells_nonsense_is_begun_again(line: bytes) -> None:
    class Odd(FakeKube):
        begun = 0

        async def lines(
            self, resource: Resource, *, resource_version: str, namespace: str = "", fields: str = ""
        ) -> AsyncIterator[bytes]:
            del resource, resource_version, namespace, fields
            self.begun += 1
            yield line

    kube = Odd()
    with capture_logs():
        async with read(stream(kube)) as found:
            async with asyncio.timeout(10):
                while kube.begun < 3:  # noqa: ASYNC110 - a number has no event
                    await asyncio.sleep(0.001)
    assert found.words == ["list", "end"], "the list was good"


async def test_pages_are_all_that_a_pass_needs() -> None:
    kube = FakeKube(page_size=2)
    for name in "abc":
        await create(kube, name)
    found = [[pod.metadata.name for pod in page.objects] async for page in pages(kube, PODS, DECODER, fields=PENDING)]

    assert found == [["a", "b"], ["c"]]
