"""The agent's loop in a cluster: look, plan, carry out, tell; again whenever something has changed.

One plan at a time, and at most one work for a bundle, in a task of its own; its failure is that bundle's and is
tried again when ``backoff`` says so. Nothing is done before the list of caches is complete and our Node is known, so
an API server that is away changes nothing here. It must not decide: ``plan``, ``budget``, ``backoff``, ``taint`` do.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path

from imagecache.agent import report, taint
from imagecache.agent.backoff import Failures, Removals
from imagecache.agent.budget import Disk, Policy
from imagecache.agent.dependencies import (
    Attacher,
    Caches,
    LayerSource,
    Machine,
    Node,
    Nodes,
    Reporter,
)
from imagecache.agent.plan import Bounds, Plan, View, Work, make_plan
from imagecache.agent.rate_limit import RateLimit
from imagecache.agent.state import NodeState
from imagecache.api import assignment
from imagecache.api.assignment import Cache
from imagecache.api.nodes import NodeStatus
from imagecache.backoff import Backoff, Retries
from imagecache.clock import Clock
from imagecache.concurrency import cancel_all
from imagecache.containerd.api import Attached
from imagecache.errors import ImageCacheError, InternalError
from imagecache.fetch.allowance import Allowance
from imagecache.store.model import Bundle
from imagecache.telemetry.log import get_logger

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """Times in seconds."""

    taint_timeout: float = 300.0
    """After which the start-up taint goes whatever is missing; 0: it waits for ever."""
    policy: Policy = field(default_factory=Policy)
    bounds: Bounds = field(default_factory=Bounds)
    interval: float = 30.0
    """Between two looks when nothing happens, and between two looks at the runtime's records."""
    report_pause: float = 1.0
    """Between two reports of what may wait: see ``RateLimit``."""
    settle: float = 10.0
    """After something was given up, until anything more may be."""
    records: int = 1
    """Works at once on the runtime's records."""


@dataclass(frozen=True, slots=True)
class Dependencies:
    caches: Caches
    nodes: Nodes
    machine: Machine
    source: LayerSource
    attacher: Attacher
    reporter: Reporter
    state: NodeState
    clock: Clock


