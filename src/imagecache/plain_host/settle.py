"""One object from a person's command to Ready, by the same decisions that a controller carries out.

The caller holds the claim on the object and shows the build's progress. It must not decide.
"""

from __future__ import annotations

import asyncio

from imagecache.api import parse, phases
from imagecache.api.types import ImageCache, Phase
from imagecache.clock import Clock
from imagecache.controller.reconciler import Reconciler
from imagecache.errors import ImageCacheError, NotFound, StoreError
from imagecache.kube.api import Kube
from imagecache.kube.resources import IMAGE_CACHES

_PAUSE = 0.2
"""Seconds until a status is written again that the disk has refused while a build runs."""


async def settle(reconciler: Reconciler, kube: Kube, name: str, clock: Clock) -> ImageCache:
    """Reconcile until the object is Ready, and return it.

    Raises what keeps it from being Ready, which is in its status too. Cancelled, it leaves a state that the next call
    resumes.
    """
    requested = True
    try:
        while True:
            building = reconciler.builds.running  # before: the build may end while the disk refuses the status
            try:
                decision = await reconciler.reconcile(name, requested=requested)
            except StoreError:
                if not building:
                    raise
                # the disk may be full for a moment; only the last status must be written
                reconciler.queue.add(name, _PAUSE)
            else:
                requested = False
                if decision is None or decision.status is None:
                    raise NotFound(f"{name} has expired and was deleted", hint="create it again")
                if decision.problem is not None:
                    raise decision.problem
                if decision.status.phase is Phase.READY:
                    return parse.stored(await kube.get(IMAGE_CACHES, name)).cache
            reconciler.queue.done(await reconciler.queue.take())
    except ImageCacheError:
        raise
    except BaseException:  # cancelled, or a bug: the object must not be shown as being built for ever
        await asyncio.shield(_interrupt(reconciler, kube, name, clock))
        raise


async def _interrupt(reconciler: Reconciler, kube: Kube, name: str, clock: Clock) -> None:
    await reconciler.close()
    item = await kube.get(IMAGE_CACHES, name)
    cache = parse.stored(item).cache
    if cache.status is not None and cache.status.phase in phases.UNFINISHED:
        status = phases.interrupted(cache.status, cache.metadata.generation, clock.now())
        await reconciler.write_status(cache, item, status)
