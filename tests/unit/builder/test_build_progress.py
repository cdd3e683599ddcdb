"""The progress never goes back and ends at exactly the total."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from imagecache.builder.build_events import Advanced, BuildEvent, LayerPlan, Planned
from imagecache.builder.build_progress import BuildProgress
from imagecache.digest import Digest


def digest(number: int) -> Digest:
    return Digest(f"sha256:{number:064x}")


def plans(sizes: list[tuple[int, bool]]) -> list[LayerPlan]:
    return [LayerPlan(digest(n), size, cached, ("a",)) for n, (size, cached) in enumerate(sizes)]


@given(
    st.lists(st.tuples(st.integers(0, 1000), st.booleans()), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 2000)), max_size=40),
)
def test_done_only_grows_and_reaches_the_total(
    sizes: list[tuple[int, bool]], steps: list[tuple[int, bool, int]]
) -> None:
    events: list[BuildEvent] = []
    progress = BuildProgress(events.append)
    progress.plan(plans(sizes))
    for layer, download, size in steps:
        if layer < len(sizes):
            (progress.downloaded if download else progress.converted)(digest(layer), size)
    for layer in range(len(sizes)):
        progress.finished(digest(layer))
    done = [event.done for event in events if isinstance(event, Planned | Advanced)]
    assert done == sorted(done)
    assert done[-1] == progress.total == 2 * sum(size for size, _cached in sizes)


def test_a_cached_layer_counts_as_done_at_once() -> None:
    events: list[BuildEvent] = []
    BuildProgress(events.append).plan(plans([(10, True), (30, False)]))
    assert events == [Planned(layers=tuple(plans([(10, True), (30, False)])), done=20, total=80)]


def test_a_download_that_starts_again_does_not_count_back() -> None:
    events: list[BuildEvent] = []
    progress = BuildProgress(events.append)
    progress.plan(plans([(100, False)]))
    progress.downloaded(digest(0), 60)
    progress.downloaded(digest(0), 10)
    assert progress.done == 60
    progress.downloaded(digest(0), 70)
    assert progress.done == 70
