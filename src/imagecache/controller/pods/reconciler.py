"""Around ``decide``: follow pods, match them, carry decisions out: one pod once at a time, and sixty-four pods at once.

Pods that are starting are followed, and only what is held or not finished is remembered: a restart looks at all of them
again, and leads to the same. It must not decide.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from imagecache.backoff import Backoff, Retries
from imagecache.clock import Clock
from imagecache.controller.informer_cache import InformerCache
from imagecache.controller.pods.autocaches import AutoCaches, AutoLimits
from imagecache.controller.pods.caches import Caches, Change
from imagecache.controller.pods.decide import Action, LetGo, Look, Wait, decide, frees
from imagecache.controller.pods.defaults import DefaultsWatcher
from imagecache.controller.pods.failed_builds import FailedBuilds
from imagecache.controller.pods.hands import Done, Hands
from imagecache.controller.pods.in_use import InUse
from imagecache.controller.pods.messages import Teller
from imagecache.controller.pods.pod import DECODER, Pod
from imagecache.controller.pods.untold import Untold
from imagecache.controller.work_queue import WorkQueue
from imagecache.errors import ImageCacheError, ObjectConflict, ObjectNotFound
from imagecache.kube.api import ClusterKube
from imagecache.kube.node_affinity import HOSTNAME
from imagecache.kube.resources import IMAGE_CACHES, PODS
from imagecache.kube.resuming import BACKOFF
from imagecache.kube.stream import Gone, ListBegun, ListEnded, News, Seen, Stream
from imagecache.match.ask import ask
from imagecache.match.pod import view
from imagecache.match.verdict import match
from imagecache.match.views import Outcome, Verdict
from imagecache.telemetry.log import get_logger
from imagecache.telemetry.metrics import Metrics

_STARTING = "status.phase=Pending"
"""A pod is made, held and bound in this phase; one that runs leaves the selection."""
_WORKERS = 64
"""Each waits for the API server nearly all the time: sixteen were too few for two hundred pods a second."""
_TRIES = 5
"""For a pod that starts without us. One that is held is tried without end."""
_BACKOFF = Backoff(0.25, 30.0)
_ROOM = 2000
"""Pods in work, besides those that are held, while which no more are taken from the API server."""
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PodDependencies:
    kube: ClusterKube
    informers: InformerCache
    """ImageCaches, Nodes and their reports; complete before ``run``."""
    clock: Clock
    metrics: Metrics
    matched: Callable[[str, dt.datetime], None]
    """Told the name of a cache that a pod was matched with."""
    used: Callable[[str, dt.datetime], None]
    """Told the name of a cache that a running pod uses, or a held one waits for."""
    own_namespace: str = ""
    auto_create: bool = False
    """A miss has a cache made, unless something nearer to the pod says no."""
    auto_caches: int = 25
    auto_caches_per_namespace: int = 10
    backoff: Backoff = BACKOFF
    """While the API server does not answer."""
    retries: Backoff = _BACKOFF
    """Of what could not be done for one pod."""


@dataclass(slots=True)
class _Memory:
    """One pod that is held, or with which something is left to be done."""

    pod: Pod | None
    """None: all is done, until it leaves."""
    listed: int
    """The list that has reported it last, or after which a watch did."""
    winner: str = ""
    """Name of the cache in the last verdict."""
    unknown_since: float | None = None
    """Monotonic time since when its pin has been unknown."""
    done: Done = field(default_factory=Done)
    retries: Retries | None = None
    tries: int = 0
    leaving: bool = False
    """It has left the selection: it starts."""


class PodReconciler:
    def __init__(self, dependencies: PodDependencies) -> None:
        kube, clock, metrics = dependencies.kube, dependencies.clock, dependencies.metrics
        self._dependencies = dependencies
        self._clock = clock
        self._metrics = metrics
        self._informers = dependencies.informers
        self.caches = Caches(dependencies.informers, self._caches_changed)
        self._defaults = DefaultsWatcher(kube, self._defaults_changed, auto_create=dependencies.auto_create)
        self._teller = Teller(kube, clock, metrics.pod_events_dropped.inc)
        self._auto = AutoCaches(
            kube,
            dependencies.informers,
            clock,
            self._teller,
            limits=AutoLimits(
                dependencies.auto_caches, dependencies.auto_caches_per_namespace or dependencies.auto_caches
            ),
            count=lambda outcome: metrics.auto_caches.labels(outcome).inc(),
        )
        self._failed = FailedBuilds(kube, dependencies.informers, self._teller, clock)
        self._hands = Hands(kube, self._teller, self._auto, self._hostnames)
        self._in_use = InUse(kube, self.caches, clock, dependencies.used, self._waited_for)
        self._untold = Untold(kube, dependencies.informers, self._teller, clock, self._asked)
        self._stream = Stream(kube, PODS, DECODER, fields=_STARTING, backoff=dependencies.backoff)
        self._queue = WorkQueue()
        self._memories: dict[str, _Memory] = {}
        """By uid."""
        self._held: set[str] = set()
        self._starting: set[str] = set()
        """Uids of the others with which something is left to be done."""
        self._room = asyncio.Event()
        self._list = 0

    async def run(self) -> None:
        """Until cancelled. Pods are followed once caches and Namespaces are known."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._defaults.run())
                self.caches.take(IMAGE_CACHES, self._informers.caches)
                await self.caches.refresh()
                await self._defaults.ready()
                group.create_task(self.caches.run())
                group.create_task(self._teller.run())
                group.create_task(self._auto.run())
                group.create_task(self._failed.run())
                group.create_task(self._in_use.run())
                group.create_task(self._untold.run(self._stream.synced))
                for _ in range(_WORKERS):
                    group.create_task(self._work())
                group.create_task(self._follow())
        finally:
            self._queue.close()

    # what is seen

    async def _follow(self) -> None:
        async for news in self._stream.news():
            while len(self._starting) >= _ROOM:
                self._room.clear()
                await self._room.wait()
            self._take(news)

    def _take(self, news: News[Pod]) -> None:
        match news:
            case ListBegun():
                self._list += 1
            case ListEnded():
                for uid in [uid for uid, memory in self._memories.items() if memory.listed != self._list]:
                    self._left(uid)
            case Seen(object=pod) if pod.is_ours(self._dependencies.own_namespace):
                self._seen(pod)
            case Gone(object=pod):
                self._gone(pod)

    def _seen(self, pod: Pod) -> None:
        memory = self._memories.get(pod.uid)
        if memory is not None:
            memory.listed = self._list
            if memory.pod is None:
                return
        if pod.is_being_deleted:
            self._forget(pod.uid)
            return
        if memory is None:
            if not (pod.is_gated or pod.node):  # there is nothing to say yet
                return
            memory = self._memories[pod.uid] = _Memory(None, self._list)
        memory.pod = pod.kept()
        self._sort(pod)
        self._queue.add(pod.uid)

    def _gone(self, pod: Pod) -> None:
        memory = self._memories.get(pod.uid)
        if memory is None:
            return
        if pod.is_being_deleted:
            self._forget(pod.uid)
        else:
            self._left(pod.uid)

    def _left(self, uid: str) -> None:
        """It is no longer among those that start: it runs, or there is no such pod."""
        memory = self._memories[uid]
        if memory.pod is None or memory.pod.is_gated:
            self._forget(uid)
        else:
            memory.leaving = True
            self._queue.add(uid)

    def _sort(self, pod: Pod) -> None:
        """Into those that are held, or that start."""
        into, out = (self._held, self._starting) if pod.is_gated else (self._starting, self._held)
        out.discard(pod.uid)
        into.add(pod.uid)
        self._metrics.pods_held.set(len(self._held))

    def _settle(self, uid: str) -> None:
        """Nothing is left to be done about it."""
        self._queue.forget(uid)
        self._held.discard(uid)
        self._starting.discard(uid)
        self._metrics.pods_held.set(len(self._held))
        self._room.set()
        if uid in self._memories:
            self._memories[uid] = _Memory(None, self._memories[uid].listed)

    def _forget(self, uid: str) -> None:
        self._settle(uid)
        self._memories.pop(uid, None)

    def _caches_changed(self, change: Change) -> None:
        self._failed.take(change.caches)
        self._auto.seen(change.caches)
        now, index = self._clock.now(), self.caches.index
        # thousands may wait for one cache, while a thousand nodes get it one after the other
        names = change.caches | {name for name in change.spread if frees(index.caches.get(name), now)}
        for uid in self._held:
            winner = self._memories[uid].winner
            if winner in names or (change.appeared and not winner):
                self._queue.add(uid)

    def _waited_for(self) -> set[str]:
        """Names of the caches that held pods wait for."""
        return {winner for uid in self._held if (winner := self._memories[uid].winner)}

    def _defaults_changed(self, namespace: str) -> None:
        for uid in self._held:
            pod = self._memories[uid].pod
            if pod is not None and namespace in {"", pod.namespace}:
                self._queue.add(uid)

    # what follows

    async def _work(self) -> None:
        while True:
            uid = await self._queue.take()
            try:
                await self._look(uid)
            except ObjectNotFound:
                self._forget(uid)
            except ObjectConflict:  # the watch says soon what somebody else has changed
                self._again(uid, None)
            except ImageCacheError as error:
                self._again(uid, error)
            except Exception:  # noqa: BLE001 - a supervisor: one pod must not end the others
                _log.exception("a pod failed for a reason that is ours", uid=uid)
                self._again(uid, None)
            finally:
                self._queue.done(uid)
            await asyncio.sleep(0)  # a look that writes nothing awaits nothing: thousands would hold up the lease

    async def _look(self, uid: str) -> None:
        memory = self._memories.get(uid)
        if memory is None or memory.pod is None:
            return
        pod = memory.pod
        if not (pod.is_gated or pod.node):  # somebody else has taken our gate away
            self._forget(uid)
            return
        verdict = match(view(pod), self._defaults.of(pod.namespace), self.caches.index)
        if pod.is_gated and not verdict.ask.pin:  # the API server may hold it for its Namespace, whose watch is behind
            verdict = match(view(pod), await self._defaults.read(pod.namespace), self.caches.index)
        memory.winner = verdict.winner
        actions = decide(self._look_at(pod, verdict, memory))
        await self._hands.carry_out(pod, actions, memory.done)
        if self._memories.get(uid) is not memory:
            return
        memory.tries = 0
        if memory.retries is not None:
            memory.retries.succeeded()
        waits = [action.seconds for action in actions if isinstance(action, Wait)]
        if waits:
            self._queue.add(uid, min(waits) + 0.01)
        else:
            self._finish(pod, verdict, actions, memory)

    def _asked(self, pod: Pod) -> Verdict | None:
        """The verdict on a pod that somebody has written something about."""
        seen, defaults = view(pod), self._defaults.of(pod.namespace)
        if not pod.is_ours(self._dependencies.own_namespace) or not ask(seen, defaults).explicit:
            return None
        return match(seen, defaults, self.caches.index)

    def _look_at(self, pod: Pod, verdict: Verdict, memory: _Memory) -> Look:
        now = self._clock.monotonic()
        if verdict.outcome is not Outcome.NOT_FOUND:
            memory.unknown_since = None
        elif memory.unknown_since is None:
            memory.unknown_since = now
        return Look(
            pod=pod,
            verdict=verdict,
            now=self._clock.now(),
            pinned=self.caches.index.caches.get(verdict.winner),
            nodes=len(self._informers.machines),
            unknown_for=0.0 if memory.unknown_since is None else now - memory.unknown_since,
            leaving=memory.leaving,
        )

    def _finish(self, pod: Pod, verdict: Verdict, actions: Sequence[Action], memory: _Memory) -> None:
        now = self._clock.now()
        freed = next((action for action in actions if isinstance(action, LetGo)), None)
        if freed is not None:
            self._metrics.pod_held_seconds.observe(max(0.0, (now - pod.created(now)).total_seconds()))
        if freed is not None and not freed.matched:  # its pin is gone: it is matched when its node is known
            if memory.pod is pod:  # else what was seen meanwhile has its turn next
                self._forget(pod.uid)
            return
        self._metrics.pod_matches.labels(verdict.outcome.value).inc()
        if verdict.outcome is Outcome.HIT:
            self._dependencies.matched(verdict.winner, now)
        if memory.leaving:
            self._forget(pod.uid)
        else:
            self._settle(pod.uid)

    def _again(self, uid: str, error: ImageCacheError | None) -> None:
        memory = self._memories.get(uid)
        if memory is None or memory.pod is None:
            return
        pod = memory.pod
        if memory.retries is None:
            memory.retries = Retries(self._dependencies.retries, _log, pod=f"{pod.namespace}/{pod.name}")
        memory.tries += 1
        pause = memory.retries.failed(error)
        if pod.is_gated or memory.tries < _TRIES:
            self._queue.add(uid, pause)
        elif memory.leaving:
            self._forget(uid)
        else:
            self._settle(uid)

    def _hostnames(self, names: Sequence[str]) -> list[str]:
        """Values of the label, which is nearly always the Node's name."""
        found = [node for name in names if (node := self._informers.nodes.view(name)) is not None]
        labels = {node.name: node.labels or {} for node in found}
        return [labels.get(name, {}).get(HOSTNAME, name) for name in names]
