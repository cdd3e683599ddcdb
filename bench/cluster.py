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
from dataclasses import dataclass, replace
from pathlib import Path

from grpclib.exceptions import GRPCError

from bench import contender
from bench.cold import warm_blobs
from bench.contender import pull
from bench.contenders.erofs import TUNED as EROFS
from bench.contenders.overlayfs import TUNED
from bench.figures import MB, Figure, Goal, Line, Measured, Row, Samples, Table
from bench.fresh import Roots, forget_pages, read_all, settle
from bench.images import BenchImage
from bench.meter import disk_held
from bench.watched import Watched, watched
from imagecache.api.nodes import NODE_SELECTOR
from imagecache.kube.api import Object
from imagecache.kube.client import KubeClient
from imagecache.kube.connection import kubeconfig
from imagecache.kube.objects import at, text
from imagecache.kube.resources import IMAGE_CACHES, NODE_IMAGE_CACHES, NODES, PODS
from imagecache.match import keys
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
    Figure("disk", "disk held", "MB"),
)
_HOSTNAME = "kubernetes.io/hostname"
_JOINS = "imagecache.dev/bench"
"""Label of the nodes that the cache of ``joins`` is for."""
_STARTS = 5
"""Pods of a cached image for each round, until they are removed. Rounds are many: starts are short, and what is
compared differs by a hundredth, while single starts differ by a fifth."""
_GRACE = 2
"""Seconds. More than 0, so that a pod's object goes when its containers and mounts have gone."""
_PIN = 0.03
"""Seconds that a pin may cost a pod whose cache is usable."""
_SETTINGS = {"IMAGECACHE_RESERVE": "0.02"}
"""Kubelets of the cluster evict below 1 %. With an agent's default, 15 %, nodes fetch nothing once the turns before
have filled this machine's disk to that."""


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
    with Installed(directory / "cluster", THREE_NODES, _SETTINGS) as system:
        cluster = system.cluster
        ours = [
            Contender(mode, version, agent.node)
            for (version, mode), agent in zip(THREE_NODES, system.agents, strict=True)
        ]
        plain = {version: Contender("overlayfs", version, cluster.add_node(NodeSpec(version))) for version in VERSIONS}
        with Registry(directory / "team", host=cluster.address) as registry:
            cluster.trust(registry)
            pause = registry.push("pause:1", pause_image(directory / "pause"))
            reference = registry.push("team/app:1", image.image())
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

    async def start(self, pod: PodSpec) -> float:
        """Seconds from created to Running; the pod goes on until ``remove_pods``."""
        document: Object = pod.document()  # type: ignore[assignment]  # JSON
        document["spec"]["terminationGracePeriodSeconds"] = _GRACE  # type: ignore[call-overload, index]
        running = self.pods.expect(pod.name, lambda item: text(item, "status", "phase") == "Running")
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

    async def cache(self, nodes: Sequence[Node], selector: str = "") -> tuple[float, float]:
        """Seconds from ``kubectl create`` to Ready, and from then until these nodes have it.

        ``selector`` selects them, and others later; without it they alone get the cache.
        """
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


def _name(version: Version) -> str:
    return "of Debian" if version == "system" else version


# the parts


async def _pods(client: Client, rounds: int) -> Measured:
    """Pods of an image that is cached, beside pods of one that containerd pulled and unpacked before."""
    place = client.site
    await client.cache([one.node for one in place.ours])
    contenders = [*place.ours, *place.plain.values()]
    for one in place.plain.values():
        await asyncio.to_thread(pull, one.node.containerd.address, place.reference)
    pods = [PodSpec(one.node.name, place.reference, node=one.node.name) for one in contenders]
    there = await _started(client, pods, rounds)
    await client.forget_cache()
    return Measured(
        [
            Row(
                f"pod created → Running, containerd {_name(one.version)}",
                there[one.node.name],
                there[place.plain[one.version].node.name],
                "unpacked by overlayfs",
                Goal(1.05),
                note=one.name,
            )
            for one in place.ours
        ]
    )


async def _started(client: Client, pods: Sequence[PodSpec], rounds: int) -> dict[str, Samples]:
    """Seconds from created to Running of pods like these, in turns, by name. The first of each is not counted."""
    numbers = itertools.count()
    for pod in pods:  # the first pod of a node makes bridges and reads programs
        await client.start(replace(pod, name=f"{pod.name}-{next(numbers)}"))
    await client.remove_pods()
    taken = {pod.name: Samples() for pod in pods}
    order = random.Random(5)  # noqa: S311 - nothing secret
    for _ in range(rounds):
        for _ in range(_STARTS):  # what the one before leaves to do is in the way of who comes next
            for pod in order.sample(pods, len(pods)):
                taken[pod.name].add(await client.start(replace(pod, name=f"{pod.name}-{next(numbers)}")))
        await client.remove_pods()
    return taken


