"""The start-up taint: a node takes no pods before its caches are there, or before it has waited long enough. Pure.

Whoever makes nodes (kubelet's ``--register-with-taints``, an autoscaler's template) puts the taint on; the agent takes
it off, once.
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
    left = [taint for taint in taints if objects.text(taint, "key") != NOT_READY_TAINT]
    return left if len(left) < len(taints) else None


def is_due(usable: Iterable[bool], waited: float, timeout: float) -> bool:
    """Whether the taint may go.

    Args:
        usable: for each cache that is meant for the node and ready in the cluster, whether it is usable here.
        waited: seconds since the agent began.
        timeout: seconds after which it goes whatever is missing; 0: never so.
    """
    return all(usable) or 0 < timeout <= waited
