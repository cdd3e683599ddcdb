"""The start-up taint: a node gets no pods until its caches are usable, or until it has waited long enough. Pure.

What creates nodes (kubelet's ``--register-with-taints``, an autoscaler's template) sets the taint; the agent removes
it, once.
"""

from __future__ import annotations

from collections.abc import Iterable

from imagecache.api.nodes import NOT_READY_TAINT
from imagecache.api.yamltext import JSON
from imagecache.kube import objects


def without(taints: JSON) -> list[JSON] | None:
    """The taints of a Node without ours; None when ours is not among them."""
    if not isinstance(taints, list):
        return None
    # by key alone: the effect is the administrator's choice (NoSchedule or NoExecute)
    left = [taint for taint in taints if objects.text(taint, "key") != NOT_READY_TAINT]
    return left if len(left) < len(taints) else None


def is_due(usable: Iterable[bool], waited: float, timeout: float) -> bool:
    """Whether the taint may be removed.

    Args:
        usable: for each cache that is assigned to the node, whether it is usable on it.
        waited: seconds since the agent started.
        timeout: seconds after which it is removed whatever is missing; 0: never.
    """
    return all(usable) or 0 < timeout <= waited
