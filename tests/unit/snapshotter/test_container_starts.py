"""What the snapshotter remembers of containers that start: time by snapshot, the layers below, and for how long."""

from __future__ import annotations

import pytest

from imagecache.digest import DiffID, Digest
from imagecache.snapshotter.container_starts import MOST, ContainerStarts
from imagecache.snapshotter.snapshot import LayerBelow
from testkit.snapshotter import SnapshotterRig

KEY = "k8s.io/7/c1"


@pytest.fixture
def starts() -> ContainerStarts:
    made = ContainerStarts(lambda _: ())
    made.follow("k8s.io")
    return made


def test_prepare_and_mounts_add_up_and_are_given_once(starts: ContainerStarts) -> None:
    starts.answered("Prepare", KEY, "OK", 0.010)
    for seconds in (0.001, 0.002):
        starts.answered("Mounts", KEY, "OK", seconds)
    starts.answered("Stat", KEY, "OK", 1.0)

    found = starts.take("c1")
    assert found is not None
    assert found.key == KEY
    assert found.seconds == pytest.approx(0.013)
    assert starts.take("c1") is None
    starts.answered("Mounts", KEY, "OK", 1.0)
    assert starts.take("c1") is None


@pytest.mark.parametrize(
    ("method", "key", "code"),
    [
        ("Prepare", KEY, "NOT_FOUND"),
        ("View", KEY, "OK"),
        ("Prepare", "default/7/c1", "OK"),
        ("Prepare", "c1", "OK"),
        ("Prepare", "k8s.io/7/extract-1-ab sha256:c1", "OK"),
        ("List", "", "OK"),
    ],
)
def test_what_is_not_remembered(starts: ContainerStarts, method: str, key: str, code: str) -> None:
    starts.answered(method, key, code, 1.0)

    assert starts.take("c1") is None
    assert starts.take(key.rpartition("/")[2]) is None


def test_nothing_is_remembered_before_somebody_asks() -> None:
    starts = ContainerStarts(lambda _: ())
    starts.answered("Prepare", KEY, "OK", 1.0)
    starts.answered("Prepare", "k8s.io/7/extract-1-ab sha256:c1", "OK", 1.0)

    starts.follow("k8s.io")
    assert starts.take("c1") is None
    assert not starts.unpacking


def test_a_snapshot_that_is_removed_is_forgotten(starts: ContainerStarts) -> None:
    starts.answered("Prepare", KEY, "OK", 1.0)
    starts.answered("Remove", KEY, "OK", 1.0)

    assert starts.take("c1") is None


def test_ten_thousand_that_nobody_asks_for_take_no_more_than_the_bound(starts: ContainerStarts) -> None:
    for number in range(10_000):
        starts.answered("Prepare", f"k8s.io/{number}/c{number}", "OK", 1.0)
        starts.answered("Prepare", f"k8s.io/{number}/extract-1-ab sha256:{number}", "OK", 1.0)

    kept = [number for number in range(10_000) if starts.take(f"c{number}") is not None]
    assert kept == list(range(10_000 - MOST, 10_000))
    for number in range(10_000 - MOST, 10_000):
        assert starts.unpacking
        starts.answered("Commit", f"k8s.io/{number}/extract-1-ab sha256:{number}", "OK", 1.0)
    assert not starts.unpacking


@pytest.mark.parametrize("end", ["Commit", "Remove"])
def test_a_layer_is_unpacked_until_its_commit_or_its_removal(starts: ContainerStarts, end: str) -> None:
    key = "k8s.io/9/extract-1-ab sha256:c1"
    starts.answered("Prepare", key, "ALREADY_EXISTS", 1.0)
    assert not starts.unpacking
    starts.answered("Prepare", key, "OK", 1.0)
    assert starts.unpacking

    starts.answered(end, key, "OK", 1.0)

    assert not starts.unpacking


async def test_layers_below_a_container(rig: SnapshotterRig) -> None:
    """Two that are served, one that was pulled later, on top; the container's own snapshot is not among them."""
    image = rig.image("base", "app")
    served = rig.pull(image)
    first = rig.clock.now()
    rig.clock.advance(60)
    chain = str(Digest.sha256(b"a chain"))
    pulled = rig.commit(chain, served[-1])
    later = rig.clock.now()
    rig.clock.advance(60)
    key = rig.key("c1")
    rig.snapshotter.prepare(key, pulled)
    starts = ContainerStarts(rig.snapshotter.below)

    assert await starts.layers(key) == (
        LayerBelow(chain, served=False, created=later),
        LayerBelow(image[1].chain_id, served=True, created=first),
        LayerBelow(image[0].chain_id, served=True, created=first),
    )
    assert await starts.layers(rig.key("c2")) == ()
    assert await starts.layers(served[0]) == ()


async def test_a_pulled_layer_stays_pulled_when_the_store_gets_it_later(rig: SnapshotterRig) -> None:
    """Its snapshot has the content, and so have the containers on it."""
    layer = DiffID(Digest.sha256(b"base"))
    name = rig.commit(layer)
    rig.layers.add(layer)
    key = rig.key("c1")
    rig.snapshotter.prepare(key, name)

    (found,) = rig.snapshotter.below(key)
    assert (found.chain, found.served) == (layer, False)
