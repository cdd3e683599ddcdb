"""Which bundle of an object is meant: the one that is what it asks for, or the id of one that is to be made. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping

from msgspec.structs import replace

from imagecache.api import assignment, building, ids, phases
from imagecache.api.effective_spec import EffectiveSpec
from imagecache.api.types import Attempt, ImageCache, Phase, Status
from imagecache.store.bundle_document import Bundle, digest_of


def believed(cache: ImageCache, bundles: Mapping[str, Bundle], now: dt.datetime, built: str = "") -> Status:
    """The status as far as it can be believed, or that of a new object. ``built``: the id that a build is for.

    The store had no bundle of that id when the build began, so a digest that the status has of one is an earlier one's.
    While it is updated, and after an update that failed, an object serves a bundle that the store has: somebody else
    may have written the id of another one. What the update itself has made is not that.
    """
    if cache.status is None:
        return phases.begin(ids.derived_cache_id(cache.metadata.uid), cache.metadata.generation, now)
    status = phases.not_later(cache.status, now, created=cache.metadata.creation_timestamp)
    if built and built == status.image_cache_id and status.bundle_digest:
        status = replace(status, bundle_digest="")
    if status.phase not in {Phase.UPDATING, Phase.UPDATE_FAILED} or status.image_cache_id in bundles:
        return status
    made = status.attempt.image_cache_id if status.attempt is not None else ""
    others = [each for each in bundles.values() if each.id != made]
    newest = max(others, key=lambda each: (each.created, each.id), default=None)
    if newest is None:
        return status
    return replace(status, image_cache_id=newest.id, bundle_digest=digest_of(newest))


def find(status: Status, bundles: Mapping[str, Bundle], spec: EffectiveSpec) -> Bundle | None:
    """A bundle that is what the spec asks for, and before any other the one that serves.

    Not that one while it is overdue: what replaces it differs in nothing but its age.
    """
    names = sorted(bundles, key=lambda name: (name != status.image_cache_id, name))
    serves = status.image_cache_id if status.phase in assignment.SERVING else ""
    fitting = (bundles[name] for name in names if not building.difference(bundles[name], spec))
    return next((each for each in fitting if each.id != serves or not building.overdue(each, spec)), None)


def genuine(status: Status, bundles: Mapping[str, Bundle]) -> dict[str, Bundle]:
    """The bundles without one that has the id of the one that serves and another document: nodes refuse it."""
    digest = status.bundle_digest
    return {
        name: each
        for name, each in bundles.items()
        if name != status.image_cache_id or not digest or digest_of(each) == digest
    }


def another(uid: str, attempt: Attempt, taken: Collection[str]) -> str:
    """The id of the bundle that an update makes: not one that a node may have with another content."""
    name = ids.derived_cache_id(uid, attempt.image_cache_id)
    while name in taken:
        name = ids.derived_cache_id(uid, name)
    return name
