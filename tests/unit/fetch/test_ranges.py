"""Which ranges of a layer image are requested, in which order."""

from __future__ import annotations

from imagecache.fetch.ranges import Piece, Range, Ranges


def arrived(wanted: Range, count: int, size: int | None = None) -> Piece:
    return Piece(wanted.start, memoryview(bytes(count)), 0, here=False, size=size)


def test_with_a_known_end_all_ranges_are_known() -> None:
    ranges = Ranges(100, 0, 250)

    assert [ranges.next() for _ in range(4)] == [
        Range(0, 100, 0, here=False, block=0),
        Range(100, 200, 1, here=False, block=1),
        Range(200, 250, 2, here=False),
        None,
    ]


def test_what_is_here_is_not_requested_and_the_rest_is_aligned() -> None:
    ranges = Ranges(100, 0, 250, here=130)

    assert [ranges.next() for _ in range(5)] == [
        Range(0, 100, 0, here=True),
        Range(100, 130, 1, here=True),
        Range(130, 200, 2, here=False),
        Range(200, 250, 3, here=False),
        None,
    ]


def test_without_an_end_the_next_range_begins_where_the_one_before_ended() -> None:
    ranges = Ranges(100, 40, None)
    first = ranges.next()
    assert first == Range(40, 100, 0, here=False)
    assert ranges.next() is None

    ranges.arrived(arrived(first, 30))
    second = ranges.next()
    assert second == Range(70, 100, 1, here=False)

    ranges.arrived(arrived(second, 30, size=120))
    third = ranges.next()
    assert third == Range(100, 120, 2, here=False)

    ranges.arrived(arrived(third, 20, size=120))
    assert ranges.next() is None


def test_a_partial_layer_that_ends_where_a_range_ended() -> None:
    ranges = Ranges(100, 0, None)
    first = ranges.next()
    assert first is not None
    ranges.arrived(arrived(first, 100))
    second = ranges.next()
    assert second is not None

    ranges.arrived(arrived(second, 0, size=100))

    assert ranges.next() is None
