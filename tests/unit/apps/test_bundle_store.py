"""The bundles of a store by the object that they belong to."""

from __future__ import annotations

from pathlib import Path

from imagecache.api.ids import derived_cache_id, owner
from imagecache.apps.bundle_store import LocalBundles
from imagecache.controller.quota import Stored
from imagecache.digest import DiffID, Digest
from imagecache.store.store import Store
from testkit.store import put_bundle


def diff_id(name: bytes) -> DiffID:
    return DiffID(Digest.sha256(name))


def sizes(bundles: LocalBundles) -> dict[str, list[int]]:
    return {name: sorted(layers.values()) for name, layers in bundles.layers().items()}


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


def test_the_layers_of_each_bundle_follow_the_index(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    bundles = LocalBundles(store)
    assert bundles.layers() == {}
    shared, own = diff_id(b"shared"), diff_id(b"own")
    put_bundle(store, "imc-" + "a" * 20, [shared], [b"x" * 100])
    put_bundle(store, "imc-" + "b" * 20, [shared, own], [b"x" * 100, b"y" * 30])
    assert sizes(bundles) == {"imc-" + "a" * 20: [100], "imc-" + "b" * 20: [30, 100]}
    assert Stored(bundles.layers()).size == 130, "each counts once"
    assert bundles.layers() is bundles.layers()

    bundles.delete("imc-" + "b" * 20)
    assert sizes(bundles) == {"imc-" + "a" * 20: [100]}
    bundles.delete("imc-" + "a" * 20)
    assert bundles.layers() == {}


def test_a_damaged_bundle_does_not_hide_the_layers_of_others(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    for name in "ab":
        put_bundle(store, f"imc-{name * 20}", [diff_id(name.encode())], [b"x" * 100])
    entry = store.bundles.index().manifests[0]
    store.paths.blob(entry.digest).unlink()

    assert sorted(sizes(LocalBundles(store)).values()) == [[], [100]]
