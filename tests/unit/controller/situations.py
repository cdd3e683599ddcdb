"""Caches, bundles, statuses and nodes for the table of ``test_decide``."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import msgspec

from imagecache.api import building, events, phases
from imagecache.api.building import BuildRequest
from imagecache.api.effective_spec import effective_spec
from imagecache.api.ids import derived_cache_id
from imagecache.api.nodes import FINALIZER, CacheState, NodeCache, NodeStatus, NodeView
from imagecache.api.types import API_VERSION, KIND, ImageCache, Metadata, Spec, Status
from imagecache.controller.decide import decide
from imagecache.controller.decision import (
    ObservedState,
)
from imagecache.errors import (
    AccessDenied,
    ImageCacheError,
    ImageNotFound,
    InvalidManifest,
    PullSecretUnavailable,
    StoreBusy,
    StoreError,
    Unauthenticated,
)
from imagecache.oci.descriptor import Platform
from imagecache.store.bundle_document import Bundle
from testkit.builder import IMAGES, image_record

NOW = dt.datetime(2024, 5, 1, 12, 0, 0, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
UID = "11111111-1111-4111-8111-111111111111"
ONE, TWO = (derived_cache_id(UID, generation) for generation in (1, 2))
"""Ids of the first and of the second generation."""
NGINX, REDIS = "nginx:1.25", "redis:7"


def cache(
    *images: str, generation: int = 1, status: Status | None = None, secrets: tuple[str, ...] = (), **metadata: Any
) -> ImageCache:
    """An object that the controller has seen before, unless ``finalizers`` say otherwise."""
    fields: dict[str, Any] = {"finalizers": (FINALIZER,), "uid": UID, "generation": generation} | metadata
    return ImageCache(
        api_version=API_VERSION,
        kind=KIND,
        metadata=Metadata(name="a", **fields),
        spec=Spec(images=images or (NGINX,), image_pull_secrets=secrets),
        status=status,
    )


def bundle(bundle_id: str, *images: str, architectures: Sequence[str] = ("amd64",)) -> Bundle:
    records = [image_record(image, IMAGES[image]) for image in images or (NGINX,)]
    platforms = tuple(Platform(os="linux", architecture=each) for each in architectures)
    records = [msgspec.structs.replace(record, platform=each) for record in records for each in platforms]
    return Bundle(id=bundle_id, created="2024-05-01T12:00:00Z", platforms=platforms, images=tuple(records))


def request(bundle_id: str, of: ImageCache) -> BuildRequest:
    return building.request(bundle_id, effective_spec(of, architectures=("amd64",)))


def pending(generation: int = 1, bundle_id: str = ONE) -> Status:
    return phases.started(phases.begin(bundle_id, generation, NOW), generation, NOW)


def creating(generation: int = 1) -> Status:
    return phases.advance(pending(generation), 60, 100, NOW)


def ready(generation: int = 1, bundle_id: str = ONE, *images: str, retention_days: int | None = None) -> Status:
    document = bundle(bundle_id, *images)
    return building.ready(pending(generation, bundle_id), generation, NOW, document, retention_days)


def failed(error: ImageCacheError, generation: int = 1) -> Status:
    message = building.explain(error)
    return phases.failed(creating(generation), generation, NOW, reason=error.reason, message=message)


def updating(generation: int = 2, bundle_id: str = ONE) -> Status:
    return phases.update(ready(bundle_id=bundle_id), generation, NOW)


def update_failed(error: ImageCacheError, generation: int = 2) -> Status:
    message = building.explain(error)
    return phases.failed(updating(generation), generation, NOW, reason=error.reason, message=message)


def node(name: str, state: CacheState, labels: dict[str, str] | None, bundle_id: str = ONE) -> NodeView:
    return NodeView(name, labels, NodeStatus(caches=(NodeCache(name="a", id=bundle_id, state=state),)))


NOT_FOUND = ImageNotFound("no such tag", hint="check the tag", image=NGINX)
REFUSED = Unauthenticated("no credential", image=NGINX)
DENIED = AccessDenied("not allowed", image=NGINX)
NO_SECRET = PullSecretUnavailable("imagePullSecret default:s does not exist", hint="create it")
BUSY = StoreBusy("in use")
DISK = StoreError("the disk is gone")
NONSENSE = InvalidManifest("spec.images: 21 images")
PULLING = events.event("Pulling", "Pulling image", about=NGINX, now=NOW)
SECRETS = ("default:s",)
"""Of a cache whose registry wants a credential."""
A = cache()


def settled(status: Status, **observed: Any) -> Status:
    """The status after a decision that has nothing left to do: counts and columns are in it."""
    state = ObservedState(**{"architectures": ("amd64",), "bundles": {ONE: bundle(ONE)}} | observed)
    decided = decide(cache(status=status), state, NOW).status
    assert decided is not None
    return decided


def condition(status: Status, kind: str) -> tuple[str, str]:
    return next((entry.status, entry.reason) for entry in status.conditions if entry.type == kind)
