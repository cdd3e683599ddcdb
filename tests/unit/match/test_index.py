"""The index of caches: built from documents and reports, and cheap."""

from __future__ import annotations

import datetime as dt
import time

import msgspec

from imagecache.api import ids, phases
from imagecache.api.nodes import CacheState, NodeCache, NodeStatus, NodeView
from imagecache.api.types import Attempt, ImageCache, Metadata, NodeCounts, Phase, Spec, Status, StatusImage
from imagecache.match.index import Index, usable, view
from imagecache.match.keys import CREATE
from imagecache.match.verdict import match
from imagecache.match.views import Defaults
from tests.unit.match.situations import DIGEST, NGINX, NOW, OTHER_DIGEST, cache, pod

UID = "3f0c8b4e"
ID = ids.derived_cache_id(UID)
LATER = ids.derived_cache_id(UID, ID)
BUILT = (
    StatusImage(image=NGINX, platform="linux/amd64", digest=DIGEST),
    StatusImage(image=NGINX, platform="linux/arm64/v8", digest=OTHER_DIGEST),
)
READY = msgspec.structs.replace(
    phases.ready(phases.begin(ID, 1, NOW), 1, NOW, images=BUILT, size=7, retention_days=None),
    attempt=Attempt(image_cache_id=LATER),
    nodes=NodeCounts(desired=3, ready=1),
)


def document(status: Status | None, *, created: str = "2025-12-31T12:00:00Z", deleted: str = "") -> ImageCache:
    metadata = Metadata(name="a", uid=UID, creation_timestamp=created, deletion_timestamp=deleted)
    spec = Spec(images=(NGINX, "redis:7"))
    return ImageCache(api_version="v1", kind="ImageCache", metadata=metadata, spec=spec, status=status)


def report(node: str, cache_id: str, state: CacheState = CacheState.READY) -> NodeView:
    return NodeView(node, {}, NodeStatus(caches=(NodeCache(name="a", id=cache_id, state=state),)))


def test_a_view_has_what_the_document_and_the_nodes_say() -> None:
    nodes = [report("n1", ID), report("n2", LATER), report("n3", ID, CacheState.FETCHING), report("n4", ID)]

    found = view(document(READY), usable(nodes))

    assert (found.name, found.uid, found.id, found.phase) == ("a", UID, ID, Phase.READY)
    assert found.images == (NGINX, "redis:7")
    assert found.digests == {NGINX: frozenset({DIGEST, OTHER_DIGEST})}
    assert found.architectures == frozenset({"amd64", "arm64"})
    assert (found.size, found.desired, found.nodes) == (7, 3, frozenset({"n1", "n4"}))
    assert found.created == NOW - dt.timedelta(days=1)
    assert found.ready_since == NOW
    assert found.serves
    assert not found.deleted


def test_a_cache_that_nobody_has_looked_at_is_pending() -> None:
    found = view(document(None, created=""))

    assert (found.id, found.phase, found.serves, found.ready_since) == ("", Phase.PENDING, False, None)
    assert found.created.year == 1970


def test_one_that_is_updated_is_not_ready_and_one_that_is_deleted_does_not_serve() -> None:
    updating = view(document(phases.update(READY, 2, NOW)))
    deleted = view(document(READY, deleted="2026-01-01T00:00:00Z"))

    assert (updating.serves, updating.ready_since, updating.id) == (True, None, ID)
    assert (deleted.serves, deleted.deleted) == (False, True)


def test_a_pin_finds_a_cache_before_its_first_status_and_while_it_builds_the_next() -> None:
    index = Index([view(document(None))])
    serving = Index([view(document(READY))])

    assert [found.name if (found := index.pinned(text)) else "" for text in (ID, LATER, "a", "b")] == [
        "a",
        "a",
        "a",
        "",
    ]
    assert [found.id if (found := serving.pinned(text)) else "" for text in (ID, LATER, "a")] == [ID, ID, ID]


def test_an_id_of_another_object_is_none() -> None:
    index = Index([cache("a", NGINX)])

    assert index.pinned(ids.derived_cache_id("another")) is None
    assert index.pinned(ids.owner("uid-of-a")) is None, "it is not a whole id"


def test_the_same_in_any_order_of_the_caches() -> None:
    caches = [cache("a", NGINX), cache("b", NGINX), cache("c", "nginx:1")]

    assert list(Index(caches).caches) == list(Index(reversed(caches)).caches)
    assert Index(caches).exact(NGINX) == Index(reversed(caches)).exact(NGINX) == ["a", "b"]
    assert Index(caches).related(NGINX) == ["a", "b", "c"]


def test_a_thousand_caches_of_five_images_cost_little() -> None:
    """It is built after every change, and asked for every pod: bounds that a machine under load keeps too."""
    caches = [
        cache(f"c{n}", *(f"registry.example.com/team/app{n % 200}:{n}.{i}" for i in range(5))) for n in range(1000)
    ]
    Index(caches)  # the names are parsed once
    asking = pod(*caches[7].images, asks={CREATE: "true"})

    started = time.perf_counter()
    index = Index(caches)
    built = time.perf_counter()
    for _ in range(50):
        match(asking, Defaults(), index)
    asked = (time.perf_counter() - built) / 50

    assert built - started < 0.5
    assert asked < 0.02
