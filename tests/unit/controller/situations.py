"""Caches, bundles, statuses and nodes, and one situation with what follows from it, for the tables of decisions."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from imagecache.api import building, events, phases, times
from imagecache.api.building import BuildRequest
from imagecache.api.effective_spec import effective_spec
from imagecache.api.ids import derived_cache_id
from imagecache.api.nodes import FINALIZER, CacheState, NodeCache, NodeStatus, NodeView
from imagecache.api.types import API_VERSION, KIND, Attempt, ImageCache, Metadata, Phase, Spec, Status
from imagecache.controller.decide import decide
from imagecache.controller.decision import Action, Decision, ObservedState, StartBuild
from imagecache.errors import (
    AccessDenied,
    ImageCacheError,
    ImageNotFound,
    ImageTooLarge,
    InvalidManifest,
    PullSecretUnavailable,
    RegistryUnavailable,
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
ONE = derived_cache_id(UID)
TWO = derived_cache_id(UID, ONE)
THREE = derived_cache_id(UID, TWO)
"""Ids of the object's bundles, one after another."""
NGINX, REDIS = "nginx:1.25", "redis:7"


def cache(
    *images: str,
    generation: int = 1,
    status: Status | None = None,
    secrets: tuple[str, ...] = (),
    days: int | None = None,
    **metadata: Any,
) -> ImageCache:
    """An object that the controller has seen before, unless ``finalizers`` say otherwise."""
    fields: dict[str, Any] = {"finalizers": (FINALIZER,), "uid": UID, "generation": generation} | metadata
    return ImageCache(
        api_version=API_VERSION,
        kind=KIND,
        metadata=Metadata(name="a", **fields),
        spec=Spec(images=images or (NGINX,), image_pull_secrets=secrets, retention_days=days),
        status=status,
    )


SECRETS = ("default:s",)
"""Of a cache whose registry wants a credential."""
A = cache()
EDITED = cache(REDIS, generation=2)
FOR_SECRETS = cache(secrets=SECRETS)


def bundle(
    bundle_id: str,
    *images: str,
    architectures: Sequence[str] = ("amd64",),
    notes: tuple[str, ...] = (),
    revision: str = "",
    created: dt.datetime = NOW,
) -> Bundle:
    records = [image_record(image, IMAGES.get(image.strip(), ("base",))) for image in images or (NGINX,)]
    platforms = tuple(Platform(os="linux", architecture=each) for each in architectures)
    records = [msgspec.structs.replace(record, platform=each, notes=notes) for record in records for each in platforms]
    return Bundle(
        id=bundle_id,
        created=times.render(created),
        platforms=platforms,
        images=tuple(records),
        revision=revision,
    )


def request(bundle_id: str, of: ImageCache) -> BuildRequest:
    return building.request(bundle_id, effective_spec(of, architectures=("amd64",)))


HAS_ONE: dict[str, Any] = {"bundles": {ONE: bundle(ONE)}}
BUILD_ONE = StartBuild(request(ONE, A))
BUILD_TWO = StartBuild(request(TWO, EDITED))


def tried(of: ImageCache = A, bundle_id: str = ONE, **more: Any) -> Attempt:
    """An attempt at what the object asks for."""
    wanted = building.wanted(effective_spec(of, architectures=("amd64",)))
    return Attempt(image_cache_id=bundle_id, wanted=wanted, **more)


def pending(generation: int = 1, bundle_id: str = ONE, of: ImageCache = A, **attempt: Any) -> Status:
    begun = phases.begin(bundle_id, generation, NOW)
    return phases.started(begun, generation, NOW, attempt=tried(of, bundle_id, **attempt))


def creating(generation: int = 1, of: ImageCache = A, **attempt: Any) -> Status:
    return phases.advance(pending(generation, of=of, **attempt), 60, 100, NOW)


def ready(generation: int = 1, bundle_id: str = ONE, *images: str, retention_days: int | None = None) -> Status:
    return ready_with(bundle(bundle_id, *images), generation, cache(*images), retention_days=retention_days)


