"""The expiry of a cache that a pod had made for it: what nobody uses goes by itself. Pure.

Source: eci-api §4. It follows from the object, so nothing is remembered, and a match puts it off. A retention that a
person has written wins, also the one that says "for ever".
"""

from __future__ import annotations

import datetime as dt

from msgspec.structs import replace

from imagecache.api import annotations as known
from imagecache.api import assignment, times
from imagecache.api.types import ImageCache, Status
from imagecache.controller.decision import Role
from imagecache.match.keys import AUTO_CREATED

NEVER_USED = dt.timedelta(days=7)
"""From its creation."""
USED = dt.timedelta(days=30)
"""From the last match."""


def expiring(cache: ImageCache, status: Status, role: Role) -> Status:
    """The status with that expiry; the very same for any other cache, and for one that does not serve.

    In a cluster alone: nobody matches elsewhere.
    """
    by_hand = cache.spec.retention_days is not None or known.RETENTION_DAYS in cache.metadata.annotations
    auto = role is Role.CLUSTER and cache.metadata.labels.get(AUTO_CREATED) == "true"
    if not auto or by_hand or status.phase not in assignment.SERVING:
        return status
    ends = [times.parse(cache.metadata.creation_timestamp or status.start_time) + NEVER_USED]
    if status.last_matched_time:
        ends.append(times.parse(status.last_matched_time) + USED)
    return replace(status, expire_date_time=times.render(max(ends)))
