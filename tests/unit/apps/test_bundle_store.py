"""The bundles of a store by the object that they belong to."""

from __future__ import annotations

from pathlib import Path

from imagecache.api.ids import derived_cache_id, owner
from imagecache.apps.bundle_store import LocalBundles
from imagecache.store.store import Store
from testkit.store import put_bundle


def test_each_object_has_its_own(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    bundles = LocalBundles(store)
    assert list(bundles.ids(owner("a"))) == []
    first = derived_cache_id("a")
    second, other = derived_cache_id("a", first), derived_cache_id("b")
    for name in (first, other, second):
        put_bundle(store, name, [], [])

    assert list(bundles.ids(owner("a"))) == [first, second]
    assert list(bundles.ids(owner("b"))) == [other]
    bundles.delete(first)
    assert list(bundles.ids(owner("a"))) == [second]
    assert list(bundles.ids(owner("c"))) == []
