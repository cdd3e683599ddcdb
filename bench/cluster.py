"""A cluster with and without imagecache: pods, caches on their way to nodes, and a node that joins later.

Three nodes have our agent (containerd 1.6 and 2.4 in proxy mode, 2.4 in native mode), two have containerd alone: 1.6
and 2.4 with overlayfs, as everybody has it. All of it runs on one machine, so contenders take turns. Moments are those
at which the API server's own watch told us.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from grpclib.exceptions import GRPCError

from bench import contender
from bench.cold import execute
from bench.contender import LONGEST, pull_at
from bench.contenders.overlayfs import TUNED
from bench.figures import Figure, Goal, Line, Measured, Row, Samples, Table
from bench.fresh import Roots, settle
from bench.images import BenchImage
from bench.meter import disk_held
from bench.programs import TREE
from bench.watched import Watched, watched
from imagecache.api.nodes import NODE_SELECTOR
from imagecache.kube.api import Object
from imagecache.kube.client import KubeClient
from imagecache.kube.connection import kubeconfig
from imagecache.kube.objects import at, text
from imagecache.kube.resources import IMAGE_CACHES, NODE_IMAGE_CACHES, NODES, PODS
from testkit.cluster.installed import THREE_NODES, Installed
from testkit.cluster.node import Node, NodeSpec
from testkit.cluster.pods import PodSpec
from testkit.images import pause_image
from testkit.peers.containerd import VERSIONS, Version
from testkit.peers.cri import Cri
from testkit.peers.processes import wait_until
from testkit.peers.programs import PeerFailed
from testkit.peers.registry import Registry

NAMESPACE = "default"
CACHE = "app"
JOIN_COLUMNS = (
    Figure("hello", "hello", "s"),
    Figure("brought", "of it until the image is there", "s"),
    Figure("tree", "whole tree right after", "s"),
    Figure("disk", "disk held", "MB"),
)
_HOSTNAME = "kubernetes.io/hostname"
_JOINS = "imagecache.dev/bench"
"""Label of the nodes that the cache of ``joins`` is for."""
_STARTS = 40
"""Pods of a cached image for each round: they are short, and what is compared differs by a hundredth, while single
starts differ by a fifth."""
_TOGETHER = 4
"""Of them on each node, until they are removed."""
_GRACE = 2
"""Seconds. More than 0, so that a pod's object goes when its containers and mounts have gone."""
_PULL = "a fresh containerd 2.4, tuned, pulls it"
_MB = 1e6


@dataclass(frozen=True, slots=True)
class Contender:
    """A node, and how it comes to the image."""

    name: str
    version: Version
    node: Node


@dataclass(frozen=True, slots=True)
class Site:
    system: Installed
    registry: Registry
    pause: str
    image: BenchImage
    reference: str
    roots: Roots
    ours: Sequence[Contender]
    plain: dict[Version, Contender]

    @property
    def store(self) -> Path:
        return self.system.controller.store


@contextlib.contextmanager
def site(directory: Path, image: BenchImage, roots: Roots) -> Iterator[Site]:
    with Installed(directory / "cluster", THREE_NODES) as system:
        cluster = system.cluster
        ours = [
            Contender(mode, version, agent.node)
            for (version, mode), agent in zip(THREE_NODES, system.agents, strict=True)
        ]
        plain = {version: Contender("overlayfs", version, cluster.add_node(NodeSpec(version))) for version in VERSIONS}
        with Registry(directory / "team", host=cluster.address) as registry:
            cluster.trust(registry)
            pause = registry.push("pause:1", pause_image(directory / "pause"))
            reference = registry.push("team/app:1", image.make())
            yield Site(system, registry, pause, image, reference, roots, ours, plain)


