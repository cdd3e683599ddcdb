"""A controller with a thousand caches: how long until a change is in a status, and how much memory that takes.

``matching`` goes on with pods.

A real API server and no nodes, so that nothing else happens: the Node objects and what their agents would report are
written here. The images do not exist; their bundles are in the store, which is all that the controller looks at.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench import matching
from bench.figures import MB, Goal, Measured, Row, Samples, single
from bench.watched import Watched, watched
from imagecache.api.ids import derived_cache_id
from imagecache.api.nodes import CacheState, NodeCache, NodeStatus
from imagecache.digest import DiffID, Digest
from imagecache.kube import objects
from imagecache.kube.api import ClusterKube, Object
from imagecache.kube.client import KubeClient
from imagecache.kube.connection import kubeconfig
from imagecache.kube.objects import at
from imagecache.kube.resources import IMAGE_CACHES, NODE_IMAGE_CACHES, NODES
from imagecache.store.store import Store
from testkit.cluster.installed import Installed
from testkit.store import put_bundle

CACHES = 1000
_NODES = ("worker-1", "worker-2", "worker-3")
_LAYERS = 8
"""Of each image; all but the top one are those of every other image, as of one base."""
_CHANGES = 60
"""Of each kind, for each round."""
_AT_ONCE = 16


def measure(directory: Path, rounds: int) -> Measured:
    with Installed(directory / "cluster", nodes=(), settings={"IMAGECACHE_MAX_CACHES": str(CACHES)}) as system:
        return asyncio.run(_measure(system, rounds))


async def _measure(system: Installed, rounds: int) -> Measured:
    async with _api(system) as api:
        await asyncio.to_thread(system.controller.stop)
        await _create(api)
        await asyncio.to_thread(_fill, Store.open(system.controller.store), api.caches.items)
        beginning = await _begin(system, api)
        specs, reports = Samples(), Samples()
        for number in range(_CHANGES * rounds):
            name = _cache(number * 7 % CACHES)
            specs.add(await _change_spec(api, name, 2 + number // CACHES))
            for seconds in await _change_report(api, name):
                reports.add(seconds)
        memory = _peak(system.controller.daemon.pid)
        pods = await matching.measure(system, api.kube, _NODES, [_image(number) for number in range(CACHES)])
        peak = _peak(system.controller.daemon.pid)
    after = _memory(peak, f"{CACHES:,} caches, {matching.RATE} pods a second")
    return Measured([*_rows(specs, reports, memory, beginning), *pods.rows, after])


def _memory(peak: float, what: str) -> Row:
    return Row("controller's memory, peak RSS", single(peak), goal=Goal(250, unit="MB"), unit="MB", note=what)


def _rows(specs: Samples, reports: Samples, memory: float, beginning: float) -> list[Row]:
    what, goal = f"{CACHES:,} caches", Goal(1, unit="s")
    return [
        Row("reconcile lag, p99: spec → status", specs, goal=goal, share=0.99, note=what),
        Row("reconcile lag, p99: a node's report → counts", reports, goal=goal, share=0.99, note=what),
        _memory(memory, what),
        Row("controller started → every cache looked at and written", single(beginning), note=what),
    ]


@dataclass(frozen=True, slots=True)
class _Api:
    kube: ClusterKube
    caches: Watched


@asynccontextmanager
async def _api(system: Installed) -> AsyncIterator[_Api]:
    async with (
        KubeClient(kubeconfig(system.cluster.kubeconfig)) as kube,
        watched(kube, IMAGE_CACHES) as caches,
    ):
        yield _Api(kube, caches)


def _cache(number: int) -> str:
    return f"cache-{number:04}"


def _image(number: int) -> str:
    return f"registry.invalid/team/app-{number:04}:1"


async def _create(api: _Api) -> None:
    """The objects; returns when all were seen."""
    images = {_cache(number): _image(number) for number in range(CACHES)}
    seen = [api.caches.expect(name, bool) for name in images]

    async def create(name: str) -> None:
        await api.kube.create(IMAGE_CACHES, {"metadata": {"name": name}, "spec": {"images": [images[name]]}})

    await _all(list(images), create)
    await asyncio.gather(*seen)


async def _all(names: Sequence[str], what: Callable[[str], Awaitable[object]]) -> None:
    turns = asyncio.Semaphore(_AT_ONCE)

    async def one(name: str) -> None:
        async with turns:
            await what(name)

    await asyncio.gather(*(one(name) for name in names))


def _fill(store: Store, caches: dict[str, Object]) -> None:
    """A bundle for each object, under the id that a build of it would have."""
    base = [b"layer %d" % number for number in range(_LAYERS - 1)]
    for item in caches.values():
        contents = [*base, objects.uid(item).encode()]
        diff_ids = [DiffID(Digest.sha256(content)) for content in contents]
        image = _image(int(objects.name(item).removeprefix("cache-")))
        put_bundle(store, _id(item), diff_ids, contents, reference=image)


def _id(item: Object) -> str:
    return derived_cache_id(objects.uid(item))


async def _begin(system: Installed, api: _Api) -> float:
    """Nodes that have every cache, then the controller: seconds until it has written all that."""
    await _all(_NODES, lambda name: _join(api, name))
    done = [api.caches.expect(name, _is_everywhere) for name in api.caches.items]
    start = time.perf_counter()
    await asyncio.to_thread(system.controller.start)
    await asyncio.gather(*done)
    return time.perf_counter() - start


def _is_everywhere(item: Object) -> bool:
    return at(item, "status", "phase") == "Ready" and at(item, "status", "nodes", "ready") == len(_NODES)


async def _join(api: _Api, name: str) -> None:
    await api.kube.create(NODES, {"metadata": {"name": name}})
    await api.kube.create(NODE_IMAGE_CACHES, {"metadata": {"name": name}})
    await _report(api, name)


async def _report(api: _Api, node: str, failed: str = "") -> None:
    """What the node's agent would say: everything is there, but ``failed``."""
    entries = (
        NodeCache(
            name=name,
            id=_id(item),
            state=CacheState.FAILED if name == failed else CacheState.READY,
            bytes_total=1 << 30,
            bytes_done=1 << 30,
        )
        for name, item in api.caches.items.items()
    )
    status: Object = msgspec.to_builtins(NodeStatus(mode="proxy", caches=tuple(entries)))
    await api.kube.patch(NODE_IMAGE_CACHES, node, {"status": status}, subresource="status")


async def _change_spec(api: _Api, name: str, days: int) -> float:
    """Another retention: seconds until the status is of this generation, and has the expiry."""
    written = api.caches.expect(name, _is_observed)
    start = time.perf_counter()
    await api.kube.patch(IMAGE_CACHES, name, {"spec": {"retentionDays": days}})
    return await written - start


def _is_observed(item: Object) -> bool:
    generation, conditions = at(item, "metadata", "generation"), at(item, "status", "conditions")
    observed = {at(each, "observedGeneration") for each in conditions} if isinstance(conditions, list) else set()
    return observed == {generation} and generation != 1


async def _change_report(api: _Api, name: str) -> list[float]:
    """A cache fails on a node, and is there again: seconds until the counts say so, each."""
    taken = []
    for failed in (1, 0):
        counted = api.caches.expect(name, lambda item, failed=failed: at(item, "status", "nodes", "failed") == failed)  # type: ignore[misc]
        start = time.perf_counter()
        await _report(api, _NODES[0], name if failed else "")
        taken.append(await counted - start)
    return taken


def _peak(pid: int) -> float:
    """MB: the most that the process ever had in memory."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return int(lines["VmHWM"].split()[0]) * 1024 / MB
