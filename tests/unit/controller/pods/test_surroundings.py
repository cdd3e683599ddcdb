"""What pods are matched with: the index of caches, and the defaults around pods."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio

from imagecache.api.ids import derived_cache_id
from imagecache.api.types import Phase
from imagecache.api.yamltext import JSON
from imagecache.controller.informer_cache import InformerCache
from imagecache.controller.pods.caches import Caches, Change
from imagecache.controller.pods.defaults import DefaultsWatcher
from imagecache.errors import KubernetesDenied
from imagecache.kube import objects
from imagecache.kube.api import Object
from imagecache.kube.resources import CONFIG_MAPS, IMAGE_CACHES, NAMESPACES, NODE_IMAGE_CACHES, NODES, PODS
from imagecache.match.events import HIT, MISSED, NOT_COMPLETE
from imagecache.match.keys import AUTO, CREATE, GATE, MATCHED, PIN
from testkit.kube import FakeKube
from tests.unit.match.documents import image_cache, report

from .bench import DIGEST, IMAGE, Bench, Controller, eventually

# caches


async def test_the_index_follows_caches_and_nodes(bench: Bench) -> None:
    await bench.node("node-2")
    controller = bench.start()
    await bench.cache(phase=Phase.CREATING)
    await until(controller, "app", Phase.CREATING, set())
    cache_id = await bench.set_phase("app", Phase.READY, desired=2)
    await until(controller, "app", Phase.READY, set())
    await bench.report("node-1", "app", cache_id)
    await bench.report("node-2", "app", cache_id)
    await until(controller, "app", Phase.READY, {"node-1", "node-2"})
    assert controller.pods.caches.index.caches["app"].desired == 2
    await bench.kube.patch(NODE_IMAGE_CACHES, "node-2", {"status": {"caches": []}}, subresource="status")
    await until(controller, "app", Phase.READY, {"node-1"})
    await bench.kube.delete(NODES, "node-1")
    await until(controller, "app", Phase.READY, set())
    await bench.kube.delete(IMAGE_CACHES, "app")
    await eventually(lambda: not controller.pods.caches.index.caches, "it to be gone")


async def until(controller: Controller, name: str, phase: Phase, nodes: set[str]) -> None:
    def so() -> bool:
        found = controller.pods.caches.index.caches.get(name)
        return found is not None and (found.phase, set(found.nodes)) == (phase, nodes)

    await eventually(so, f"{name} to be {phase.value} on {sorted(nodes)}")


async def test_what_no_pod_sees_makes_no_index(bench: Bench) -> None:
    """A build that proceeds, a node that reports what it has fetched."""
    controller = bench.start()
    cache_id = await bench.cache(phase=Phase.CREATING)
    await until(controller, "app", Phase.CREATING, set())
    before = controller.pods.caches.index
    await bench.kube.patch(IMAGE_CACHES, "app", {"status": {"progress": "70%"}}, subresource="status")
    entry: Object = {"name": "app", "id": cache_id, "state": "Fetching", "bytesDone": 5}
    await bench.kube.patch(NODE_IMAGE_CACHES, "node-1", {"status": {"caches": [entry]}}, subresource="status")
    await asyncio.sleep(0.3)

    assert controller.pods.caches.index is before


async def test_a_large_index_is_made_beside_the_event_loop() -> None:
    informers, told = InformerCache(), list[Change]()
    found = Caches(informers, told.append, large=1)
    for name in ("a", "b"):
        item: Object = {"metadata": {"name": name, "uid": name}, "spec": {"images": ["nginx:1.25"]}}
        found.take(IMAGE_CACHES, informers.take(IMAGE_CACHES, item, gone=False))
    await found.refresh()
    await found.refresh()

    assert set(found.index.caches) == {"a", "b"}
    assert told == [Change(frozenset({"a", "b"}), frozenset(), appeared=True)]


async def test_at_an_updates_switch_nodes_still_have_the_earlier_content(bench: Bench) -> None:
    """Until they have the new one: what is matched there is a hit, and nothing is pulled."""
    controller = bench.start()
    newer: Object = {"status": {"imageCacheId": await id_after(bench, await bench.cache())}}
    await bench.settled()
    await bench.kube.patch(IMAGE_CACHES, "app", newer, subresource="status")
    await eventually(lambda: not controller.pods.caches.index.caches["app"].nodes, "the switch to be seen")

    await bench.pod("on", node="node-1", annotations={AUTO: "true"})
    await bench.pod("off", node="node-2", annotations={AUTO: "true"})
    await bench.pod("pinned", pin="app")

    await bench.until_told(HIT, name="on")
    await bench.until_told(MISSED, name="off")
    assert await bench.gates("pinned") == [GATE]


async def id_after(bench: Bench, cache_id: str) -> str:
    """Of the next bundle of the same cache."""
    return derived_cache_id(objects.uid(await bench.kube.get(IMAGE_CACHES, "app")), cache_id)


async def test_an_earlier_content_that_lacks_an_image_is_nobodys_hit(bench: Bench) -> None:
    controller = bench.start()
    newer = await id_after(bench, await bench.cache())
    await bench.settled()
    images: list[JSON] = [{"image": each, "platform": "linux/amd64", "digest": DIGEST} for each in (IMAGE, "redis:7")]
    switched: Object = {"status": {"imageCacheId": newer, "images": images}}
    await bench.kube.patch(IMAGE_CACHES, "app", switched, subresource="status")
    await eventually(lambda: not controller.pods.caches.index.caches["app"].nodes, "the switch to be seen")

    await bench.pod(node="node-1", annotations={AUTO: "true"})

    await bench.until_told(MISSED)


async def test_a_cache_that_held_pods_wait_for_counts_as_used(bench: Bench) -> None:
    controller = bench.start()
    await bench.cache(phase=Phase.CREATING)
    await bench.cache("other", phase=Phase.CREATING)
    await bench.pod(pin="app")
    await bench.until_told(NOT_COMPLETE)

    controller.pods._in_use.look_at_waiting()

    assert controller.used == ["app"]


async def test_what_has_spread_is_told_apart_from_what_has_changed() -> None:
    """Thousands of held pods are not looked at for each node that gets their cache."""
    informers, told = InformerCache(), list[Change]()
    found = Caches(informers, told.append)

    async def show(ready: int, desired: int) -> None:
        item = image_cache("a", IMAGE, nodes=(ready, desired))
        found.take(IMAGE_CACHES, informers.take(IMAGE_CACHES, item, gone=False))
        await found.refresh()

    await show(1, 1)
    informers.take(NODES, {"metadata": {"name": "node-1"}}, gone=False)
    reported = report("node-1", image_cache("a", IMAGE))
    found.take(NODE_IMAGE_CACHES, informers.take(NODE_IMAGE_CACHES, reported, gone=False))
    await found.refresh()
    await show(1, 2)
    await show(2, 2)

    appeared, moved, wanted, counted = told
    only = frozenset({"a"})
    assert appeared == Change(only, frozenset(), appeared=True)
    assert wanted == Change(only, frozenset(), appeared=False), "a node more that it is for"
    assert moved == counted == Change(frozenset(), only, appeared=False)


# defaults


class Watching:
    def __init__(self, **settings: Any) -> None:
        self.kube = FakeKube()
        self.changed: list[str] = []
        self.watcher = DefaultsWatcher(self.kube, self.changed.append, **{"auto_create": False, **settings})

    async def namespace(self, name: str, **annotations: str) -> None:
        metadata: Object = {"name": name, "labels": {"team": name}, "annotations": dict(annotations)}
        await self.kube.create(NAMESPACES, {"metadata": metadata})

    async def profile(self, text: str) -> None:
        item: Object = {"metadata": {"name": "eci-profile"}, "data": {"selectors": text, "vSwitchIds": "x"}}
        await self.kube.create(CONFIG_MAPS, item, namespace="kube-system")


RULE = {
    "name": "r",
    "namespaceSelector": {"matchLabels": {"team": "a"}},
    "effect": {"annotations": {PIN: "app", "example.com/x": "1"}},
}


@pytest_asyncio.fixture
async def watching() -> AsyncIterator[Watching]:
    found = Watching()
    await found.kube.create(NAMESPACES, {"metadata": {"name": "a", "annotations": {AUTO: "false", MATCHED: "x"}}})
    task = asyncio.create_task(found.watcher.run())
    await found.watcher.ready()
    yield found
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_namespace_says_what_its_annotations_say(watching: Watching) -> None:
    assert watching.watcher.of("a").namespace_annotations == {AUTO: "false"}, "our keys, and no others"
    assert watching.watcher.of("b").namespace_annotations == {}
    await watching.namespace("b", **{PIN: "app"})
    await eventually(lambda: watching.watcher.of("b").namespace_annotations == {PIN: "app"}, "the new one")
    assert watching.watcher.of("b").namespace_labels == {"team": "b"}
    await watching.kube.patch(NAMESPACES, "b", {"metadata": {"annotations": {"example.com/a": "1"}}})
    await watching.kube.patch(NAMESPACES, "b", {"metadata": {"annotations": {PIN: None}}})
    await eventually(lambda: watching.watcher.of("b").namespace_annotations == {}, "the pin to be gone")
    await watching.kube.delete(NAMESPACES, "a")
    await eventually(lambda: watching.watcher.of("a").namespace_annotations == {}, "the other to be gone")

    assert watching.changed == ["a", "b", "b"], "another annotation concerns nobody"


async def test_a_namespace_that_vanishes_while_nobody_watches_says_nothing_more(watching: Watching) -> None:
    watching.kube._objects.pop((NAMESPACES.qualified, "", "a"))
    await watching.kube.compact()

    await eventually(lambda: watching.watcher.of("a").namespace_annotations == {}, "it to be forgotten")


async def test_rules_of_the_profile_come_and_go(watching: Watching) -> None:
    assert watching.watcher.of("a").rules == ()
    await watching.profile(json.dumps([RULE]))
    await eventually(lambda: watching.watcher.of("a").rules, "the rule")
    (rule,) = watching.watcher.of("a").rules
    assert (rule.name, rule.namespace_labels) == ("r", {"team": "a"})
    assert watching.watcher.of("new").rules == (rule,)
    await watching.kube.patch(CONFIG_MAPS, "eci-profile", {"data": {"selectors": "no JSON"}}, namespace="kube-system")
    await eventually(lambda: watching.watcher.of("a").rules == (), "the rule to be gone")
    await watching.kube.patch(
        CONFIG_MAPS, "eci-profile", {"data": {"selectors": json.dumps([RULE])}}, namespace="kube-system"
    )
    await eventually(lambda: watching.watcher.of("a").rules == (rule,), "the rule again")
    await watching.kube.delete(CONFIG_MAPS, "eci-profile", namespace="kube-system")
    await eventually(lambda: watching.watcher.of("a").rules == (), "none")

    assert watching.changed == ["a", "", "", "", ""]
    assert watching.watcher.of("a").namespace_annotations == {AUTO: "false"}


async def test_the_cluster_says_that_caches_are_made() -> None:
    assert Watching().watcher.of("a").cluster == {}
    assert Watching(auto_create=True).watcher.of("a").cluster == {CREATE: "true"}


async def test_who_may_not_read_the_profile_has_pods_all_the_same() -> None:
    watching = Watching(patience=0.01)
    watching.kube.failure = lambda _verb, resource, _name: (
        KubernetesDenied("configmaps is forbidden") if resource == CONFIG_MAPS else None
    )
    task = asyncio.create_task(watching.watcher.run())
    async with asyncio.timeout(10):
        await watching.watcher.ready()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


# caches that are in use


async def test_running_pods_keep_their_caches(bench: Bench) -> None:
    controller = bench.start()
    bench.kube.page_size = 2
    first, second = await bench.cache("first"), await bench.cache("second")
    await bench.cache("unused")
    for number, matched in enumerate([first, first, "imc-" + "0" * 20, "unused", second[:-8] + "earlier0", ""]):
        metadata: Object = {"name": f"web-{number}", "annotations": {MATCHED: matched} if matched else {}}
        item: Object = {"metadata": metadata, "spec": {"nodeName": "node-1"}, "status": {"phase": "Running"}}
        await bench.kube.create(PODS, item, namespace="default")
    await bench.settled()
    await controller.pods._in_use.look()

    assert controller.used == ["first", "second"], "also by an id of before; never by a name"