@dataclass(frozen=True, slots=True)
class Client:
    """The API server, watched."""

    site: Site
    kube: KubeClient
    pods: Watched
    caches: Watched
    reports: Watched

    # pods

    async def pod(self, node: Node, name: str) -> float:
        """Seconds from created to Running; the pod goes on until ``remove_pods``."""
        document: Object = PodSpec(name, self.site.reference, node=node.name).document()  # type: ignore[assignment]  # JSON
        document["spec"]["terminationGracePeriodSeconds"] = _GRACE  # type: ignore[call-overload, index]
        running = self.pods.expect(name, lambda item: text(item, "status", "phase") == "Running")
        start = time.perf_counter()
        await self.kube.create(PODS, document, namespace=NAMESPACE)
        return await running - start

    async def remove_pods(self) -> None:
        """Returns when nothing is left of them on their nodes; kubelet would leave the containers for a minute."""
        pods = dict(self.pods.items)
        gone = [self.pods.gone(name) for name in pods]
        for name in pods:
            await self.kube.delete(PODS, name, namespace=NAMESPACE)
        await asyncio.gather(*gone)
        for item in pods.values():
            node = self.site.system.cluster.node(text(item, "spec", "nodeName"))
            await _remove_container(node, _container(item))

    # caches

    async def cache(self, nodes: Sequence[Node]) -> tuple[float, float]:
        """Seconds from ``kubectl create`` to Ready, and from then until these nodes have it."""
        plain = {"k8s.aliyun.com/plain-http-registry": self.site.registry.address}
        names = [node.name for node in nodes]
        chosen = {NODE_SELECTOR: selector or f"{_HOSTNAME} in ({','.join(names)})"}
        ready = self.caches.expect(CACHE, _is_final)
        there = [self.reports.expect(name, _has_cache) for name in names]
        start = time.perf_counter()
        create = asyncio.to_thread(self.site.system.create, CACHE, [self.site.reference], plain | chosen)
        (end, *ends), _ = await asyncio.gather(asyncio.gather(ready, *there), create)
        if text(self.caches.items[CACHE], "status", "phase") != "Ready":
            raise PeerFailed(f"{CACHE}: {text(self.caches.items[CACHE], 'status', 'reason')}")
        return end - start, max(ends) - end

    async def forget_cache(self) -> None:
        """Delete it, and wait until neither the store nor a node has a layer image."""
        await asyncio.to_thread(self.site.system.delete, CACHE)
        stores = [self.site.store, *(one.node.store for one in self.site.ours)]
        for store in stores:
            if not await asyncio.to_thread(wait_until, lambda store=store: not layers(store), seconds=90, every=0.1):  # type: ignore[misc]
                raise PeerFailed(f"{store} still has {layers(store)}")


async def _remove_container(node: Node, container: str) -> None:
    """Returns when it is gone, whoever did it. Raises TimeoutError."""
    async with Cri(node.containerd.address) as cri, asyncio.timeout(60):
        while True:
            try:
                await cri.remove_container(container)
            except GRPCError:  # kubelet is removing it
                await asyncio.sleep(0.1)
            else:
                return


def _container(pod: Object) -> str:
    """Its id in containerd."""
    statuses = at(pod, "status", "containerStatuses")
    return text(statuses[0], "containerID").removeprefix("containerd://") if isinstance(statuses, list) else ""


def layers(store: Path) -> list[Path]:
    return [path for path in store.rglob("*.erofs") if path.is_file()]


def _is_final(item: Object) -> bool:
    return text(item, "status", "phase") in {"Ready", "Failed"}


def _has_cache(item: Object) -> bool:
    caches = at(item, "status", "caches")
    return isinstance(caches, list) and any(
        text(entry, "name") == CACHE and text(entry, "state") == "Ready" for entry in caches
    )


@contextlib.asynccontextmanager
async def _client(place: Site) -> AsyncIterator[Client]:
    access = kubeconfig(place.system.cluster.kubeconfig)
    async with contextlib.AsyncExitStack() as stack:
        kube = await stack.enter_async_context(KubeClient(access))
        pods = await stack.enter_async_context(watched(kube, PODS, namespace=NAMESPACE))
        caches = await stack.enter_async_context(watched(kube, IMAGE_CACHES))
        reports = await stack.enter_async_context(watched(kube, NODE_IMAGE_CACHES))
        yield Client(place, kube, pods, caches, reports)


def _measured(
    work: Callable[[Client, int], Awaitable[Measured]],
) -> Callable[[Site, int], Measured]:
    async def measure(place: Site, rounds: int) -> Measured:
        async with _client(place) as client:
            return await work(client, rounds)

    return lambda place, rounds: asyncio.run(measure(place, rounds))


async def pull(node: Node, reference: str) -> float:
    """Seconds that CRI's PullImage takes."""
    async with Cri(node.containerd.address, seconds=600) as cri:
        start = time.perf_counter()
        await cri.pull(reference)
        return time.perf_counter() - start


async def unpull(place: Site, node: Node) -> None:
    """Take the image off a node, and its layers, which a container would keep."""
    await asyncio.to_thread(forget, node.containerd, place.reference)
    *_, top = chain_ids(place.image.diff_ids)

    def gone() -> bool:
        return top not in node.containerd.ctr("-n", "k8s.io", "snapshots", "ls")

    if not await asyncio.to_thread(wait_until, gone, seconds=30, every=0.2):
        raise PeerFailed(f"{node.name} still has {top} of {place.reference}")


