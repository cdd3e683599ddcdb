"""What follows from a status whatever its phase: the conditions Serving, Degraded, NameTaken and TagDrifted. Pure."""

from __future__ import annotations

import datetime as dt

from imagecache.api import assignment, building, columns, phases, tags
from imagecache.api.effective_spec import EffectiveSpec
from imagecache.api.types import ImageCache, Phase, Status
from imagecache.controller import choice
from imagecache.controller.decision import ObservedState, Role


def with_conditions(
    status: Status,
    cache: ImageCache,
    spec: EffectiveSpec | None,
    observed: ObservedState,
    *,
    generation: int,
    now: dt.datetime,
) -> Status:
    """``generation``: that the status is about."""
    if observed.store_problem is None:
        status = phases.serving(status, generation, now, **_serving(status, observed))
    status = phases.degraded(status, generation, now, **_degraded(status, cache, spec, observed))
    if spec is not None and observed.nodes is not None:
        words = observed.nodes.taken(cache.name, status.image_cache_id, spec.target(status))
        status = phases.name_taken(status, generation, now, message=words)
    return tags.drifted(status, generation, now)


def _serving(status: Status, observed: ObservedState) -> dict[str, str]:
    if status.phase not in assignment.SERVING:
        return {"reason": "NotBuilt"}
    if status.image_cache_id in choice.genuine(status, observed.bundles):
        return {"reason": "Built" if status.phase is Phase.READY else status.phase.value}
    return {"reason": "BundleLost", "message": "the store has lost it; nodes that have it keep it meanwhile"}


def _degraded(status: Status, cache: ImageCache, spec: EffectiveSpec | None, observed: ObservedState) -> dict[str, str]:
    if observed.store_problem is not None:
        problem = observed.store_problem
        return {"reason": problem.reason, "message": building.explain(problem)}
    if status.phase is Phase.UPDATE_FAILED:
        return {"reason": "UpdateFailed", "message": ": ".join(phases.outcome(status))}
    if status.nodes and status.nodes.failed and status.phase in assignment.SERVING:
        in_cluster = observed.role is Role.CLUSTER
        where = "kubectl get nodeimagecaches -o yaml" if in_cluster else f"imagecache describe {cache.name}"
        message = f"{status.nodes.failed} of {columns.count(status.nodes.desired, 'node')}; see {where}"
        return {"reason": "NodesFailed", "message": message}
    if spec is not None and spec.schedule_problem:
        return {"reason": "InvalidSchedule", "message": spec.schedule_problem}
    return {}
