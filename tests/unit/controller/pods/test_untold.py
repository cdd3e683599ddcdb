"""A controller that is killed between doing something and telling it: the next one tells it, once."""

from __future__ import annotations

import asyncio

import pytest

from imagecache.errors import KubernetesError, KubernetesUnavailable
from imagecache.kube import objects
from imagecache.kube.api import Object
from imagecache.kube.resources import EVENTS, IMAGE_CACHES, PODS, Resource
from imagecache.match.events import AUTO_CREATED, HIT, MISSED
from imagecache.match.keys import AUTO, CREATE, MATCHED

from .bench import Bench, Controller, eventually


def killed_at(bench: Bench, controller: Controller, events: int) -> asyncio.Event:
    """The controller ends as it posts so many events and one more, which is not posted."""
    done = asyncio.Event()

    def failure(verb: str, resource: Resource, _name: str) -> KubernetesError | None:
        if (verb, resource) != ("create", EVENTS) or bench.count("create", EVENTS) <= events:
            return None
        for task in controller.tasks:
            task.cancel()
        done.set()
        return KubernetesUnavailable("killed")

    bench.kube.failure = failure
    return done


async def another(bench: Bench, killed: asyncio.Event) -> None:
    """The next one leads, when the last has been killed."""
    async with asyncio.timeout(10):
        await killed.wait()
    await bench.controllers[-1].kill()
    bench.kube.failure = lambda _verb, _resource, _name: None
    for pod in (await bench.kube.list(PODS)).items:
        await bench.run(objects.name(pod))  # meanwhile they start
    bench.start()


async def test_a_pod_that_was_annotated_and_let_go(bench: Bench) -> None:
    killed = killed_at(bench, bench.start(), 0)
    cache_id = await bench.cache()
    await bench.pod(pin="app")
    await bench.until_free("web")
    await bench.bind()
    await another(bench, killed)
    await bench.until_told(HIT)
    await bench.controllers[-1].kill()
    bench.start()
    await bench.settled()

    assert await bench.matched() == cache_id
    assert await bench.told() == [HIT]


async def test_a_pod_that_was_annotated_when_it_had_its_node(bench: Bench) -> None:
    killed = killed_at(bench, bench.start(), 0)
    await bench.cache()
    await bench.pod(annotations={AUTO: "true"})
    await bench.bind()
    await another(bench, killed)

    await bench.until_told(HIT)
    assert bench.count("patch", PODS) == 3, "annotated once, and two are the test's own"


async def test_a_miss(bench: Bench) -> None:
    killed = killed_at(bench, bench.start(), 0)
    await bench.pod(annotations={AUTO: "true"})
    await bench.bind()
    await another(bench, killed)

    await bench.until_told(MISSED)


async def test_a_cache_that_was_made(bench: Bench) -> None:
    killed = killed_at(bench, bench.start(), 1)
    await bench.pod(annotations={CREATE: "true"})
    await bench.bind()
    await another(bench, killed)
    await bench.until_told(MISSED, AUTO_CREATED)
    await bench.settled()

    assert len((await bench.kube.list(IMAGE_CACHES)).items) == 1


async def test_of_a_thousand_old_pods_nothing_is_asked(bench: Bench) -> None:
    """Their events are there, or were forgotten by the API server."""
    cache_id = await bench.cache()
    for number in range(1000):
        name = f"web-{number}"
        await bench.pod(name, annotations={AUTO: "true", MATCHED: cache_id})
        await bench.bind(name)
        await bench.run(name)
    bench.clock.advance(600)
    controller = bench.start()
    await eventually(controller.pods._stream.synced.is_set, "pods to be followed")
    await asyncio.sleep(0.5)

    assert bench.count("create", EVENTS) == 0


@pytest.mark.parametrize(
    ("annotations", "cached", "told"),
    [
        ({AUTO: "true", MATCHED: "<id>"}, True, [HIT]),
        ({AUTO: "true", MATCHED: "imc-copied"}, True, []),  # it started while nobody led
        ({AUTO: "true"}, True, []),  # the cache may have come since then
        ({AUTO: "true"}, False, [MISSED]),
        ({AUTO: "true", MATCHED: "imc-gone"}, False, []),  # it was a hit then
        ({}, False, []),
        ({MATCHED: "<id>"}, True, []),  # nobody has asked
    ],
)
async def test_only_what_is_as_it_was_then_is_told(
    bench: Bench, annotations: dict[str, str], told: list[str], *, cached: bool
) -> None:
    cache_id = await bench.cache() if cached else ""
    said: Object = {key: text.replace("<id>", cache_id) for key, text in annotations.items()}
    await bench.pod(annotations=said)
    await bench.bind()
    await bench.run()
    bench.clock.advance(599)
    await bench.pod("last", annotations={AUTO: "true"}, containers=[{"name": "a", "image": "redis:7"}])
    await bench.bind("last")
    await bench.run("last")
    bench.start()
    await bench.until_told(MISSED, name="last")
    await asyncio.sleep(0.3)

    assert await bench.told() == told
    assert bench.count("patch", PODS) == 4, "those of the test: what runs is not written on"


async def test_copies_of_static_pods_are_never_told(bench: Bench) -> None:
    await bench.pod(annotations={AUTO: "true", "kubernetes.io/config.mirror": "x"})
    await bench.bind()
    await bench.run()
    bench.start()
    await asyncio.sleep(0.3)

    assert await bench.told() == []
