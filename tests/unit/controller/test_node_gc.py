"""Leases of nodes that are gone, in a store that nodes share."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagecache.api.nodes import HOST, holder
from imagecache.controller.node_gc import MARK, NodeGarbageCollector
from imagecache.digest import Digest
from imagecache.store.layer_name import LayerName, Space
from imagecache.store.store import Store
from testkit.clock import FakeClock

ONE, TWO = (LayerName(space=Space.LAYERS, digest=Digest.sha256(text)) for text in (b"1", b"2"))
LONG = "n" * 200


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["in-the-store", "elsewhere"])
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> Store:
    """Of nodes ``a``, ``a-b`` and one with a long name, which write into the store or elsewhere."""
    leases = tmp_path / "leases" if request.param == "elsewhere" else None
    found = Store.open(tmp_path / "store", clock, leases=leases)
    for node in ("a", "a-b", LONG):
        (found.paths.nodes / node).mkdir(parents=True)
        (found.paths.nodes / node / "imc-1.json").touch()
        found.leases.lease(holder(node, "snapshotter-1"), ONE)
        found.leases.lease(holder(node, "native-1"), TWO)
    return found


@pytest.fixture
def node_gc(store: Store, clock: FakeClock) -> NodeGarbageCollector:
    return NodeGarbageCollector(store, clock)


def nodes_that_hold(store: Store) -> set[str]:
    return {name.partition("_")[0] for name in store.leases.holders()}


def test_what_a_node_held_is_let_go_a_day_after_it_went(
    node_gc: NodeGarbageCollector, store: Store, clock: FakeClock
) -> None:
    assert node_gc.release({"a-b", LONG}) == ()
    clock.advance(hours=23)
    assert node_gc.release({"a-b", LONG}) == ()
    assert store.leases.of(holder("a", "native-1")) == {TWO}
    clock.advance(hours=1)

    assert node_gc.release({"a-b", LONG}) == ("a",)

    assert "a" not in nodes_that_hold(store)
    assert len(nodes_that_hold(store)) == 2
    assert not (store.paths.nodes / "a").exists()
    assert node_gc.release({"a-b", LONG}) == ()


def test_a_long_name_is_known_again(node_gc: NodeGarbageCollector, store: Store, clock: FakeClock) -> None:
    node_gc.release({"a", "a-b"})
    clock.advance(days=1)

    assert node_gc.release({"a", "a-b"}) == (LONG,)
    assert nodes_that_hold(store) == {"a", "a-b"}


def test_the_day_begins_anew_when_the_node_came_back(
    node_gc: NodeGarbageCollector, store: Store, clock: FakeClock
) -> None:
    node_gc.release({"a-b", LONG})
    clock.advance(hours=20)
    node_gc.release({"a", "a-b", LONG})
    clock.advance(hours=20)
    node_gc.release({"a-b", LONG})
    clock.advance(hours=20)

    assert node_gc.release({"a-b", LONG}) == ()
    assert len(nodes_that_hold(store)) == 3


@pytest.mark.parametrize("text", ["", "yesterday", "2999-01-01T00:00:00+00:00"])
def test_a_mark_that_says_nothing_is_made_anew(
    node_gc: NodeGarbageCollector, store: Store, clock: FakeClock, text: str
) -> None:
    (store.paths.nodes / "a" / MARK).write_text(text)
    assert node_gc.release({"a-b", LONG}) == ()
    clock.advance(days=1)

    assert node_gc.release({"a-b", LONG}) == ("a",)


def test_nodes_with_stores_of_their_own_leave_nothing(tmp_path: Path, clock: FakeClock) -> None:
    assert NodeGarbageCollector(Store.open(tmp_path / "another", clock), clock).release(()) == ()


def test_a_host_is_no_node_that_was_deleted(node_gc: NodeGarbageCollector, store: Store, clock: FakeClock) -> None:
    """In whose store a cluster's controller works, beside ``imagecache create``."""
    (store.paths.nodes / HOST).mkdir()
    for _ in range(2):
        assert HOST not in node_gc.release({"a", "a-b", LONG})
        clock.advance(days=2)

    assert (store.paths.nodes / HOST).is_dir()