class AgentLoop:
    """``run`` ends when it is cancelled; what was fetched and attached stays."""

    def __init__(self, outside: Dependencies, settings: LoopSettings | None = None) -> None:
        self._out = outside
        self._settings = settings or LoopSettings()
        self._wake = asyncio.Event()
        self._news = asyncio.Event()
        self._settled = asyncio.Event()
        """A cache is ready or has failed: among the news."""
        self._caches: Sequence[Cache] | None = None
        self._node: Node | None = None
        self._jobs: dict[str, tuple[Work, asyncio.Task[None]]] = {}
        self._following: dict[str, asyncio.Task[None]] = {}
        self._allowance = Allowance()
        self._unfollowed = Failures()
        self._records = asyncio.Semaphore(self._settings.records)
        self._attached: dict[str, Attached] = {}
        self._progress: dict[str, int] = {}
        self._failures = Failures()
        self._removals = Removals()
        self._collecting: asyncio.Task[None] | None = None
        self._collect_due = True
        """An agent that was killed may have left something."""
        self._evicted = float("-inf")
        self._looked = float("-inf")
        self._noted = float("-inf")
        self._started = outside.clock.monotonic()
        self._rounds = Retries(Backoff(self._settings.interval, self._settings.interval), _log)
        self._plan = Plan()
        self._facts: report.Facts | None = None
        self._uses: deque[tuple[Path, ...]] = deque()

    def wake(self) -> None:
        """Look again now."""
        self._wake.set()

    def used(self, layers: Iterable[Path]) -> None:
        """Containers start from these layer images. Callable from any thread; nobody is woken: it can wait."""
        self._uses.append(tuple(layers))

    async def run(self) -> None:
        await asyncio.to_thread(self._out.state.load)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow_caches())
                group.create_task(self._follow_node())
                group.create_task(self._tell())
                group.create_task(self._look())
        finally:
            tasks = [*(task for _, task in self._jobs.values()), *self._following.values()]
            tasks += [self._collecting] if self._collecting else []
            await cancel_all(tasks)

    async def _follow_caches(self) -> None:
        async for caches in self._out.caches.watch():
            self._caches = caches
            self.wake()

    async def _follow_node(self) -> None:
        async for node in self._out.nodes.watch():
            self._node = node
            self.wake()

    async def _look(self) -> None:
        while True:
            self._wake.clear()
            problem = None
            if self._caches is not None and self._node is not None:
                problem = await self._supervised(partial(self._round, self._caches, self._node))
            self._say(problem)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._wake.wait()

    def _pause(self) -> float:
        now = self._out.clock.monotonic()
        waits = (each.waiting(now).values() for each in (self._failures, self._unfollowed, self._removals))
        return max(0.01, min([self._settings.interval, *chain(*waits)]))

    def _say(self, problem: ImageCacheError | None) -> None:
        """Log a problem once, and have it reported."""
        if problem is None:
            self._rounds.succeeded()
        else:
            self._rounds.failed(problem)
        self._facts = replace(self._facts or report.Facts(self._out.attacher.mode), problem=problem)
        self._news.set()

    async def _supervised(self, work: Callable[[], Awaitable[None]]) -> ImageCacheError | None:
        """Run it, and say how it failed."""
        try:
            await work()
        except ImageCacheError as error:
            return error
        except Exception as error:  # noqa: BLE001 - a supervisor: a bug that one cache meets must not stop the others
            _log.exception("unexpected failure")
            return InternalError(f"{type(error).__name__}: {error}", hint="please report it, with the agent's log")
        return None

    # one round

    async def _round(self, caches: Sequence[Cache], node: Node) -> None:
        problem = await self._supervised(self._find_missing)
        await self._note_uses()
        view = await self._view(caches, node)
        plan = make_plan(view, self._settings.policy, self._settings.bounds)
        if plan.evict:
            view = replace(view, in_use=await self._out.machine.in_use(view.inventory.documents.values()))
            plan = make_plan(view, self._settings.policy, self._settings.bounds)
        self._plan = plan
        self._failures.keep(plan.wanted.keys() | view.known.keys() | view.inventory.whole)
        self._removals.keep(plan.wanted.keys())
        self._unfollowed.keep({cache.building for cache in caches})
        self._facts = self._facts_of(view)
        self._progress = {name: done for name, done in self._progress.items() if name in self._jobs}
        self._carry_out(plan, view)
        await self._untaint(node)
        if problem is not None:
            raise problem

    async def _view(self, caches: Sequence[Cache], node: Node) -> View:
        """Our own works are looked at first: one that ends meanwhile counts as busy, and a next round follows."""
        out, now = self._out, self._out.clock.monotonic()
        busy, attached = self._busy(), frozenset(self._attached)
        known, documents = out.state.known(), out.state.documents
        inventory = await out.source.inventory(assignment.assigned(caches, node.labels, known))
        return View(
            caches=caches,
            labels=node.labels,
            inventory=replace(inventory, documents={**documents, **inventory.documents}),
            known=known,
            attached=attached,
            busy=busy,
            waiting=self._failures.waiting(now).keys() | self._removals.waiting(now).keys(),
            disk=await self._disk(),
            following=tuple(self._following),
            unfollowed=self._unfollowed.waiting(now).keys(),
            settling=now - self._evicted < self._settings.settle,
        )

    async def _disk(self) -> Disk | None:
        return await self._out.machine.disk() if self._out.source.bounded else None

    def _busy(self) -> dict[str, Work]:
        return {name: work for name, (work, _) in self._jobs.items()}

    def _carry_out(self, plan: Plan, view: View) -> None:
        documents, source = view.inventory.documents, self._out.source
        for name in plan.stop:
            self._jobs[name][1].cancel()
        for name in plan.describe:
            self._begin(name, Work.DESCRIBE, partial(source.describe, plan.wanted[name]))
        for name in plan.fetch:
            self._begin(name, Work.FETCH, partial(self._fetch, plan.wanted[name]))
        self._follow_builds(plan)
        for name in plan.attach:
            self._begin(name, Work.ATTACH, partial(self._attach, documents[name], plan.wanted[name].name))
        if plan.evict:
            self._evicted = self._out.clock.monotonic()
            _log.info("giving up bundles for space", bundles=list(plan.evict))
        for name in dict.fromkeys((*plan.remove, *plan.evict)):
            self._begin(name, Work.REMOVE, partial(self._remove, documents[name]))
        if self._collect_due and self._collecting is None and Work.REMOVE not in self._busy().values():
            self._collect_due = False
            self._collecting = asyncio.create_task(self._collect())

    async def _untaint(self, node: Node) -> None:
        """Raises KubernetesError."""
        waited = self._out.clock.monotonic() - self._started
        whole = self._facts.inventory.whole if self._facts else frozenset()
        usable = [name in self._attached and name in whole for name in self._plan.wanted]
        if node.tainted and taint.is_due(usable, waited, self._settings.taint_timeout):
            await self._out.nodes.untaint()
            _log.info("start-up taint removed", ready=sum(usable), wanted=len(usable), seconds=round(waited))

    async def _find_missing(self) -> None:
        """Look, now and then, whether the runtime still has what we attached. Raises ContainerdUnavailable."""
        now = self._out.clock.monotonic()
        if now - self._looked < self._settings.interval or not self._attached:
            return
        names = {name for attached in self._attached.values() for name in attached.images}
        missing = await self._out.attacher.missing(names)
        self._looked = now
        for bundle_id, attached in list(self._attached.items()):
            gone = missing.intersection(attached.images)
            if gone and bundle_id not in self._jobs:
                del self._attached[bundle_id]
                self._removals.note(bundle_id, now)
                _log.warning("records are gone from the runtime", bundle=bundle_id, names=sorted(gone))

    async def _note_uses(self) -> None:
        """Write down, now and then, from which layer images containers have started."""
        if self._out.clock.monotonic() - self._noted < self._settings.interval or not self._uses:
            return
        self._noted = self._out.clock.monotonic()
        state, moment = self._out.state, self._out.clock.now().timestamp()
        names: set[str] = set()
        while self._uses:
            names.update(path.name for path in self._uses.popleft())
        for bundle_id, document in state.documents.items():
            if any(Path(layer.path).name in names for layer in document.layer_names()):
                state.used(bundle_id, moment)
        await asyncio.to_thread(state.flush)

    # works

    def _begin(self, bundle_id: str, work: Work, what: Callable[[], Awaitable[None]]) -> None:
        task = asyncio.create_task(self._job(bundle_id, what))
        self._jobs[bundle_id] = (work, task)
        task.add_done_callback(lambda _task: self._ended(bundle_id))

    async def _job(self, bundle_id: str, what: Callable[[], Awaitable[None]]) -> None:
        error = await self._supervised(what)
        if error is not None:
            self._failed(bundle_id, error)

    def _ended(self, bundle_id: str) -> None:
        del self._jobs[bundle_id]
        self.wake()

    def _failed(self, bundle_id: str, error: ImageCacheError) -> None:
        before = self._failures.get(bundle_id)
        now, done = self._out.clock.monotonic(), self._progress.get(bundle_id, 0)
        failure = self._failures.note(bundle_id, error, now, done)
        self._settle()
        if before is None or before.message != failure.message:
            cache = self._plan.wanted.get(bundle_id)
            _log.warning(
                "will try again",
                cache=cache.name if cache else "",
                bundle=bundle_id,
                reason=failure.reason,
                problem=failure.message,
                hint=failure.hint,
                seconds=round(failure.until - now),
            )

    def _follow_builds(self, plan: Plan) -> None:
        self._allowance.grant(plan.spare)
        for name in self._following.keys() - set(plan.follow):
            self._following[name].cancel()
        for name in plan.follow:
            if name not in self._following:
                task = self._following[name] = asyncio.create_task(self._follow(name))
                task.add_done_callback(partial(self._followed, name))

    async def _follow(self, bundle_id: str) -> None:
        error = await self._supervised(partial(self._out.source.follow, bundle_id, self._allowance))
        if error is not None:
            failure = self._unfollowed.note(bundle_id, error, self._out.clock.monotonic())
            _log.info("build not followed for now", bundle=bundle_id, reason=error.reason, problem=failure.message)

    def _followed(self, bundle_id: str, _task: asyncio.Task[None]) -> None:
        """What came of a build that is not followed any more goes, unless it became a bundle that is here."""
        del self._following[bundle_id]
        if self._facts is None or bundle_id not in self._facts.inventory.whole:
            self._collect_due = True
            self.wake()

    async def _fetch(self, cache: Cache) -> None:
        def progress(done: int) -> None:
            self._progress[cache.id] = done
            self._news.set()

        await self._out.source.fetch(cache, progress)
        self._failures.clear(cache.id)
        _log.info("bundle is here", cache=cache.name, bundle=cache.id, bytes=self._progress.get(cache.id, 0))

    async def _attach(self, document: Bundle, cache: str) -> None:
        async with self._records:
            await asyncio.to_thread(self._out.state.write, document, [cache])
            attached = await self._out.attacher.attach(document)
        self._attached[document.id] = attached
        self._failures.clear(document.id)
        self._settle()
        _log.info("image cache is usable here", cache=cache, bundle=document.id, images=list(attached.images))

    async def _remove(self, document: Bundle) -> None:
        """Records first, then the bundle, then the memory of it: wherever this ends, the next one goes on."""
        async with self._records:
            self._attached.pop(document.id, None)
            documents = self._out.state.documents
            going = {name for name, work in self._busy().items() if work is Work.REMOVE}
            staying = (self._attached.keys() | self._plan.wanted.keys()) - going
            await self._out.attacher.detach(document, [documents[name] for name in documents if name in staying])
        await self._out.source.forget(document.id)
        await asyncio.to_thread(self._out.state.erase, document.id)
        self._collect_due = True
        self._failures.clear(document.id)
        _log.info("bundle is taken off this node", bundle=document.id)

    async def _collect(self) -> None:
        problem = await self._supervised(self._out.source.collect)
        self._collecting = None
        if problem is not None:
            self._collect_due = True
            _log.warning("collection failed", reason=problem.reason, problem=str(problem))
        else:
            self.wake()

    # what is told

    def _settle(self) -> None:
        self._settled.set()
        self._news.set()

    async def _tell(self) -> None:
        """Report whenever there is something new, as often as ``RateLimit`` allows."""
        written, for_node, pace = NodeStatus(), "", RateLimit(self._settings.report_pause)
        while True:
            await self._news.wait()
            self._news.clear()
            self._settled.clear()
            facts, node = self._current_facts(), self._node
            if facts is not None and node is not None:
                status = report.status(facts, written, self._out.clock.now())
                if node.uid != for_node or report.differs(status, written):
                    problem = await self._supervised(partial(self._out.reporter.report, status, node))
                    pace.reported()
                    if problem is None:
                        written, for_node = status, node.uid
                    else:
                        self._say_unreported(problem)
            await pace.rest(self._settled)

    def _say_unreported(self, problem: ImageCacheError) -> None:
        _log.warning("state not reported", reason=problem.reason, problem=str(problem))
        asyncio.get_running_loop().call_later(self._settings.report_pause * 5, self._news.set)

    def _facts_of(self, view: View) -> report.Facts:
        return report.Facts(
            mode=self._out.attacher.mode,
            wanted=self._plan.wanted,
            inventory=view.inventory,
            refused=self._plan.refused,
            disk=view.disk,
            policy=self._settings.policy,
            problem=self._facts.problem if self._facts else None,
        )

    def _current_facts(self) -> report.Facts | None:
        if self._facts is None:
            return None
        return replace(
            self._facts,
            mode=self._out.attacher.mode,
            attached=dict(self._attached),
            busy=self._busy(),
            progress=dict(self._progress),
            failures=self._failures.all(),
            removed=self._removals.waiting(self._out.clock.monotonic()).keys(),
        )
