"""Fakes of what the cluster's controller works with: a builder and a store of bundles in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from imagecache.api import events
from imagecache.controller.dependencies import Job, Progress, Report
from imagecache.errors import ImageCacheError, ImageNotFound, NotFound, StoreError, Unauthenticated
from imagecache.store.model import Bundle
from testkit.builder import LAYER_SIZE, image_record
from testkit.clock import START

IMAGES: Mapping[str, Sequence[str]] = {"nginx:1.25": ("base", "nginx"), "redis:7": ("base", "redis")}


@dataclass
class MemoryStore:
    """Fake of ``controller.dependencies.BundleStore``."""

    documents: dict[str, Bundle] = field(default_factory=dict)
    failure: StoreError | None = None
    collections: int = 0

    def get(self, bundle_id: str) -> Bundle:
        self._check()
        if bundle_id not in self.documents:
            raise NotFound(f"no bundle {bundle_id} in the store")
        return self.documents[bundle_id]

    def delete(self, bundle_id: str) -> None:
        self.get(bundle_id)
        del self.documents[bundle_id]

    def collect(self) -> int:
        self._check()
        self.collections += 1
        return 0

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure


@dataclass
class FakeBuilder:
    """Fake of ``controller.dependencies.Builder``: builds images of a table into a ``MemoryStore``.

    An image in ``private`` needs a secret whose payload has the word ``good``.
    """

    store: MemoryStore
    images: Mapping[str, Sequence[str]] = field(default_factory=lambda: IMAGES)
    private: frozenset[str] = frozenset()
    failure: ImageCacheError | None = None
    pause: asyncio.Event | None = None
    """Waited for half-way."""
    jobs: list[Job] = field(default_factory=list)
    running: int = 0
    most: int = 0
    """Builds that ran at the same time."""

    async def build(self, job: Job, report: Callable[[Report], None]) -> None:
        self.jobs.append(job)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self._build(job, report)
        finally:
            self.running -= 1

    async def _build(self, job: Job, report: Callable[[Report], None]) -> None:
        for image in job.request.images:
            self._find(image, job)
            report(events.event("Pulling", f"Pulling image {image}", about=image, now=START))
        total = 2 * LAYER_SIZE * len(job.request.images)
        report(Progress(total // 4, total))
        await asyncio.sleep(0)
        if self.pause is not None:
            await self.pause.wait()
        if self.failure is not None:
            raise self.failure
        report(Progress(total, total))
        records = tuple(image_record(image, self.images[image]) for image in job.request.images)
        document = Bundle(id=job.request.bundle_id, created="2024-05-01T12:00:00Z", images=records)
        self.store.documents[document.id] = document

    def _find(self, image: str, job: Job) -> None:
        if image not in self.images:
            raise ImageNotFound("the registry has no such tag", hint="check the tag", image=image)
        if image in self.private and not any(b"good" in secret.config for secret in job.secrets):
            raise Unauthenticated("the registry wants a credential", hint="check imagePullSecrets", image=image)