def _name(version: Version) -> str:
    return "of Debian" if version == "system" else version


# the parts


async def _pods(client: Client, rounds: int) -> list[Row]:
    """Pods of an image that is cached, and of one that was pulled and unpacked before; then of one that is neither."""
    place = client.site
    await client.cache([one.node for one in place.ours])
    contenders = [*place.ours, *place.plain.values()]
    for one in place.plain.values():
        await pull(one.node, place.reference)
    numbers = itertools.count()
    for one in contenders:  # the first pod of a node makes bridges and reads programs
        await client.pod(one.node, f"warm-{next(numbers)}")
    await client.remove_pods()
    there = {one.node.name: Samples() for one in contenders}
    order = random.Random(5)  # noqa: S311 - nothing secret
    for start in range(_STARTS * rounds):  # what the one before leaves to do is in the way of who comes next
        for one in order.sample(contenders, len(contenders)):
            there[one.node.name].values.append(await client.pod(one.node, f"app-{next(numbers)}"))
        if start % _TOGETHER == _TOGETHER - 1:
            await client.remove_pods()
    rows = [
        Row(
            f"pod created → Running, cached vs unpacked by overlayfs, containerd {_name(one.version)}",
            there[one.node.name],
            there[place.plain[one.version].node.name],
            Goal("≤ 1.05×", 1.05),
            note=one.name,
        )
        for one in place.ours
    ]
    rows += await _uncached(client, max(_LONG_LEAST, rounds // 2), numbers)
    await client.forget_cache()
    return rows


async def _uncached(client: Client, rounds: int, numbers: Iterator[int]) -> list[Row]:
    place = client.site
    cached = {one.node.name: Samples() for one in place.ours}
    pulled = {version: Samples() for version in place.plain}
    for _ in range(rounds):
        for version, peer in place.plain.items():
            await unpull(place, peer.node)
            pulled[version].values.append(await client.pod(peer.node, f"pull-{next(numbers)}"))
        for one in place.ours:
            cached[one.node.name].values.append(await client.pod(one.node, f"app-{next(numbers)}"))
        await client.remove_pods()
    return [
        Row(
            f"pod created → Running, cached vs pulled, containerd {_name(one.version)}",
            cached[one.node.name],
            pulled[one.version],
            Goal("≥ 5×", 5, at_least=True),
            faster=True,
            note=one.name,
        )
        for one in place.ours
    ]


async def _caches(client: Client, rounds: int) -> list[Row]:
    """From nothing to Ready, from Ready to the nodes."""
    place = client.site
    peer = place.plain["2.4"].node
    created, pulled = Samples(), Samples()
    usable = {count: Samples() for count in (1, len(place.ours))}
    fields = {1: [place.ours[1].node], len(place.ours): [one.node for one in place.ours]}
    spread = {count: Samples() for count in fields}
    machine = {count: Samples() for count in fields}
    for _ in range(max(_LONG_LEAST, rounds // 2)):
        await unpull(place, peer)
        pulled.values.append(await pull(peer, place.reference))
        for count, nodes in fields.items():
            seconds, everywhere = await client.cache(nodes)
            created.values.append(seconds)
            usable[count].values.append(seconds + everywhere)
            files = layers(place.store)
            size = sum(path.stat().st_size for path in files) / 1e6
            spread[count].values.append(count * size / everywhere)
            rate = await asyncio.to_thread(best_rate, files, place.system.directory / "copies", count)
            machine[count].values.append(rate)
            await client.forget_cache()
    build = Row("kubectl create → Ready vs containerd 2.4 pulling the image", created, pulled, Goal("≤ 0.5×", 0.5))
    rest = [_spread(count, spread[count], machine[count], size) for count in fields]
    whole = "kubectl create → usable on {} vs containerd 2.4 pulling the image on one"
    return [build, *rest, *(Row(whole.format(_nodes(count)), usable[count], pulled) for count in fields)]


def _nodes(count: int) -> str:
    return f"{count} node{'s' if count > 1 else ''}"


def _spread(count: int, ours: Samples, machine: Samples, size: float) -> Row:
    return Row(
        f"Ready → {_nodes(count)} ready vs the machine's copy and SHA-256",
        ours,
        machine,
        Goal("≥ 0.7×", 0.7, at_least=True),
        unit="MB/s",
        note=f"{size:.0f} MB to each",
    )


pods = _measured(_pods)
caches = _measured(_caches)
