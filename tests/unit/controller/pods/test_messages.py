"""Events on pods: how many, in which order, what becomes of those that cannot be posted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from imagecache.controller.pods.decide import Tell, event_name
from imagecache.controller.pods.messages import Bucket, Subject, Teller
from imagecache.errors import KubernetesDenied, KubernetesError, KubernetesUnavailable
from imagecache.kube import objects
from imagecache.kube.api import Object
from imagecache.kube.resources import EVENTS
from imagecache.match.views import Told
from testkit.clock import FakeClock
from testkit.kube import FakeKube

from .bench import eventually

SUBJECT = Subject("default", "web", "uid")


def tell(message: str, *, kind: str = "Normal") -> Tell:
    told = Told("SuccessfulHitImageCache", kind, message)
    return Tell(told, event_name("web", "uid", told))


class Telling:
    def __init__(self, burst: int = 100) -> None:
        self.kube, self.clock, self.dropped = FakeKube(), FakeClock(), 0
        self.teller = Teller(self.kube, self.clock, self.drop, burst=burst)

    def drop(self) -> None:
        self.dropped += 1

    async def posted(self) -> list[Object]:
        events = (await self.kube.list(EVENTS)).items
        return sorted(events, key=lambda item: int(objects.resource_version(item)))


@pytest_asyncio.fixture
async def running() -> AsyncIterator[Telling]:
    """Room for two at once."""
    telling = Telling(burst=2)
    task = asyncio.create_task(telling.teller.run())
    yield telling
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_a_bucket_gives_so_many_a_second() -> None:
    clock = FakeClock()
    bucket = Bucket(clock, 20, 3)

    assert [bucket.take() for _ in range(3)] == [0, 0, 0]
    assert bucket.take() == pytest.approx(0.05)
    clock.advance(0.06)
    assert bucket.take() == 0
    assert bucket.take() > 0
    clock.advance(3600)
    assert [bucket.take() for _ in range(3)] == [0, 0, 0]
    assert bucket.take() > 0, "a long quiet time saves no more than that"


async def test_an_event_is_one_of_core() -> None:
    telling = Telling()
    await telling.teller.tell(SUBJECT, tell("x" * 3000))
    (event,) = await telling.posted()

    assert event["involvedObject"] == {
        "apiVersion": "v1",
        "kind": "Pod",
        "name": "web",
        "namespace": "default",
        "uid": "uid",
    }
    assert objects.text(event, "source", "component") == "imagecache-controller"
    assert (event["type"], event["reason"], event["count"]) == ("Normal", "SuccessfulHitImageCache", 1)
    assert event["firstTimestamp"] == event["lastTimestamp"] == "2024-05-01T12:00:00Z"
    assert len(objects.text(event, "message")) == 1024


async def test_what_was_told_is_not_told_again() -> None:
    telling = Telling()
    for _ in range(3):
        await telling.teller.tell(SUBJECT, tell("hit"))

    assert len(await telling.posted()) == 1


async def test_the_others_have_their_turn_later(running: Telling) -> None:
    for number in range(4):
        await running.teller.tell(SUBJECT, tell(str(number)))
    assert len(await running.posted()) == 2, "nobody waits for the rest"
    running.clock.advance(1)

    async def all_there() -> bool:
        return len(await running.posted()) == 4

    await eventually(all_there, "all to be posted")
    assert [objects.text(item, "message") for item in await running.posted()] == ["0", "1", "2", "3"]
    assert running.dropped == 0


async def test_too_many_are_dropped_and_counted() -> None:
    telling = Telling(burst=1)
    for number in range(1011):
        await telling.teller.tell(SUBJECT, tell(str(number)))

    assert (len(await telling.posted()), telling.dropped) == (1, 10)


@pytest.mark.parametrize("error", [KubernetesUnavailable("busy"), KubernetesDenied("events is forbidden")])
async def test_one_that_cannot_be_posted(running: Telling, error: KubernetesError) -> None:
    """Who may not write events is not told so a hundred times; who can tell later tries again."""
    left = [error]
    running.kube.failure = lambda *_: left.pop() if left else None
    if isinstance(error, KubernetesUnavailable):
        with pytest.raises(KubernetesUnavailable):
            await running.teller.tell(SUBJECT, tell("hit"))
        await running.teller.tell(SUBJECT, tell("hit"))
        assert len(await running.posted()) == 1
    else:
        await running.teller.tell(SUBJECT, tell("hit"))
        assert await running.posted() == []


async def test_one_that_waits_is_tried_again(running: Telling) -> None:
    for number in range(2):
        await running.teller.tell(SUBJECT, tell(str(number)))
    left = [KubernetesUnavailable("busy")]
    running.kube.failure = lambda verb, *_: left.pop() if left and verb == "create" else None
    await running.teller.tell(SUBJECT, tell("2"))
    running.clock.advance(1)

    async def all_there() -> bool:
        return len(await running.posted()) == 3

    await eventually(all_there, "the third to be posted")
