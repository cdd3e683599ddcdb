"""Let every pod go that our gate holds: before an uninstallation, or when there will be no controller any more.

Nothing is matched; each pod is told that it was let go. It may be repeated, and may run beside a controller.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from imagecache.clock import Clock
from imagecache.concurrency import run_all
from imagecache.controller.pods.decide import Tell, event_name
from imagecache.controller.pods.hands import without_gate
from imagecache.controller.pods.messages import Subject, post
from imagecache.controller.pods.pod import DECODER, Pod
from imagecache.errors import KubernetesError, KubernetesUnavailable, ObjectNotFound, ObjectRefused
from imagecache.kube.api import ClusterKube, Object
from imagecache.kube.resources import PODS
from imagecache.kube.stream import pages
from imagecache.match import events
from imagecache.telemetry.log import get_logger

_AT_ONCE = 16
_LOOKS = 30
"""That find held pods, at most: after those, something goes on holding pods."""
_PAUSE = 2.0
"""Seconds before the look that must find none: API servers go on using a policy for a moment after it was deleted."""
_TELLING = 20.0
"""Seconds for the events of one look."""
_log = get_logger(__name__)


async def release(kube: ClusterKube, clock: Clock, *, pause: float = _PAUSE, telling: float = _TELLING) -> int:
    """How many were let go. Raises KubernetesError; ObjectRefused when pods are held again and again."""
    count, quiet = 0, 0
    for _ in range(_LOOKS):
        held = await _held(kube)
        if not held and quiet:
            return count
        quiet = 0 if held else 1
        limit = asyncio.Semaphore(_AT_ONCE)
        problems = [each for each in await run_all(*(_let_go(kube, pod, limit) for pod in held)) if each is not None]
        await _tell_all(kube, clock, held, telling)
        count += len(held) - len(problems)
        if problems and len(problems) == len(held):
            raise problems[0]
        await asyncio.sleep(pause)
    raise ObjectRefused(
        "pods are held again as soon as they are let go",
        hint="delete what gates them first: kubectl delete mutatingadmissionpolicybinding imagecache-pinned-pods",
    )


async def _held(kube: ClusterKube) -> list[Pod]:
    found: list[Pod] = []
    async for page in pages(kube, PODS, DECODER, fields="status.phase=Pending"):
        found += [pod.kept() for pod in page.objects if pod.is_gated]
    return found


async def _let_go(kube: ClusterKube, pod: Pod, limit: asyncio.Semaphore) -> KubernetesError | None:
    """What is in the way of this one, which must not keep the others."""
    async with limit:
        try:
            patch: Object = {"metadata": {"uid": pod.uid}, "spec": {"schedulingGates": [without_gate()]}}
            await kube.strategic_patch(PODS, pod.name, patch, namespace=pod.namespace)
            _log.info("pod is let go", namespace=pod.namespace, name=pod.name)
        except ObjectNotFound:
            pass
        except KubernetesError as error:
            _log.warning("pod is not let go", namespace=pod.namespace, name=pod.name, problem=str(error))
            return error
    return None


async def _tell_all(kube: ClusterKube, clock: Clock, pods: Sequence[Pod], seconds: float) -> None:
    """When all of them have been let go: no pod waits for an event, and an uninstallation not for long."""
    limit = asyncio.Semaphore(_AT_ONCE)
    try:
        async with asyncio.timeout(seconds):
            await run_all(*(_tell(kube, clock, pod, limit) for pod in pods))
    except (TimeoutError, KubernetesUnavailable) as error:
        _log.warning("not every pod is told that it was let go", problem=str(error) or "it takes too long")


async def _tell(kube: ClusterKube, clock: Clock, pod: Pod, limit: asyncio.Semaphore) -> None:
    told = events.released()
    async with limit:
        try:
            await post(kube, Subject.of(pod), Tell(told, event_name(pod.name, pod.uid, told)), clock.now())
        except KubernetesUnavailable:
            raise
        except KubernetesError as error:
            _log.warning("event not posted", namespace=pod.namespace, name=pod.name, problem=str(error))
