"""The agent's loop and the Kubernetes API: reports, the Node, the start-up taint."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from imagecache.agent.dependencies import Node
from imagecache.agent.settings import LoopSettings
from imagecache.errors import (
    KubernetesUnavailable,
    ObjectConflict,
)
from testkit.images import tar_of
from tests.unit.agent.bench import Bench, cache

A, B, C = (f"imc-{letter * 20}" for letter in "abc")
BASE = tar_of({"etc": None, "etc/base": b"b" * 300_000})
APP = "docker.io/library/app:1"


async def test_the_api_server_is_away_for_reports(bench: Bench) -> None:
    await bench.origin.build(A, BASE)
    bench.reporter.failure = KubernetesUnavailable("no answer")
    bench.caches.put(cache("a", A))
    bench.start()
    await bench.until(lambda: APP in bench.attacher.records)

    bench.reporter.failure = None
    bench.loop.wake()

    await bench.ready()


async def test_small_changes_of_the_disk_are_not_reported(bench: Bench) -> None:
    await bench.origin.build(A, BASE)
    bench.caches.put(cache("a", A))
    bench.start()
    await bench.ready()
    await bench.rounds()
    count = len(bench.reporter.written)

    bench.machine.size = replace(bench.machine.size, free=bench.machine.size.free - 1_000_000)
    await bench.rounds()
    assert len(bench.reporter.written) == count

    bench.machine.size = replace(bench.machine.size, free=bench.machine.size.free // 2)
    await bench.rounds()
    assert len(bench.reporter.written) == count + 1


async def test_the_taint_is_removed_when_the_caches_are_usable(bench: Bench) -> None:
    await bench.origin.build(A, BASE)
    bench.remote.down = True
    bench.nodes.node = Node("uid-1", {}, tainted=True)
    bench.caches.put(cache("a", A), cache("later", "", ready=False))
    bench.start()
    await bench.until(lambda: bench.reason() == "StoreUnreachable")
    assert bench.nodes.untainted == 0
    bench.remote.down = False
    bench.nodes.failure = ObjectConflict("somebody was faster")
    bench.advance(31)
    await bench.ready()
    await bench.until(lambda: bench.condition("Ready") == ("False", "ObjectConflict"))

    bench.nodes.failure = None
    bench.loop.wake()

    await bench.until(lambda: bench.nodes.untainted == 1)
    await bench.rounds()
    assert bench.nodes.untainted == 1


async def test_the_taint_is_removed_after_the_timeout(bench: Bench) -> None:
    await bench.origin.build(A, BASE)
    bench.remote.down = True
    bench.nodes.node = Node("uid-1", {}, tainted=True)
    bench.caches.put(cache("a", A))
    bench.start(LoopSettings(taint_timeout=60))
    await bench.until(lambda: bench.reason() == "StoreUnreachable")
    bench.advance(59)
    await bench.rounds()
    assert bench.nodes.untainted == 0

    bench.advance(1)

    await bench.until(lambda: bench.nodes.untainted == 1)


async def test_a_node_that_does_not_exist_yet(bench: Bench) -> None:
    """On a host the agent starts before kubelet has made the Node."""
    await bench.origin.build(A, BASE)
    bench.nodes.node = None
    bench.caches.put(cache("a", A))
    bench.start()
    await asyncio.sleep(0)
    assert not bench.attacher.records

    bench.nodes.set(Node("uid-2", {}))
    await bench.ready()
    count = len(bench.reporter.written)
    bench.nodes.set(Node("uid-3", {}))
    await bench.until(lambda: len(bench.reporter.written) > count)  # the new one has no status yet
