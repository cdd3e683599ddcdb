from __future__ import annotations

import json

import pytest

from imagecache.api import ids
from imagecache.controller.node_caches import NodeCaches
from imagecache.errors import StoreBusy
from imagecache.kube.api import Change, ChangeKind, Object
from imagecache.kube.resources import IMAGE_CACHES, NODES, Resource

UID = "11111111-2222-3333-4444-555555555555"
BUNDLE, UPDATED = ids.derived_cache_id(UID), ids.derived_cache_id(UID, "before")


@pytest.fixture
def caches() -> NodeCaches:
    found = NodeCaches()
    tell(found, NODES, {"name": "gpu", "labels": {"pool": "gpu"}})
    tell(found, NODES, {"name": "cpu", "labels": {"pool": "cpu"}})
    tell(found, IMAGE_CACHES, cache("pool=gpu"))
    found.known = True
    return found


def cache(selector: str) -> dict[str, object]:
    return {"name": "a", "uid": UID, "annotations": {"imagecache.dev/node-selector": selector}}


def tell(
    caches: NodeCaches, resource: Resource, metadata: dict[str, object], kind: ChangeKind = ChangeKind.MODIFIED
) -> None:
    item: Object = json.loads(json.dumps({"metadata": metadata}))
    caches.take(resource, Change(kind, item))


@pytest.mark.parametrize("bundle", [BUNDLE, UPDATED])
def test_a_cache_and_all_its_bundles_are_for_the_nodes_that_it_selects(caches: NodeCaches, bundle: str) -> None:
    assert caches.has("gpu", bundle)
    assert not caches.has("cpu", bundle)
    assert not caches.has("nobody", bundle)
    assert not caches.has("gpu", ids.derived_cache_id("another"))


def test_it_follows_both(caches: NodeCaches) -> None:
    tell(caches, IMAGE_CACHES, cache(""))
    assert caches.has("cpu", BUNDLE), "without a selector it is for all"
    tell(caches, NODES, {"name": "cpu"}, ChangeKind.DELETED)
    assert not caches.has("cpu", BUNDLE)
    tell(caches, IMAGE_CACHES, cache("pool in ("))
    assert not caches.has("gpu", BUNDLE), "nobody knows for which nodes"
    tell(caches, IMAGE_CACHES, cache(""))
    tell(caches, IMAGE_CACHES, cache(""), ChangeKind.DELETED)
    assert not caches.has("gpu", BUNDLE)


def test_before_all_are_known_nobody_is_told_anything(caches: NodeCaches) -> None:
    caches.forget()

    with pytest.raises(StoreBusy):
        caches.has("gpu", BUNDLE)
