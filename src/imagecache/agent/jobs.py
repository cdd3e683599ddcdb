"""The jobs of a node: at most one for each bundle, in a task of its own, beside prefetches and the collection.

The failure of a job is its bundle's alone; it is tried again when ``failures`` allows. It must not decide what to do:
``plan`` does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from imagecache.agent.attachments import Attachments
from imagecache.agent.collection import Collection
from imagecache.agent.dependencies import Dependencies
from imagecache.agent.failures import Failures
from imagecache.agent.plan import JobKind, Plan, View
from imagecache.agent.prefetches import Prefetches
from imagecache.agent.status_reporter import StatusReporter
from imagecache.agent.supervision import failure_of
from imagecache.api.assignment import Cache
from imagecache.concurrency import cancel_all
from imagecache.errors import ImageCacheError
from imagecache.store.bundle_document import Bundle
from imagecache.telemetry.log import get_logger

_log = get_logger(__name__)


class Jobs:
    """``carry_out`` starts and stops them; a plan and a report read the rest."""

    def __init__(
        self, dependencies: Dependencies, attachments: Attachments, reporter: StatusReporter, wake: Callable[[], None]
    ) -> None:
        """``wake`` asks for another round; called whenever a job has ended."""
        self.failures = Failures()
        self.progress: dict[str, int] = {}
        """Bytes on this node of each bundle that is being fetched."""
        self.prefetches = Prefetches(dependencies.source, dependencies.clock, self._found_garbage)
        self._dependencies = dependencies
        self._attachments = attachments
        self._reporter = reporter
        self._wake = wake
        self._collection = Collection(dependencies.source, wake)
        self._tasks: dict[str, tuple[JobKind, asyncio.Task[None]]] = {}
        self._plan = Plan()

    @property
    def running(self) -> dict[str, JobKind]:
        return {name: kind for name, (kind, _) in self._tasks.items()}

    def carry_out(self, plan: Plan, view: View) -> None:
        """Start and stop what the plan says; other jobs continue."""
        documents, source = view.inventory.documents, self._dependencies.source
        self._plan = plan
        self.failures.keep(plan.assigned.keys() | view.known.keys() | view.inventory.whole)
        self.progress = {name: done for name, done in self.progress.items() if name in self._tasks}
        for name in plan.stop:
            self._tasks[name][1].cancel()
        for name in plan.describe:
            self._start(name, JobKind.DESCRIBE, partial(source.describe, plan.assigned[name]))
        for name in plan.fetch:
            self._start(name, JobKind.FETCH, partial(self._fetch, plan.assigned[name]))
        self.prefetches.failures.keep({cache.building for cache in view.caches})
        self.prefetches.update(plan.prefetch, plan.spare, view.inventory.whole)
        for name in plan.attach:
            self._start(name, JobKind.ATTACH, partial(self._attach, documents[name], plan.assigned[name]))
        for name in dict.fromkeys((*plan.remove, *plan.evict)):
            self._start(name, JobKind.REMOVE, partial(self._remove, documents[name]))
        if JobKind.REMOVE not in self.running.values():  # each removal leaves more to collect: one collection for all
            self._collection.start()

    async def close(self) -> None:
        """Cancel everything; what was fetched and attached stays."""
        await cancel_all(task for _, task in self._tasks.values())
        await self.prefetches.close()
        await self._collection.close()

    def _start(self, bundle_id: str, kind: JobKind, work: Callable[[], Awaitable[None]]) -> None:
        task = asyncio.create_task(self._supervise(bundle_id, work))
        self._tasks[bundle_id] = (kind, task)
        task.add_done_callback(lambda _task: self._ended(bundle_id))

    async def _supervise(self, bundle_id: str, work: Callable[[], Awaitable[None]]) -> None:
        error = await failure_of(work())
        if error is not None:
            self._failed(bundle_id, error)

    def _ended(self, bundle_id: str) -> None:
        del self._tasks[bundle_id]
        self._wake()

    def _found_garbage(self) -> None:
        self._collection.due = True
        self._wake()

    def _failed(self, bundle_id: str, error: ImageCacheError) -> None:
        before = self.failures.get(bundle_id)
        now = self._dependencies.clock.monotonic()
        failure = self.failures.note(bundle_id, error, now, self.progress.get(bundle_id, 0))
        self._reporter.settled()
        if before is None or before.message != failure.message:  # the same problem is logged once
            cache = self._plan.assigned.get(bundle_id)
            _log.warning(
                "will try again",
                cache=cache.name if cache else "",
                bundle=bundle_id,
                reason=failure.reason,
                problem=failure.message,
                hint=failure.hint,
                seconds=round(failure.until - now),
            )

    async def _fetch(self, cache: Cache) -> None:
        def progress(done: int) -> None:
            self.progress[cache.id] = done
            self._reporter.changed()

        clock = self._dependencies.clock
        start = clock.monotonic()
        await self._dependencies.source.fetch(cache, progress)
        self._dependencies.metrics.fetch_seconds.observe(clock.monotonic() - start)
        self.failures.clear(cache.id)
        _log.info("bundle fetched", cache=cache.name, bundle=cache.id, bytes=self.progress.get(cache.id, 0))

    async def _attach(self, bundle: Bundle, cache: Cache) -> None:
        before = self._attachments.document(bundle.id)
        if before is not None and before != bundle:  # the controller has made another one of its id
            await self._attachments.detach(before, lambda: self._staying() - {bundle.id})
        attached = await self._attachments.attach(bundle, cache)
        self.failures.clear(bundle.id)
        self._reporter.settled()
        _log.info(
            "image cache is usable on this node",
            cache=cache.name,
            bundle=bundle.id,
            images=list(attached.images),
            unpacked=sorted(attached.unpacked),
        )

    async def _remove(self, bundle: Bundle) -> None:
        """Records, then files, then state: when this is killed anywhere, the next removal finishes it."""
        await self._attachments.detach(bundle, self._staying)
        await self._dependencies.source.forget(bundle.id)
        await self._attachments.forget(bundle.id)
        self._collection.due = True
        self.failures.clear(bundle.id)
        _log.info("bundle is removed from this node", bundle=bundle.id)

    def _staying(self) -> set[str]:
        """Ids of bundles whose records must survive a removal."""
        removing = {name for name, kind in self.running.items() if kind is JobKind.REMOVE}
        return (self._attachments.attached.keys() | self._plan.assigned.keys()) - removing
