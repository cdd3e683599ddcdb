"""Events on the object: what ``kubectl describe`` shows.

Source: core/v1 Event. Events about cluster-scoped objects live in the namespace ``default``. They are for people: one
that cannot be recorded is logged and lost, and is in ``status.events`` anyway.
"""

from __future__ import annotations

import secrets

from imagecache.api.events import MESSAGE
from imagecache.api.types import API_VERSION, KIND, Event, ImageCache
from imagecache.errors import KubernetesError
from imagecache.kube.api import Kube, Object
from imagecache.kube.resources import EVENTS
from imagecache.telemetry.log import get_logger
from imagecache.written import printable

NAMESPACE = "default"
COMPONENT = "imagecache-controller"
_log = get_logger(__name__)


async def record(kube: Kube, cache: ImageCache, events: tuple[Event, ...]) -> None:
    """Never raises for what the API server says."""
    for event in events:
        try:
            await kube.create(EVENTS, _object(cache, event), namespace=NAMESPACE)
        except KubernetesError as error:
            _log.warning("event not recorded", name=cache.name, reason=event.reason, problem=str(error))


def _object(cache: ImageCache, event: Event) -> Object:
    return {
        # a name has at most 253 characters, and two events about one object may be made in the same moment
        "metadata": {"name": f"{cache.name[:230].rstrip('.-')}.{secrets.token_hex(8)}", "namespace": NAMESPACE},
        "involvedObject": {"apiVersion": API_VERSION, "kind": KIND, "name": cache.name, "uid": cache.metadata.uid},
        "type": event.type,
        "reason": event.reason,
        "message": printable(event.message, MESSAGE),
        "count": 1,
        "firstTimestamp": event.first_timestamp,
        "lastTimestamp": event.last_timestamp,
        "source": {"component": COMPONENT},
    }
