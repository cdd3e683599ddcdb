"""What a pod's start took: which layers count as what, the text, the event, and how long others are waited for."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

import pytest

from imagecache.agent.pod_starts import Patience, Start, Waiting, event, facts, fresh, start, text
from imagecache.containerd.pod_containers import PodRef
from imagecache.limits import MIB
from imagecache.snapshotter.snapshot import LayerBelow
from testkit.clock import START

POD = PodRef("team", "web-0", "uid-1")
SANDBOX = START
BEFORE, AFTER = SANDBOX - dt.timedelta(hours=1), SANDBOX + dt.timedelta(seconds=3)


def layers(served: int, others: int = 0, *, created: dt.datetime = BEFORE) -> list[LayerBelow]:
    """Bottom first: those that layer images serve, then others of this age."""
    return [LayerBelow(f"chain-{number}", number < served, created) for number in range(served + others)]


def told(known: list[LayerBelow], sizes: Mapping[str, int] | None = None, seconds: float | None = 0.041) -> str:
    pulled = {chain: (sizes or {}).get(chain) for chain in fresh(known, SANDBOX)}
    return text(facts(start(known, pulled, seconds)))


def test_all_are_served() -> None:
    assert told(layers(8)) == "8/8 layers from cache, 0 B pulled, 41 ms"


def test_all_were_pulled_before_the_cache_came() -> None:
    known = layers(0, 8)

    assert fresh(known, SANDBOX) == frozenset()
    assert told(known) == "0/8 layers from cache, 0 B pulled, 41 ms"


def test_half_of_them_are_pulled_for_the_pod() -> None:
    known = layers(2, 2, created=AFTER)

    assert told(known, {"chain-2": 3 * MIB, "chain-3": 400 * MIB}) == "2/4 layers from cache, 403 MiB pulled, 41 ms"


def test_a_layer_of_the_moment_in_which_the_sandbox_was_made_is_pulled_for_the_pod() -> None:
    assert fresh(layers(0, 1, created=SANDBOX), SANDBOX) == {"chain-0"}


def test_what_is_served_was_not_pulled_however_new_it_is() -> None:
    assert fresh(layers(2, created=AFTER), SANDBOX) == frozenset()


@pytest.mark.parametrize(("size", "shown"), [(0, "0 B"), (999, "999 B"), (1536, "1.5 KiB"), (245 * MIB, "245 MiB")])
def test_bytes_have_the_units_of_the_columns(size: int, shown: str) -> None:
    assert told(layers(1, 1, created=AFTER), {"chain-1": size}) == f"1/2 layers from cache, {shown} pulled, 41 ms"


def test_sizes_that_nobody_knows_are_not_made_up() -> None:
    known = layers(1, 2, created=AFTER)

    assert told(known, {"chain-1": MIB}) == "1/3 layers from cache, 2 layers pulled, 41 ms"
    assert facts(start(known, {"chain-1": MIB, "chain-2": None}, None)).pulled_bytes is None


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.0, ", 0.0 ms"), (0.0017, ", 1.7 ms"), (0.041, ", 41 ms"), (2.5, ", 2500 ms"), (None, "")]
)
def test_time(seconds: float | None, shown: str) -> None:
    assert told(layers(1), seconds=seconds) == f"1/1 layers from cache, 0 B pulled{shown}"


def test_a_layer_of_two_containers_counts_once_and_their_times_add_up() -> None:
    one = start(layers(4), {}, 0.010)
    two = start(layers(2, 3, created=AFTER), {"chain-2": MIB, "chain-3": MIB, "chain-4": MIB}, 0.020)
    native = start([LayerBelow("chain-0", served=True, created=BEFORE)], {}, None)

    found = facts(one.plus(two).plus(one).plus(native))

    # chain-2 and chain-3 are there twice: in a snapshotter that serves them, and in one that does not
    assert (found.layers, found.served, found.pulled, found.pulled_bytes) == (7, 4, 3, 3 * MIB)
    assert found.present == 0
    assert found.seconds == pytest.approx(0.040)
    assert facts(native.plus(native)).seconds is None


def test_the_event() -> None:
    item = event(POD, facts(start(layers(8), {}, 0.041)), "node-1", START)

    metadata = item.pop("metadata")
    assert isinstance(metadata, dict)
    assert metadata == {"name": metadata["name"], "namespace": "team"}
    assert item == {
        "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": "team", "name": "web-0", "uid": "uid-1"},
        "type": "Normal",
        "reason": "ImageCacheServed",
        "message": "8/8 layers from cache, 0 B pulled, 41 ms",
        "count": 1,
        "firstTimestamp": "2024-05-01T12:00:00Z",
        "lastTimestamp": "2024-05-01T12:00:00Z",
        "source": {"component": "imagecache-agent", "host": "node-1"},
    }


def name_of(pod: PodRef) -> str:
    metadata = event(pod, facts(Start()), "node-1", START)["metadata"]
    assert isinstance(metadata, dict)
    return str(metadata["name"])


def test_its_name_follows_from_the_pod_alone() -> None:
    mark = name_of(POD).removeprefix("web-0.")

    assert len(mark) == 16
    assert name_of(POD) == name_of(PodRef("team", "web-0", "uid-1"))
    assert name_of(PodRef("team", "web-0", "uid-2")) != name_of(POD), "a pod of the same name that came later"
    long = name_of(PodRef("team", "a" * 229 + "-" + "b" * 23, "uid-1"))
    assert long == f"{'a' * 229}.{mark}"
    assert len(name_of(PodRef("team", "a" * 253, "uid-1"))) <= 253


# waiting for others

PATIENCE = Patience(quiet=5, longest=120, most=3)
ONE = Start(served=frozenset({"a"}))
TWO = Start(others=frozenset({"b"}))


def test_a_pod_is_told_when_no_other_container_has_come_for_a_while() -> None:
    waiting = Waiting(PATIENCE)
    waiting.add(POD, ONE, 0)
    waiting.add(POD, TWO, 4)

    assert waiting.take(8.9, pulling=False) == []
    ((pod, found),) = waiting.take(9, pulling=False)
    assert (pod, found.layers, found.served) == (POD, 2, 1)
    assert waiting.take(1000, pulling=False) == []
    assert len(waiting) == 0


def test_while_a_layer_is_pulled_the_next_container_may_come_but_not_for_ever() -> None:
    waiting = Waiting(PATIENCE)
    waiting.add(POD, ONE, 0)

    assert waiting.take(119, pulling=True) == []
    assert [pod for pod, _ in waiting.take(120, pulling=True)] == [POD]


def test_containers_that_come_without_end_do_not_hold_it_up_for_ever() -> None:
    waiting = Waiting(PATIENCE)
    for second in range(121):
        waiting.add(POD, ONE, second)

    assert [pod for pod, _ in waiting.take(120, pulling=False)] == [POD]


def test_too_many_pods_push_the_oldest_out() -> None:
    waiting = Waiting(PATIENCE)
    pods = [PodRef("team", f"web-{number}", f"uid-{number}") for number in range(4)]

    assert [waiting.add(pod, ONE, 0) for pod in pods] == [True, True, True, False]
    assert [pod for pod, _ in waiting.take(5, pulling=False)] == pods[1:]


def test_ten_thousand_pods_at_once_take_no_more_than_the_bound() -> None:
    waiting = Waiting()
    for number in range(10_000):
        waiting.add(PodRef("team", f"web-{number}", f"uid-{number}"), ONE, number / 1000)

    assert len(waiting) == Patience().most