async def _pins(client: Client, rounds: int) -> Measured:
    """Pods that pin a cache which their node has, beside the same pods without a pin: what being held costs."""
    place = client.site
    one = place.ours[1]
    await client.cache([one.node])
    plain = PodSpec("plain", place.reference, node_selector={_HOSTNAME: one.node.name})
    pods = (plain, replace(plain, name="pinned", annotations={keys.PIN: CACHE}))
    taken = await _started(client, pods, rounds)
    await client.forget_cache()
    goal = Goal(round(1 + _PIN / taken["plain"].median, 2))
    return Measured(
        [
            Row(
                f"pod created → Running, pinned: at most {_PIN * 1000:.0f} ms more",
                taken["pinned"],
                taken["plain"],
                "the same without a pin",
                goal,
                note=f"{one.name}, containerd {_name(one.version)}",
            )
        ]
    )


async def _caches(client: Client, rounds: int) -> Measured:
    """From nothing to Ready and to the nodes, beside a pull of the same image by a fresh containerd."""
    place = client.site
    peers: Sequence[contender.Contender] = (TUNED, EROFS)
    pulls = [(peer, Samples()) for peer in peers]
    fields = {1: [place.ours[1].node], len(place.ours): [one.node for one in place.ours]}
    usable = {count: Samples() for count in fields}
    for _ in range(rounds):
        for peer, pulled in pulls:
            pulled.add(await asyncio.to_thread(_fresh_pull, place, peer))
        for count, nodes in fields.items():
            await asyncio.to_thread(forget_pages)
            await asyncio.to_thread(warm_blobs, place.registry)
            ready, everywhere = await client.cache(nodes)
            usable[count].add(ready + everywhere)
            await client.forget_cache()
    return Measured(
        [
            Row(
                f"kubectl create → usable on {_nodes(count)}",
                samples,
                pulled,
                f"a fresh {peer.title} pulls it",
                Goal(1.0) if count == 1 else None,
                note=f"beside {peer.key}",
            )
            for peer, pulled in pulls
            for count, samples in usable.items()
        ]
    )


def _nodes(count: int) -> str:
    return f"{count} node{'s' if count > 1 else ''}"


def _fresh_pull(place: Site, peer: contender.Contender) -> float:
    """Seconds that containerd takes on a node that has nothing, outside the cluster."""
    site = contender.Site(place.system.directory, place.registry, place.registry.address, place.pause)
    directory = place.roots.fresh("pull")
    forget_pages()
    with peer.node(site, directory) as node:
        warm_blobs(place.registry)
        settle()
        start = time.perf_counter()
        node.bring(place.reference)
        seconds = time.perf_counter() - start
    place.roots.spend(directory)
    return seconds


async def _joins(client: Client, rounds: int) -> Measured:
    """A node that has nothing comes to be selected for a cache that is Ready: its layers come from the served store."""
    place = client.site
    first = place.ours[1].node
    await _select(client, first)
    await client.cache([first], f"{_JOINS}=yes")
    place.registry.clear_requests()
    line = Line("imagecache-served", "imagecache, node joins later (served store)", durable=True, figures={})
    for _ in range(rounds):
        agent = await asyncio.to_thread(place.system.add_node)
        await asyncio.to_thread(forget_pages)
        await asyncio.to_thread(read_all, layers(place.store))
        line.add(**await _join(client, agent.node))
        await asyncio.to_thread(place.system.remove_node, agent)
    asked = [one.path for one in place.registry.requests() if "/blobs/" in one.path]
    if asked:
        raise PeerFailed(f"a node that joined asked the registry: {asked[:3]}")
    await client.forget_cache()
    return Measured(tables=[Table("join", "A node that joins later", JOIN_COLUMNS, [line])])


async def _select(client: Client, node: Node) -> None:
    await client.kube.patch(NODES, node.name, {"metadata": {"labels": {_JOINS: "yes"}}})


async def _join(client: Client, node: Node) -> dict[str, float]:
    """From the label until the layers are there, and until a pod has said hello.

    Kubelet would end a container that is no pod's, so its own work is in the figure.
    """
    usable = client.reports.expect(node.name, _has_cache)
    ended = client.pods.expect("hello", lambda item: text(item, "status", "phase") == "Succeeded")
    before = disk_held(node.store)
    start = time.perf_counter()
    await _select(client, node)
    found = {"brought": await usable - start}
    hello = client.site.image.hello
    pod = PodSpec("hello", client.site.reference, hello, node=node.name, restart_policy="Never")
    await client.kube.create(PODS, pod.document(), namespace=NAMESPACE)  # type: ignore[arg-type]  # JSON
    found["hello"] = await ended - start
    await client.remove_pods()
    return found | {"disk": (disk_held(node.store) - before) / MB}


pods = _measured(_pods)
pins = _measured(_pins)
caches = _measured(_caches)
joins = _measured(_joins)