def ready_with(
    document: Bundle, generation: int = 1, of: ImageCache = A, *, retention_days: int | None = None
) -> Status:
    """Of a cache that has this very bundle."""
    return building.ready(pending(generation, document.id, of), generation, NOW, document, retention_days)


def waiting(error: ImageCacheError, of: ImageCache = A, **attempt: Any) -> Status:
    message = building.explain(error)
    return phases.waiting(creating(of=of, **attempt), 1, NOW, reason=error.reason, message=message)


def failed(error: ImageCacheError, generation: int = 1, of: ImageCache = A, **attempt: Any) -> Status:
    begun, message = creating(generation, of, **attempt), building.explain(error)
    return phases.failed(begun, generation, NOW, reason=error.reason, message=message)


def updating(generation: int = 2, bundle_id: str = ONE, of: ImageCache = EDITED, **attempt: Any) -> Status:
    begun = phases.update(ready(bundle_id=bundle_id), generation, NOW)
    return phases.started(begun, generation, NOW, attempt=tried(of, TWO, **attempt))


def update_failed(error: ImageCacheError, generation: int = 2, **attempt: Any) -> Status:
    begun, message = updating(generation, **attempt), building.explain(error)
    return phases.failed(begun, generation, NOW, reason=error.reason, message=message)


def node(name: str, state: CacheState, labels: dict[str, str] | None, bundle_id: str = ONE) -> NodeView:
    return NodeView(name, labels, NodeStatus(caches=(NodeCache(name="a", id=bundle_id, state=state),)))


NOT_FOUND = ImageNotFound("no such tag", hint="check the tag", image=NGINX)
REFUSED = Unauthenticated("no credential", image=NGINX)
DENIED = AccessDenied("not allowed", image=NGINX)
TOO_LARGE = ImageTooLarge("the images need 30 GiB", hint="raise imageCacheSize")
AWAY = RegistryUnavailable("no answer", image=NGINX)
NO_SECRET = PullSecretUnavailable("imagePullSecret default:s does not exist", hint="create it")
BUSY = StoreBusy("in use")
DISK = StoreError("the disk is gone")
NONSENSE = InvalidManifest("spec.images: 21 images")
PULLING = events.event("Pulling", "Pulling image", about=NGINX, now=NOW)


def look(of: ImageCache, at: dt.datetime = NOW, **observed: Any) -> Decision:
    return decide(of, ObservedState(**({"architectures": ("amd64",)} | observed)), at)


def settled(status: Status, of: ImageCache = A, **observed: Any) -> Status:
    """The status after a decision that has nothing left to do: counts and columns are in it."""
    decided = look(of.with_status(status), **(HAS_ONE | observed)).status
    assert decided is not None
    return decided


def condition(status: Status, kind: str) -> tuple[str, str]:
    found = phases.condition(status, kind)
    return (found.status, found.reason) if found else ("", "")


@dataclass(frozen=True)
class Case:
    """A cache and what is observed, and what follows: by default, nothing at all."""

    cache: ImageCache
    observed: dict[str, Any] = field(default_factory=dict)
    """Fields of ``ObservedState``."""
    actions: tuple[Action, ...] = ()
    phase: Phase | None = None
    """None: the status is the very same object."""
    id: str = ONE
    events: tuple[str, ...] = ()
    again: float | None = None
    watches: tuple[str, ...] = ()
    problem: ImageCacheError | None = None
    check: Callable[[Status], object] = lambda _status: True
    """What else is true of the status."""
    at: dt.datetime = NOW

    def hold(self) -> None:
        """Decide, and compare."""
        found = look(self.cache, self.at, **self.observed)

        assert found.actions == self.actions
        assert tuple(each.reason for each in found.events) == self.events
        assert (found.again, found.watches) == (self.again, self.watches)
        if self.problem is not None:
            assert found.problem is self.problem
        if self.phase is None:
            assert found.status is self.cache.status
        else:
            assert found.status is not None
            assert (found.status.phase, found.status.image_cache_id) == (self.phase, self.id)
            assert self.check(found.status), found.status
