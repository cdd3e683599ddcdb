"""Which bundle of an object is meant: the one that is what it asks for, or the id of one that is to be made. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from imagecache.api import assignment, building, ids
from imagecache.api.effective_spec import EffectiveSpec
from imagecache.api.types import Attempt, Status
from imagecache.store.bundle_document import Bundle, digest_of


def find(status: Status, bundles: Mapping[str, Bundle], spec: EffectiveSpec) -> Bundle | None:
    """A bundle that is what the spec asks for, and before any other the one that serves.

    Not that one while it is overdue: what replaces it differs in nothing but its age.
    """
    names = sorted(bundles, key=lambda name: (name != status.image_cache_id, name))
    serves = status.image_cache_id if status.phase in assignment.SERVING else ""
    fitting = (bundles[name] for name in names if not building.difference(bundles[name], spec))
    return next((each for each in fitting if each.id != serves or not building.overdue(each, spec)), None)


def believed(status: Status, bundles: Mapping[str, Bundle]) -> dict[str, Bundle]:
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
