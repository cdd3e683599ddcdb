"""Who is told why a build has failed, and how often: who waits for the cache, and the pod that it was made for."""

from __future__ import annotations

from imagecache.api.types import Phase
from imagecache.kube import objects
from imagecache.kube.resources import EVENTS, IMAGE_CACHES
from imagecache.match.events import AUTO_CREATE_FAILED, AUTO_CREATED, FAILED, MISSED, NOT_COMPLETE
from imagecache.match.keys import CREATE

from .bench import Bench


async def test_a_build_that_fails_is_told_to_the_pod(bench: Bench) -> None:
    bench.start()
    await bench.pod("first", node="node-1", annotations={CREATE: "true"})
    await bench.until_told(MISSED, AUTO_CREATED, name="first")
    made = objects.name((await bench.kube.list(IMAGE_CACHES)).items[0])
    await bench.set_phase(made, Phase.FAILED)
    await bench.until_told(MISSED, AUTO_CREATED, AUTO_CREATE_FAILED, name="first")
    text = "[eci.imagecache]Image cache auto create failed for ImageNotFound: no such tag"
    assert text in await bench.messages("first")
    await bench.pod("second", node="node-1", annotations={CREATE: "true"})
    await bench.until_told(MISSED, name="second")
    await bench.controllers[0].kill()
    bench.start()
    await bench.settled()

    assert len((await bench.kube.list(IMAGE_CACHES)).items) == 1, "it keeps its name, so nothing is tried again"
    assert len(await bench.told("first")) == 3


async def test_a_build_that_fails_an_hour_later_is_told_to_nobody(bench: Bench) -> None:
    """The pod runs, and a restart would take what the API server has forgotten for news."""
    bench.start()
    await bench.pod("first", annotations={CREATE: "true"})
    await bench.bind("first")
    await bench.until_told(MISSED, AUTO_CREATED, name="first")
    await bench.run("first")
    made = objects.name((await bench.kube.list(IMAGE_CACHES)).items[0])
    await bench.pass_time(hours=1)
    await bench.set_phase(made, Phase.FAILED)
    await bench.settled()

    assert await bench.told("first") == [MISSED, AUTO_CREATED]


async def test_a_failed_build_is_told_once_to_every_pod_that_waits(bench: Bench) -> None:
    bench.start()
    await bench.cache(phase=Phase.CREATING)
    for name in ("a", "b"):
        await bench.pod(name, pin="app")
        await bench.until_told(NOT_COMPLETE, name=name)
    await bench.set_phase("app", Phase.FAILED)
    for name in ("a", "b"):
        await bench.until_told(NOT_COMPLETE, FAILED, name=name)
    text = "[eci.imagecache]The production for specified image cache app has failed: ImageNotFound: no such tag"
    assert text in await bench.messages("a")
    await bench.set_phase("app", Phase.CREATING)
    await bench.set_phase("app", Phase.FAILED)
    await bench.settled()
    await bench.controllers[0].kill()
    bench.start()
    await bench.settled()

    assert [await bench.told(name) for name in ("a", "b")] == [[NOT_COMPLETE, FAILED]] * 2


async def test_a_failure_of_long_ago_is_not_news_to_the_next_leader(bench: Bench) -> None:
    bench.start()
    await bench.pod("first", node="node-1", annotations={CREATE: "true"})
    await bench.pod("waits", pin="app")
    await bench.cache(phase=Phase.FAILED)
    await bench.until_told(MISSED, AUTO_CREATED, name="first")
    (made,) = {objects.name(each) for each in (await bench.kube.list(IMAGE_CACHES)).items} - {"app"}
    await bench.set_phase(made, Phase.FAILED)
    await bench.until_told(MISSED, AUTO_CREATED, AUTO_CREATE_FAILED, name="first")
    await bench.controllers[0].kill()
    for event in (await bench.kube.list(EVENTS)).items:  # as the API server does after an hour
        await bench.kube.delete(EVENTS, objects.name(event), namespace="default")
    bench.clock.advance(hours=2)
    bench.start()
    await bench.settled()

    assert FAILED not in await bench.told("waits")
    assert AUTO_CREATE_FAILED not in await bench.told("first")
