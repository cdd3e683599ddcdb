"""The digest of the bundle document in the status: nodes believe nothing else, so the controller keeps it right."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
import pytest

from imagecache.api.own_status import own
from imagecache.api.types import Phase, Status
from imagecache.controller.decision import DeleteBundle, Ended, StartBuild, StopBuild
from imagecache.store.bundle_document import digest_of
from tests.unit.controller.situations import (
    HAS_ONE,
    NOW,
    ONE,
    TWO,
    UID,
    A,
    bundle,
    condition,
    creating,
    look,
    ready,
    request,
    settled,
)

DIGEST = str(digest_of(bundle(ONE)))
OTHER = bundle(ONE, created=NOW - dt.timedelta(hours=1))
"""The same images, built at another time: another document."""


def decided(status: Status | None, **observed: Any) -> Status:
    found = look(A.with_status(status), **observed).status
    assert found is not None
    return found


def test_id_and_digest_are_written_together() -> None:
    assert creating().bundle_digest == ""

    found = decided(creating(), **HAS_ONE, build=Ended(request(ONE, A)))

    assert (found.phase, found.image_cache_id, found.bundle_digest) == (Phase.READY, ONE, DIGEST)


def test_what_is_private_is_in_the_status_too() -> None:
    document = bundle(ONE)
    image = msgspec.structs.replace(document.images[0], private=True)

    found = decided(creating(), bundles={ONE: msgspec.structs.replace(document, images=(image,))})

    assert [each.private for each in found.images] == [True]


def test_a_digest_that_somebody_has_taken_out_is_written_again() -> None:
    taken = msgspec.structs.replace(settled(ready()), bundle_digest="")

    assert decided(taken, **HAS_ONE).bundle_digest == DIGEST


def test_a_store_with_another_document_under_the_id_that_serves() -> None:
    """Nodes refuse it and keep what they have; what is built instead has an id of its own."""
    decision = look(A.with_status(settled(ready())), bundles={ONE: OTHER})

    assert decision.status is not None
    assert (decision.status.phase, decision.status.bundle_digest) == (Phase.UPDATING, DIGEST)
    assert decision.status.image_cache_id == ONE
    assert condition(decision.status, "Serving") == ("False", "BundleLost")
    (start,) = [action for action in decision.actions if isinstance(action, StartBuild)]
    assert start.request.bundle_id == TWO
    assert "another bundle of its id" in decision.status.events[-1].message


def test_and_then_the_new_one_serves_under_its_own_digest() -> None:
    begun = decided(settled(ready()), bundles={ONE: OTHER})
    made = bundle(TWO)

    decision = look(A.with_status(begun), bundles={ONE: OTHER, TWO: made}, build=Ended(request(TWO, A)))

    assert decision.status is not None
    assert (decision.status.image_cache_id, decision.status.bundle_digest) == (TWO, str(digest_of(made)))
    assert decision.actions == (StopBuild(), DeleteBundle(ONE))


@pytest.mark.parametrize("digest", ["sha256:1", "md5:" + "0" * 32, "../../etc", " " + DIGEST])
def test_a_status_with_a_digest_that_is_none_is_not_ours(digest: str) -> None:
    assert own(settled(ready()), UID) is not None
    assert own(msgspec.structs.replace(settled(ready()), bundle_digest=digest), UID) is None
