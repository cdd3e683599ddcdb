"""One round of a node's agent: observe, plan, carry out.

It must not decide: ``plan``, ``budget``, ``failures`` and ``taint`` do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from imagecache.agent import taint
from imagecache.agent.attachments import Attachments
from imagecache.agent.budget import Disk
from imagecache.agent.dependencies import Dependencies, Node
from imagecache.agent.jobs import Jobs
from imagecache.agent.layer_uses import LayerUses
from imagecache.agent.plan import Plan, View, make_plan
from imagecache.agent.report import Facts
from imagecache.agent.settings import LoopSettings
from imagecache.agent.supervision import failure_of
from imagecache.api import assignment
from imagecache.api.assignment import Cache
from imagecache.errors import ImageCacheError
from imagecache.telemetry.log import get_logger

_log = get_logger(__name__)


class Rounds:
    """Remembers the last view and plan, for the report."""

    def __init__(
        self, dependencies: Dependencies, settings: LoopSettings, jobs: Jobs, attachments: Attachments, uses: LayerUses
    ) -> None:
        self._dependencies = dependencies
        self._settings = settings
        self._jobs = jobs
        self._attachments = attachments
        self._uses = uses
        self._started = dependencies.clock.monotonic()
        self._evicted = float("-inf")
        self._view = View()
        self._plan = Plan()

    async def run(self, caches: Sequence[Cache], node: Node) -> None:
        """Raises what kept the round from being complete; what could be done is done all the same."""
        # a runtime that is away must not keep the node from fetching
        problem = await failure_of(self._attachments.check(self._settings.interval, lambda: self._jobs.running))
        # unanswered, what was known before counts: an attach would fail for the same reason, and say so
        await failure_of(self._attachments.look(self._settings.interval))
        await self._uses.write()
        view = await self._observe(caches, node)
        plan = make_plan(view, self._settings.policy, self._settings.bounds)
        if plan.evict:
            # asked only now, since it lists all containers: evicting what they run on would free nothing
            unpacked = {name for known in view.known.values() for name in known.unpacked}
            in_use = await self._dependencies.machine.in_use(view.inventory.documents.values(), unpacked)
            view = replace(view, in_use=in_use)
            plan = make_plan(view, self._settings.policy, self._settings.bounds)
        if plan.evict:
            self._evicted = self._dependencies.clock.monotonic()
            _log.info("evicting bundles to free space", bundles=list(plan.evict))
        self._view, self._plan = view, plan
        self._attachments.removals.keep(plan.assigned.keys())
        self._jobs.carry_out(plan, view)
        await self._untaint(node)
        if problem is not None:
            raise problem

    def pause(self) -> float:
        """Seconds until the next round when nothing happens before."""
        now = self._dependencies.clock.monotonic()
        waits = (self._jobs.failures, self._jobs.prefetches.failures, self._attachments.removals)
        due = [left for each in waits for left in each.waiting(now).values()]
        return max(0.01, min([self._settings.interval, *due]))  # not 0: the loop would spin while two clocks differ

    def facts(self, problem: ImageCacheError | None) -> Facts:
        """The last view and plan, with the present state of the jobs."""
        return Facts(
            mode=self._dependencies.attacher.mode,
            assigned=self._plan.assigned,
            inventory=self._view.inventory,
            attached=dict(self._attachments.attached),
            running=self._jobs.running,
            progress=dict(self._jobs.progress),
            failures=self._jobs.failures.all(),
            removed=self._attachments.removals.waiting(self._dependencies.clock.monotonic()).keys(),
            refused=self._plan.refused,
            disk=self._view.disk,
            policy=self._settings.policy,
            problem=problem,
        )

    async def _observe(self, caches: Sequence[Cache], node: Node) -> View:
        """Jobs are read first: one that ends meanwhile counts as busy, and its end starts another round."""
        source, state = self._dependencies.source, self._dependencies.state
        now = self._dependencies.clock.monotonic()
        known, documents = state.known(), state.documents
        assigned = assignment.assigned(caches, node.labels, known, node.platform)
        busy, attached = self._jobs.running, self._attachments.as_asked(assigned)
        inventory = await source.inventory(assigned)
        # one whose document the controller has replaced is attached anew
        attached = frozenset(name for name in attached if inventory.documents.get(name) in (None, documents.get(name)))
        begun = await self._attachments.begun(assigned, attached, inventory.documents) if source.bounded else {}
        return View(
            caches=caches,
            labels=node.labels,
            platform=node.platform,
            # what only the state remembers can still be detached
            inventory=replace(inventory, documents={**documents, **inventory.documents}),
            known=known,
            attached=attached,
            handlers=self._attachments.handlers,
            begun=begun,
            busy=busy,
            waiting=self._jobs.failures.waiting(now).keys() | self._attachments.removals.waiting(now).keys(),
            disk=await self._disk(),
            prefetching=self._jobs.prefetches.running,
            prefetch_waiting=self._jobs.prefetches.failures.waiting(now).keys(),
            settling=now - self._evicted < self._settings.settle,
        )

    async def _disk(self) -> Disk | None:
        return await self._dependencies.machine.disk() if self._dependencies.source.bounded else None

    async def _untaint(self, node: Node) -> None:
        """Raises KubernetesError."""
        waited = self._dependencies.clock.monotonic() - self._started
        attached, whole = self._attachments.attached, self._view.inventory.whole
        usable = [name in attached and name in whole for name in self._plan.assigned]
        if node.tainted and taint.is_due(usable, waited, self._settings.taint_timeout):
            await self._dependencies.nodes.untaint()
            _log.info("start-up taint removed", ready=sum(usable), assigned=len(usable), seconds=round(waited))
